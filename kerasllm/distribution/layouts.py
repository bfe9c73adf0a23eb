"""Where weights go: one map for every model of ours, as their names are uniform.

In each pair of products of a block (query, key and value, then the output; the two of a feed-forward layer) the first
is shared out by its outputs and the second by its inputs, so that devices talk once after both.
Shapes: D d_model, U units, V vocab.
"""

import re

import keras

from kerasllm.distribution.meshes import size_of

# The first that is found in a weight's path says along which axes the dimensions of a matrix are shared out.
_MATRICES = (
    (r"reverse_embeddings$", ("fsdp", "tensor")),  # (D, V)
    (r"token_embedding/embeddings$", ("tensor", "fsdp")),  # (V, D)
    (r"(query|key|value|query_key_value|key_value|inner)/kernel$", ("fsdp", "tensor")),  # (D, U)
    (r"(attention/output|outer)/kernel$", ("tensor", "fsdp")),  # (U, D)
    (r"(inner|outer)_kernels$", ("expert", "tensor", "fsdp")),  # (E, D, U)
    (r"(inner|outer)_biases$", ("expert", None)),  # (E, U)
)
_SPLIT_BIASES = re.compile(r"(query|key|value|query_key_value|key_value|inner)/bias$")


class Layout(keras.distribution.TensorLayout):
    """A layout, a dimension of which may be shared out along several axes of a mesh."""

    def _validate_axes(self):
        """That the axes are the mesh's, each of them once: here they always are."""


def layout_map(model, mesh):
    """Where each weight of a model goes.

    Matrices of attention and feed-forward layers and tables of embeddings are shared out along "fsdp" and "tensor",
    each along one dimension; other matrices along "fsdp", by the longest dimension that can be divided. Vectors are on
    all devices, but for the biases of what is shared out by its outputs. Experts are shared out along "expert". A
    dimension that cannot be divided is not.

    Args:
        model: any built Keras model.
        mesh: from `mesh`, or any `keras.distribution.DeviceMesh` with some of these axes.

    Returns:
        `keras.distribution.LayoutMap` from the paths of weights.

    Example:
        >>> for path, layout in kerasllm.distribution.layout_map(model, mesh).items():
        ...     print(path, layout.axes)
    """
    layouts = keras.distribution.LayoutMap(mesh)
    for weight in model.weights:
        layouts[weight.path] = Layout(axes_of(weight.path, weight.shape, mesh), mesh)
    return layouts


def axes_of(path, shape, mesh):
    """The axis of a mesh, or None, along which each dimension of a weight is shared out."""
    if len(shape) == 1 and _SPLIT_BIASES.search(path):
        wanted = ("tensor",)
    elif len(shape) < 2:
        return (None,) * len(shape)
    else:
        wanted = next((axes for pattern, axes in _MATRICES if re.search(pattern, path)), None)
    if wanted is None or len(wanted) != len(shape):
        return _by_longest(shape, mesh)
    return tuple(
        axis if axis and size_of(mesh, axis) > 1 and size % size_of(mesh, axis) == 0 else None
        for axis, size in zip(wanted, shape, strict=True)
    )


def _by_longest(shape, mesh):
    """ "fsdp" for the longest dimension that can be divided."""
    count = size_of(mesh, "fsdp")
    divisible = [place for place, size in enumerate(shape) if count > 1 and size % count == 0]
    longest = max(divisible, key=lambda place: shape[place], default=None)
    return tuple("fsdp" if place == longest else None for place in range(len(shape)))
