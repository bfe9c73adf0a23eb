"""Tensors: products, places, random numbers."""

import contextlib

import keras
import numpy as np
from keras import ops

from kerasllm.backend.base import IS_JAX, IS_TENSORFLOW, as_tensor
from kerasllm.backend.compiling import in_plain_graph, in_xla, on_cpu
from kerasllm.backend.own_gradients import custom_gradient

if IS_TENSORFLOW:
    import tensorflow as tf
elif IS_JAX:
    import jax
    from jax.experimental import multihost_utils


def known(tensor):
    """What a tensor holds, as a NumPy array; None where that is not known yet, as in a graph that is being made."""
    if isinstance(tensor, np.ndarray | keras.KerasTensor):
        return tensor if isinstance(tensor, np.ndarray) else None
    if IS_TENSORFLOW:
        return None if tf.is_symbolic_tensor(tensor) or not hasattr(tensor, "numpy") else tensor.numpy()
    return None if isinstance(tensor, jax.core.Tracer) else np.asarray(tensor)


def refuse(are_bad, sentence):
    """Stops a TensorFlow graph where any of many bools is true. XLA and JAX cannot."""
    if IS_TENSORFLOW:
        tf.debugging.Assert(tf.logical_not(tf.reduce_any(are_bad)), [sentence])


def values_on_devices(variable):
    """What a Keras variable holds, as a NumPy array for each replica of a `tf.distribute` strategy."""
    if not IS_TENSORFLOW:
        return [whole(variable)]
    return [np.array(value) for value in getattr(variable.value, "values", (variable.value,))]


def whole(variable):
    """What a Keras variable holds, as a NumPy array; where several processes have parts of it, all of them ask."""
    value = getattr(variable, "value", variable)
    if not IS_JAX or not isinstance(value, jax.Array) or value.is_fully_addressable or value.is_fully_replicated:
        return np.array(keras.ops.convert_to_numpy(variable))
    return multihost_utils.process_allgather(value, tiled=True)


def process():
    """The number of this process, and how many train together."""
    return (jax.process_index(), jax.process_count()) if IS_JAX else (0, 1)


def wait_for_processes():
    """Until all that train together have come to this place."""
    if process()[1] > 1:
        multihost_utils.sync_global_devices("kerasllm")


@contextlib.contextmanager
def first_process_first():
    """A context that the other processes enter when the first has left it."""
    number, count = process()
    if number:
        wait_for_processes()
    yield
    if count > 1 and not number:
        wait_for_processes()


def told_by_first(text):
    """A str of the first process, of up to 4,096 bytes, in all of them."""
    if process()[1] == 1:
        return text
    letters = np.frombuffer(text.encode().ljust(4096, b"\0"), "uint8")
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(letters)).astype("uint8")).rstrip(b"\0").decode()


def is_to_stop(step):
    """Whether all processes that train together are to end before this step, as one of them was told to."""
    return multihost_utils.reached_preemption_sync_point(step)


def put_back(groups, state):
    """Gives variables again what Keras takes from them for the steps of `fit` and its like, which JAX is handed.

    Args:
        groups: lists of Keras variables.
        state: lists of their values, as many.
    """
    for variables, values in zip(groups, state, strict=True):
        for variable, value in zip(variables, values, strict=True):
            if variable._value is None and not value.is_deleted():
                variable.assign(value)


def static_shape(tensor):
    """The shape of a tensor as a tuple, None for sizes that are not known; None where not even its rank is."""
    shape = tensor.shape
    return None if getattr(shape, "rank", 0) is None else tuple(shape)


def as_integers(array):
    """A tensor of signed integers of 32 bits, or of 64 where an array has more than those hold."""
    tensor = ops.convert_to_tensor(array)
    is_wide = keras.backend.standardize_dtype(tensor.dtype) in ("int64", "uint32", "uint64")
    return ops.cast(tensor, "int64" if is_wide else "int32")


def slice_update(tensor, update, start):
    """Writes `update` into `tensor` from the place `start` on; inside a loop, without copying the rest.

    `ops.slice_update` is in place under XLA but copies the tensor in a plain TensorFlow graph, where another op
    does not (measured: 0.58 against 0.07 ms a step on 12 MB).
    """
    update = ops.cast(update, tensor.dtype)
    if not (IS_TENSORFLOW and in_plain_graph()):
        return ops.slice_update(tensor, start, update)
    begin = tf.stack([tf.cast(i, "int32") for i in start])
    return tf.raw_ops.TensorStridedSliceUpdate(
        input=tensor, begin=begin, end=begin + tf.shape(update), strides=[1] * len(start), value=update
    )


def split(x, sizes, axis):
    """Parts of a tensor, of those sizes along an axis. (Runtimes at the edge want to read the sizes in the graph, where
    `ops.split` computes them.)"""
    if IS_TENSORFLOW:
        return tf.split(x, list(sizes), axis)
    return ops.split(x, np.cumsum(sizes)[:-1], axis)


def put_row(tensor, row, index):
    """Writes a row over that of an index; inside a loop, without copying the rest."""
    if IS_TENSORFLOW and not in_xla():
        return tf.tensor_scatter_nd_update(tensor, [[index]], row[None])
    return ops.slice_update(tensor, (index, *[0] * len(row.shape)), row[None])


def while_loop(condition, body, state):
    """As `ops.while_loop`, but one round after the other: TensorFlow begins up to ten at once where it can, and then
    holds what all of them need (measured: 280 MB more in training with a vocabulary of 50,257)."""
    if IS_TENSORFLOW:
        return tf.while_loop(condition, body, state, parallel_iterations=1)
    return ops.while_loop(condition, body, state)


def one_by_one(function, count, dtype):
    """The results of a function of int32 scalars from 0 to `count` - 1, stacked; one is not begun before another ends.

    Args:
        function: a function (index) -> tensor of that dtype, of the same shape for each.
        count: int.
        dtype: str.
    """
    if IS_TENSORFLOW:
        return tf.map_fn(function, tf.range(count), fn_output_signature=dtype, parallel_iterations=1)
    return jax.lax.map(function, jax.numpy.arange(count, dtype="int32"))


def exponentials(x, shift):
    """The exponentials of differences, float (...)."""
    return ops.exp(x - shift)


def scale(x, factors):
    """A product; in place where that is a backend's way, so that x is not to be used again."""
    return x * factors


def add_at(tensor, index, update):
    """Adds one number to each row of a tensor; in place where nothing else needs it.

    Args:
        tensor: (..., V).
        index: int (...), the place in each row.
        update: (...), what to add there.
    """
    V = tensor.shape[-1]
    if not IS_TENSORFLOW:  # XLA makes one pass of this and of what made the tensor; TPUs take long to scatter.
        is_there = jax.numpy.arange(V, dtype=index.dtype) == index[..., None]
        return tensor + jax.numpy.where(is_there, update[..., None], 0)
    rows, index, update = ops.reshape(tensor, (-1, V)), ops.reshape(index, (-1,)), ops.reshape(update, (-1,))
    row_index = ops.arange(ops.shape(rows)[0], dtype=index.dtype)
    rows = tf.tensor_scatter_nd_add(rows, tf.stack([row_index, index], axis=1), update)
    return ops.reshape(rows, ops.shape(tensor))


def matmul(x, y, transpose_x=False, transpose_y=False):
    """The product of matrices (..., M, N), either of them transposed without a copy."""
    if IS_TENSORFLOW:
        return tf.matmul(x, y, transpose_a=transpose_x, transpose_b=transpose_y)
    return jax.numpy.matmul(x.mT if transpose_x else x, y.mT if transpose_y else y)


def dense(x, kernel, bias=None):
    """Rows (..., D) times a kernel (D, U), plus a bias (U,). Its gradient is three products, on TensorFlow too.

    Two of them are batches of one: for those TensorFlow calls another part of oneDNN (measured in float32: 24.2 ms to
    19.9 ms for 4,096 rows and a kernel of 1,536 x 384). That by a Keras variable which is not trainable is left out.
    """
    learns_kernel, learns_bias = getattr(kernel, "trainable", True), getattr(bias, "trainable", True)
    x, kernel, biases = as_tensor(x), as_tensor(kernel), [] if bias is None else [as_tensor(bias)]
    if not IS_TENSORFLOW:
        return sum(biases, ops.matmul(x, kernel))
    shape, (D, U) = ops.shape(x), kernel.shape

    @custom_gradient
    def call(x, kernel, *biases):
        rows = tf.reshape(x, (-1, D))

        def gradient(upstream):
            upstream = tf.reshape(upstream, (-1, U))
            by_x = tf.matmul(upstream[None], kernel[None], transpose_b=True)
            by_kernel = tf.matmul(rows[None], upstream[None], transpose_a=True)[0] if learns_kernel else None
            by_biases = [sum_of_rows(upstream) if learns_bias else None for _ in biases]
            return tf.reshape(by_x, shape), by_kernel, *by_biases

        product = tf.matmul(rows, kernel)
        for bias in biases:
            product = tf.nn.bias_add(product, bias)
        return tf.reshape(product, (*shape[:-1], U)), gradient

    return call(x, kernel, *biases)


def row_times_matrix(row, matrix):
    """A row (..., D), its other axes of one element, times a matrix (D, U): what decoding one text is made of.

    XLA runs such a product on one core of a CPU. As two of them, of the halves of D, it takes both (measured:
    1.7 ms to 1.1 ms for the kernels of 6 layers of width 384).
    """
    if in_plain_graph():
        return ops.matmul(row, matrix)
    row, matrix = as_tensor(row), as_tensor(matrix)
    D, U = matrix.shape
    if not _multiplies_in_full() or D % 2:
        return ops.matmul(row, matrix)
    halves = ops.matmul(ops.reshape(row, (2, 1, D // 2)), ops.reshape(matrix, (2, D // 2, U)))
    return ops.reshape(halves[0] + halves[1], (*row.shape[:-1], U))


def _multiplies_in_full():
    """Whether TensorFlow runs on a CPU. GPUs could round what they multiply to TF32."""
    return IS_TENSORFLOW and on_cpu()


def row_means(x, weights=None):
    """The means (..., 1) of rows (..., D), whose elements are multiplied by weights (D,) before."""
    if not _multiplies_in_full():
        return ops.mean(x if weights is None else x * weights, axis=-1, keepdims=True)
    # On CPUs a product takes half the time of a reduction.
    D = x.shape[-1]
    share = tf.fill((D, 1), tf.constant(1 / D, x.dtype))
    return tf.matmul(x, share if weights is None else share * weights[:, None])


def sum_of_rows(x):
    """Rows (..., D) added up, (D,): by a product, as in `row_means`."""
    D = x.shape[-1]
    if not _multiplies_in_full():
        return ops.sum(ops.reshape(x, (-1, D)), axis=0)
    return tf.matmul(tf.ones((1, tf.size(x) // D), x.dtype), tf.reshape(x, (-1, D)))[0]


def pad_rows(tensor, multiple):
    """Rows of zeros added, so that their number is a multiple of another."""
    shape = ops.shape(tensor)
    return ops.concatenate([tensor, ops.zeros((-shape[0] % multiple, *shape[1:]), tensor.dtype)])


def stateless_uniform(shape, seed):
    """Numbers in (0, 1) that depend on the seed alone: the same with XLA and without.

    Args:
        shape: tuple.
        seed: int32 (2,).

    Returns:
        float32.
    """
    if IS_TENSORFLOW:
        # Philox draws the same bits everywhere, but XLA turns them into floats in another way: so it is done here.
        bits = tf.random.stateless_uniform(shape, seed, minval=None, maxval=None, dtype="uint32", alg="philox")
        return (tf.cast(tf.bitwise.right_shift(bits, tf.constant(9, "uint32")), "float32") + 0.5) * 2.0**-23
    key = jax.random.fold_in(jax.random.key(seed[0]), seed[1])
    return jax.random.uniform(key, shape, minval=1e-20)


def dropout(x, rate, seed):
    """Sets a share of the elements to 0 and scales the others, so that the mean stays.

    On TensorFlow a random byte decides on each element: drawing floats for them took a tenth of a training step.

    Args:
        x: float tensor.
        rate: float, the share; rounded to 256ths on TensorFlow, unless that is far off.
        seed: int32 (2,), the same for the same elements; or (N, 2), one for each row, so that rows are the same on
            whichever device they are. TensorFlow takes the first for all.
    """
    if len(getattr(seed, "shape", (2,))) == 2:
        if IS_JAX:
            return jax.vmap(dropout, (0, None, 0))(x, rate, seed)
        seed = seed[0]
    if not IS_TENSORFLOW:
        key = jax.random.fold_in(jax.random.key(seed[0]), seed[1])
        return jax.numpy.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0).astype(x.dtype)
    kept = round(256 * (1 - rate))
    if not 0 < kept <= 248:
        return tf.nn.experimental.stateless_dropout(x, rate, seed, rng_alg="philox")
    size = tf.size(x)
    words = tf.random.stateless_uniform(
        ((size + 3) // 4,), seed, minval=None, maxval=None, dtype="uint32", alg="philox"
    )
    random_bytes = tf.reshape(tf.reshape(tf.bitcast(words, "uint8"), (-1,))[:size], tf.shape(x))
    # A mask of bools is what the backward pass keeps: a quarter of the memory of a product's factor.
    return tf.where(random_bytes < kept, x * tf.cast(256 / kept, x.dtype), tf.zeros((), x.dtype))
