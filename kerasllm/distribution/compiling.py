"""A training step compiled for TPUs that are not there, by their own compiler."""

import collections
import dataclasses
import importlib.util
import os
import re

from kerasllm import backend
from kerasllm.distribution.layouts import Layout
from kerasllm.distribution.meshes import BATCH_AXES, mesh
from kerasllm.distribution.using import MeshParallel

_COLLECTIVE = re.compile(r" (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """What the compiler says of a step, of each device.

    Attributes:
        devices: int.
        state_bytes: int, of weights, states of the optimizer and the batch.
        temporary_bytes: int, of what a step needs besides: activations, gradients, gathered weights.
        code_bytes: int.
        flops: float, floating point operations; those in a loop, of micro-batches for one, once.
        accessed_bytes: float, to and from memory.
        seconds: float or None, the compiler's own estimate, which counts no waiting; None where it gives none.
        collectives: dict from "all-gather" and its like to how many of them there are in the program.
    """

    devices: int
    state_bytes: int
    temporary_bytes: int
    code_bytes: int
    flops: float
    accessed_bytes: float
    seconds: float | None
    collectives: dict

    @property
    def peak_bytes(self):
        return self.state_bytes + self.temporary_bytes + self.code_bytes


def compile_step(make, batch_size, context, topology, **sizes):
    """Compiles the training step of a model over shapes alone: no weights are made, and no TPU is needed.

    Args:
        make: function without arguments that makes a model from ids (B, T) to logits, and compiles it.
        batch_size: int, rows of a batch on all devices together.
        context: int, tokens in a row.
        topology: str, such as "v5e:4x4", a slice of 16 chips; "v5p:2x2x1", "v6e:2x4".
        **sizes: of the `mesh` over its chips: data, fsdp, tensor, expert.

    Returns:
        A `CompiledStep`.

    Raises:
        ValueError: if the backend is not JAX, the topology is not known, the mesh does not have as many devices, or the
            step does not fit them.
        ImportError: where libtpu is not installed.

    Example:
        >>> def make():
        ...     model = kerasllm.models.CausalLM(config, dtype="mixed_bfloat16")
        ...     model.compile(kerasllm.optimizers.AdamW(1e-3))
        ...     return model
        >>> kerasllm.distribution.compile_step(make, 64, 2048, "v5e:4x4", fsdp=16).peak_bytes
    """
    if not backend.IS_JAX:
        raise ValueError("Steps are compiled for TPUs on the JAX backend: set KERAS_BACKEND=jax.")
    import jax

    on_chips = mesh(**sizes, devices=_chips(topology))
    distribution = MeshParallel(on_chips)
    with distribution.scope():  # so that the optimizer's variables are laid out as their weights
        model = _made_of_shapes(make)

    def of_shape(shape, dtype, axes):
        return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=Layout(axes, on_chips).backend_layout)

    def of_variable(variable):
        return of_shape(variable.shape, variable.dtype, distribution.get_variable_layout(variable).axes)

    optimizer = model.optimizer.variables
    groups = model.trainable_variables, model.non_trainable_variables, optimizer, model.metrics_variables
    state = tuple([of_variable(variable) for variable in group] for group in groups)
    ids, weight = (of_shape((batch_size, context), dtype, (BATCH_AXES, None)) for dtype in ("int32", "float32"))
    with distribution.scope():
        lowered = jax.jit(model.train_step, donate_argnums=0).lower(state, (ids, ids, weight))
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ValueError(f"The step does not fit the chips of {topology}. {str(error).splitlines()[0]}") from error
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    seconds = cost.get("optimal_seconds", -1)
    return CompiledStep(
        devices=on_chips.devices.size,
        state_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
        flops=cost["flops"],
        accessed_bytes=cost["bytes accessed"],
        seconds=seconds if seconds > 0 else None,
        collectives=dict(collections.Counter(_COLLECTIVE.findall(compiled.as_text()))),
    )


def _chips(topology):
    """The devices of a slice of TPUs that is described, and not there."""
    from jax.experimental import topologies

    if importlib.util.find_spec("libtpu") is None:
        raise ImportError("TPUs' compiler is the package libtpu, which is not installed: pip install 'jax[tpu]'.")
    # Else libtpu asks a server of Google's cloud which machine this is.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")  # nor warns that it does not know
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no TPU is held, so that several may compile at a time
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except Exception as error:  # of the library's own kinds
        raise ValueError(f"There is no slice {topology!r} of TPUs; one is such as v5e:4x4. {error}") from error


def _made_of_shapes(make):
    """A model whose variables have shapes, and no values."""
    import jax

    models = []

    def values():
        model = make()
        if not model.built:
            model.build((None, None))
        model.optimizer.build(model.trainable_variables)
        models.append(model)
        return [variable.value for variable in model.variables]

    jax.eval_shape(values)
    return models[0]
