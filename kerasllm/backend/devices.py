"""The devices that a program is for: those of the mesh that Keras has been given, or the first of this process.

A mesh of `kerasllm.distribution` says along which of its axes the rows of a batch are shared out, and heads. XLA finds
most of what follows from the layouts of weights and batches by itself; the functions here say what it does not.
"""

import keras
import numpy as np

from kerasllm.backend.base import IS_JAX

if IS_JAX:
    import jax
    from jax.sharding import NamedSharding, PartitionSpec


def first_device():
    """One of JAX's devices; all that compute a program are alike."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return jax.devices()[0]
    return distribution.device_mesh.backend_mesh.devices.flat[0]


def keep_in_rows(x, of_columns=False):
    """A tensor (B, ...), of which each device has its rows of the batch, where a mesh shares them out.

    Without it XLA may have every device compute all rows, where weights are shared out along the same axis.

    Args:
        x: tensor (B, ...).
        of_columns: bool. It was read from a table of which each device has some columns: each reads its own for all
            rows, and makes the gradient of its own, in place of that of the whole table for its rows.
    """
    rows, _ = _axes(x.shape[0])
    if rows and of_columns and "fsdp" in rows and x.shape[-1] % _mesh().shape["fsdp"] == 0:
        others = tuple(axis for axis in rows if axis != "fsdp")
        x = _laid_out(x, others or None, *[None] * (x.ndim - 2), "fsdp")
    return _laid_out(x, rows) if rows else x


def keep_with(variable, value):
    """A value of a variable's shape, such as its gradient, of which each device has the part that it has of this."""
    distribution = keras.distribution.distribution() if IS_JAX else None
    if getattr(distribution, "batch_axes", None) is None:
        return value
    value = jax.lax.with_sharding_constraint(value, distribution.get_variable_layout(variable).backend_layout)
    return jax.lax.optimization_barrier(value)  # else XLA adds up whole ones in a loop, and shares them out after it


def kernels_by_devices(kernel, bias, widths, counts):
    """Parts of a kernel (D, U) and its bias that lie side by side, of which devices that share out its columns have a
    share of each, and not one of them all of the first; None where no devices do.

    Args:
        kernel: float (D, U).
        bias: float (U,) or None.
        widths: ints, columns of each part.
        counts: ints, of the heads, or the numbers, in each part, which are not cut. A part that cannot be divided is on
            all devices.

    Returns:
        list of pairs of a kernel (D, width) and its bias (width,) or None; or None.
    """
    distribution = keras.distribution.distribution() if IS_JAX else None
    axis = getattr(distribution, "head_axis", None)
    if axis is None:
        return None
    sizes, parts, begin = _mesh().shape, [], 0
    rows = "fsdp" if "fsdp" in sizes and kernel.shape[0] % sizes["fsdp"] == 0 else None
    for width, count in zip(widths, counts, strict=True):
        columns = axis if count % sizes[axis] == 0 else None
        part = _laid_out(kernel[:, begin : begin + width], rows, columns)
        parts.append((part, None if bias is None else bias[begin : begin + width]))
        begin += width
    return parts


def on_own_rows(function, of_rows, whole=(), heads=None):
    """What a function makes of the rows that each device has: for what XLA cannot divide, or not so well.

    Args:
        function: of all the tensors; its result has a row for each of theirs, or one.
        of_rows: list of tensors (B, ...).
        whole: list of tensors of which each device gets all, matrices in the dtype of the first of rows; devices that
            share out heads share out their rows. Gradients are added up, and each device has its part of the sum.
        heads: int or None. Tensors of more than two dimensions are (B, heads or a multiple, ...), and devices that
            share out heads have theirs.

    Returns:
        Tensor, the rows that all devices make.
    """
    rows, of_heads = _axes(of_rows[0].shape[0], heads)
    if not rows and of_heads is None:
        return function(*of_rows, *whole)
    specs = [PartitionSpec(rows or None, of_heads if x.ndim > 2 else None) for x in of_rows]
    parts = [_in_columns(x, rows) for x in whole]

    def on_device(*tensors):
        tensors, matrices = tensors[: len(of_rows)], tensors[len(of_rows) :]
        return function(*tensors, *(_gathered(x, part, tensors[0]) for x, part in zip(matrices, parts, strict=True)))

    over = {"mesh": _mesh(), "in_specs": (*specs, *parts), "out_specs": specs[0], "check_vma": False}
    if heads is None:  # other axes are XLA's own affair
        over["axis_names"] = set(rows)
    return jax.shard_map(on_device, **over)(*of_rows, *whole)


def on_own_experts(function, of_rows, of_experts):
    """What a function makes of rows by experts, of which each device has its own, where a mesh shares them out: those
    that do get the rows of all of them, and add up what their experts make of each.

    Args:
        function: of all the tensors and of the number of the first expert that it gets, or None where it gets all of
            them; its result has a row for each of theirs.
        of_rows: list of tensors (B, ...).
        of_experts: list of tensors (E, ...).

    Returns:
        Tensor, the rows that all devices make.
    """
    rows, _ = _axes(of_rows[0].shape[0])
    count = _mesh().shape["expert"] if "expert" in rows else 1
    if count == 1 or of_experts[0].shape[0] % count:
        return on_own_rows(lambda *tensors: function(*tensors, None), of_rows, of_experts)
    parts = [PartitionSpec("expert", *_in_columns(x, rows)[1:]) for x in of_experts]

    def on_device(*tensors):
        tensors, weights = tensors[: len(of_rows)], tensors[len(of_rows) :]
        weights = [_gathered(x, part[1:], tensors[0]) for x, part in zip(weights, parts, strict=True)]
        tensors = [jax.lax.all_gather(x, "expert", tiled=True) for x in tensors]
        made = function(*tensors, *weights, jax.lax.axis_index("expert") * weights[0].shape[0])
        return jax.lax.psum_scatter(made, "expert", tiled=True)

    specs = (*[PartitionSpec(rows)] * len(of_rows), *parts)
    over = {"mesh": _mesh(), "in_specs": specs, "out_specs": PartitionSpec(rows), "check_vma": False}
    return jax.shard_map(on_device, axis_names=set(rows), **over)(*of_rows, *of_experts)


def assign_parts(variable, read):
    """Gives a Keras variable what a function reads.

    Args:
        variable: Keras variable, whose parts may be on several devices.
        read: function (tuple of slices) -> the NumPy array of that part of the whole value. For the parts alone that
            devices of this process have.
    """
    sharding = variable.value.sharding if IS_JAX else None
    if sharding is None or len(sharding.device_set) == 1:
        variable.assign(read((slice(None),) * len(variable.shape)))
        return
    value = jax.make_array_from_callback(
        tuple(variable.shape), sharding, lambda index: read(index).astype(variable.dtype)
    )
    variable.assign(value)


def own_parts(variable):
    """What this process has of a Keras variable: a list of pairs, the place where a part begins and a NumPy array. What
    several have is one's own."""
    value = variable.value
    if value.is_fully_addressable:  # this process knows no others that have it
        return [] if jax.process_index() else [((0,) * value.ndim, np.array(value))]
    return [
        (tuple(part.start or 0 for part in shard.index), np.array(shard.data))
        for shard in value.addressable_shards
        if shard.replica_id == 0
    ]


def _in_columns(x, rows):
    """The layout of a matrix whose columns are shared out along "fsdp", where they can be; of anything else, none."""
    if x.ndim < 2 or "fsdp" not in rows or x.shape[-1] % _mesh().shape["fsdp"]:
        return PartitionSpec()
    return PartitionSpec(*[None] * (x.ndim - 1), "fsdp")


def _gathered(x, part, like):
    """A matrix of which a device has the columns that its layout says, with all of them; its rows are shared out by
    those that share out heads."""
    if any(part):
        x = jax.lax.all_gather(x.astype(like.dtype), "fsdp", axis=x.ndim - 1, tiled=True)
    axis = keras.distribution.distribution().head_axis
    if axis is None or x.ndim != 2 or x.shape[0] % _mesh().shape[axis]:
        return x
    over = NamedSharding(jax.sharding.get_abstract_mesh(), PartitionSpec(axis))
    return jax.lax.with_sharding_constraint(x, over)


def _laid_out(x, *axes):
    return jax.lax.with_sharding_constraint(x, NamedSharding(_mesh(), PartitionSpec(*axes)))


def _mesh():
    return keras.distribution.distribution().device_mesh.backend_mesh


def _axes(row_count, heads=None):
    """The axes along which so many rows are shared out, and that of so many heads, or None."""
    distribution = keras.distribution.distribution() if IS_JAX else None
    rows, of_heads = getattr(distribution, "batch_axes", ()), getattr(distribution, "head_axis", None)
    if rows and row_count % distribution.num_model_replicas:
        rows = ()
    if heads is None or (of_heads is not None and heads % _mesh().shape[of_heads]):
        of_heads = None
    return rows, of_heads
