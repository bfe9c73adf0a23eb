"""Products of rows with kernels, of which each has rows of its own: the experts of a mixture."""

from keras import ops

from kerasllm.backend.base import IS_JAX, IS_TENSORFLOW
from kerasllm.backend.compiling import in_xla

if IS_TENSORFLOW:
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util
elif IS_JAX:
    import jax

_ROWS_OF_BLOCK = 32  # more are quicker by themselves, and have more that are filled up


def grouped_matmul(rows, kernels, sizes):
    """Products of rows with kernels, of which each has the rows that follow those of the one before it.

    Args:
        rows: float (N, D).
        kernels: float (E, D, U).
        sizes: int32 (E,), how many rows each has, N in all.

    Returns:
        float (N, U).
    """
    if IS_JAX:
        return jax.lax.ragged_dot(rows, jax.numpy.asarray(kernels), sizes)
    kernels = ops.convert_to_tensor(kernels)
    E = kernels.shape[0]
    if not (in_xla() or control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())):
        parts = zip(tf.split(rows, sizes, num=E), tf.unstack(kernels), strict=True)
        return tf.concat([tf.matmul(part, kernel) for part, kernel in parts], axis=0)
    if rows.shape[0] is not None and rows.shape[0] <= E:  # as when tokens are generated one by one
        return tf.matmul(rows[:, None], tf.gather(kernels, _groups(sizes, rows.shape[0])))[:, 0]
    return _product_by_blocks(rows, kernels, sizes)


def _groups(sizes, count):
    """The group of each of so many rows, int32 (N,)."""
    return tf.searchsorted(tf.cumsum(sizes), tf.range(count), side="right")


def _product_by_blocks(rows, kernels, sizes):
    """`grouped_matmul` where XLA knows no sizes that are numbers of the graph: rows in blocks, each of one group and
    filled up with zeros, and one product after the other."""
    N, E, B = tf.shape(rows)[0], kernels.shape[0], _ROWS_OF_BLOCK
    blocks = (sizes + B - 1) // B
    group = _groups(sizes, N)
    begins = tf.cumsum(blocks, exclusive=True) * B - tf.cumsum(sizes, exclusive=True)
    place = tf.range(N) + tf.gather(begins, group)
    count = N // B + E  # at most
    kernel_of = tf.minimum(_groups(blocks, count), E - 1)

    def in_blocks(rows):
        return tf.reshape(tf.scatter_nd(place[:, None], rows, [count * B, rows.shape[1]]), [count, B, rows.shape[1]])

    def products(rows, kernels, transpose=False):
        made = tf.zeros([count, B, kernels.shape[1 if transpose else 2]], rows.dtype)
        rows = in_blocks(rows)

        def step(i, made):
            kernel = tf.gather(kernels, kernel_of[i : i + 1])[0]
            product = tf.matmul(tf.gather(rows, i), kernel, transpose_b=transpose)
            return i + 1, tf.tensor_scatter_nd_update(made, [[i]], product[None])

        _, made = tf.while_loop(lambda i, made: i < count, step, (0, made))
        return tf.gather(tf.reshape(made, [count * B, made.shape[2]]), place)

    @tf.custom_gradient
    def product(rows, kernels):
        def gradients(upstream):
            by_blocks = tf.matmul(in_blocks(rows), in_blocks(upstream), transpose_a=True)
            return products(upstream, kernels, transpose=True), tf.math.unsorted_segment_sum(by_blocks, kernel_of, E)

        return products(rows, kernels), gradients

    return product(rows, kernels)
