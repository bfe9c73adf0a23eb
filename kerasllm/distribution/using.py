"""Models, and what they train on, on a mesh."""

import warnings

import keras

from kerasllm.distribution.layouts import Layout, axes_of
from kerasllm.distribution.meshes import BATCH_AXES, size_of


def use(mesh):
    """Has all models that are made from here on live on a mesh, and `fit` and `evaluate` share out their batches.

    `keras.distribution.set_distribution(None)` ends it, and `with MeshParallel(mesh).scope():` is for a while.

    Args:
        mesh: from `mesh`.

    Returns:
        The `MeshParallel` that Keras has now.

    Example:
        >>> kerasllm.distribution.use(kerasllm.distribution.mesh(fsdp=4, tensor=2))
        >>> model = kerasllm.models.CausalLM(config)  # each device has an eighth of it
        >>> model.compile()
        >>> model.fit(dataset)
    """
    distribution = MeshParallel(mesh)
    keras.distribution.set_distribution(distribution)
    return distribution


class MeshParallel(keras.distribution.ModelParallel):
    """Keras' distribution, that lays out weights as `layout_map` does, as they are made, and states of the optimizer
    as their weights; and the rows of batches along "data", "fsdp" and "expert".

    Args:
        mesh: from `mesh`.

    Attributes:
        batch_axes: tuple of str, the axes along which rows are shared out.
        head_axis: str or None, the axis along which heads of attention are.

    Example:
        >>> with kerasllm.distribution.MeshParallel(mesh).scope():
        ...     model = kerasllm.models.CausalLM(config)
    """

    def __init__(self, mesh):
        self.batch_axes = tuple(axis for axis in BATCH_AXES if size_of(mesh, axis) > 1)
        self.head_axis = "tensor" if size_of(mesh, "tensor") > 1 else None
        super().__init__(layout_map=keras.distribution.LayoutMap(mesh), batch_dim_name=mesh.axis_names[0])

    @property
    def num_model_replicas(self):
        """How many shares a batch has."""
        return size_of(self.device_mesh, *self.batch_axes)

    def distribute_dataset(self, dataset):
        """What this process computes of each batch of a `tf.data.Dataset`: the rows of its devices, in their order, so
        that any number of processes sees the same batches."""
        shares = self._shares
        if shares == 1:
            return dataset

        def share(tensor):
            rows = tensor.shape[0]
            if rows is None or rows % self.num_model_replicas:
                raise ValueError(
                    f"A batch of {rows} rows cannot be shared out to {self.num_model_replicas} devices of "
                    f"{self.num_processes} processes: set a batch size that can be divided."
                )
            size = rows // shares
            return tensor[self.data_shard_id * size : (self.data_shard_id + 1) * size]

        return dataset.map(lambda *batch: keras.tree.map_structure(share, batch))

    @property
    def _shares(self):
        """How many processes have rows of their own."""
        return min(self.num_processes, self.num_model_replicas)

    def get_data_layout(self, data_shape):
        """The layout of a tensor of a batch, of which this process has its share: rows shared out, where their number
        can be divided."""
        axes = [None] * len(data_shape)
        if data_shape and self.batch_axes:
            rows = data_shape[0] * self._shares
            if rows % self.num_model_replicas == 0:
                axes[0] = self.batch_axes
            else:
                warnings.warn(
                    f"A batch of {rows} rows cannot be shared out to {self.num_model_replicas} devices, so each "
                    "computes all of it.",
                    stacklevel=2,
                )
        return Layout(axes, self.device_mesh)

    def get_variable_layout(self, variable):
        """The layout of a variable; one that was given to it before stays."""
        if getattr(variable, "_layout", None) is not None:
            return variable._layout
        return Layout(axes_of(variable.path, variable.shape, self.device_mesh), self.device_mesh)

    def get_tensor_layout(self, path):
        """None: what is computed is laid out by XLA."""
