"""Products of rows with kernels, of which each has rows of its own: the experts of a mixture."""

from keras import ops

from kerasllm.backend.base import IS_JAX, IS_TENSORFLOW
from kerasllm.backend.compiling import in_xla, on_cpu
from kerasllm.backend.devices import first_device
from kerasllm.backend.gradients import with_gradient
from kerasllm.backend.tensors import put_row, while_loop

if IS_TENSORFLOW:
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util
elif IS_JAX:
    import jax


def grouped_matmul(rows, kernels, sizes):
    """Products of rows with kernels, of which each has the rows that follow those of the one before it.

    Args:
        rows: float (N, D).
        kernels: float (E, D, U).
        sizes: int32 (E,), how many rows each has; those behind the last of them, where there are any, are no one's.

    Returns:
        float (N, U).
    """
    kernels = ops.convert_to_tensor(kernels)
    E = kernels.shape[0]
    if IS_TENSORFLOW and not (
        in_xla() or control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
    ):
        parts = zip(tf.split(rows, sizes, num=E), tf.unstack(kernels), strict=True)
        return tf.concat([tf.matmul(part, kernel) for part, kernel in parts], axis=0)
    if IS_JAX and first_device().platform == "tpu":
        return jax.lax.ragged_dot(rows, kernels, sizes)
    if rows.shape[0] is not None and rows.shape[0] <= E:  # as when tokens are generated one by one
        group = ops.minimum(_groups(sizes, rows.shape[0]), E - 1)
        return ops.matmul(rows[:, None], ops.take(kernels, group, axis=0))[:, 0]
    return _by_blocks(rows, kernels, sizes)


def _by_blocks(rows, kernels, sizes):
    """The same where XLA has nothing for it, which knows no sizes that are numbers of the graph: rows in blocks, each
    of one kernel and filled up with zeros, and one product after the other."""
    N, E, B = ops.shape(rows)[0], kernels.shape[0], 32 if on_cpu() else 128
    blocks = (sizes + B - 1) // B
    group = _groups(sizes, N)
    begins = (ops.cumsum(blocks) - blocks) * B - (ops.cumsum(sizes) - sizes)
    place = ops.arange(N, dtype="int32") + ops.take(begins, ops.minimum(group, E - 1))
    count = N // B + E  # at most
    place = ops.where(group < E, place, count * B)  # No one's rows have a place behind all.
    kernel_of = ops.minimum(_groups(blocks, count), E - 1)

    def in_blocks(rows, place):
        blocks = ops.scatter(place[:, None], rows, (count * B + 1, rows.shape[1]))
        return ops.reshape(blocks[:-1], (count, B, rows.shape[1]))

    def products(rows, kernels, place, kernel_of):
        rows = in_blocks(rows, place)

        def step(i, made):
            kernel = ops.take(kernels, ops.take(kernel_of, i), axis=0)
            return i + 1, put_row(made, ops.matmul(ops.take(rows, i, axis=0), kernel), i)

        made = ops.zeros((count, B, kernels.shape[2]), rows.dtype)
        _, made = while_loop(lambda i, made: i < count, step, (0, made))
        return ops.take(ops.pad(ops.reshape(made, (count * B, -1)), ((0, 1), (0, 0))), place, axis=0)

    def gradients(upstream, rows, kernels, place, kernel_of):
        of_blocks = ops.matmul(ops.transpose(in_blocks(rows, place), (0, 2, 1)), in_blocks(upstream, place))
        of_kernels = ops.segment_sum(ops.reshape(of_blocks, (count, -1)), kernel_of, num_segments=E)
        of_rows = products(upstream, ops.transpose(kernels, (0, 2, 1)), place, kernel_of)
        return of_rows, ops.reshape(of_kernels, kernels.shape)

    def product(rows, kernels, *constants):
        return products(rows, kernels, *constants[2:])

    return with_gradient(product, gradients, (rows, kernels), rows, kernels, place, kernel_of)


def _groups(sizes, count):
    """The group of each of so many rows, int32 (N,); the number of groups for rows behind the last."""
    return ops.cast(ops.searchsorted(ops.cumsum(sizes), ops.arange(count, dtype="int32"), side="right"), "int32")
