"""The few things `keras.ops` cannot say, one function per need, TensorFlow and JAX side by side."""

import contextlib
import contextvars

import keras
from keras import ops

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
elif keras.backend.backend() == "jax":
    import jax
else:
    raise ImportError(
        f"kerasllm runs on the TensorFlow and JAX backends, got {keras.backend.backend()!r}. "
        f"Set KERAS_BACKEND=tensorflow or KERAS_BACKEND=jax before Keras is imported."
    )

IS_TENSORFLOW = keras.backend.backend() == "tensorflow"

# Flags that Linux gives processors with bfloat16 products, which oneDNN, TensorFlow's library for them, makes use of.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
_plain_graph = contextvars.ContextVar("plain_graph", default=False)


@contextlib.contextmanager
def plain_graph():
    """Within it, TensorFlow graphs are traced for a runtime without XLA, such as a stock model server."""
    token = _plain_graph.set(True)
    try:
        yield
    finally:
        _plain_graph.reset(token)


def slice_update(tensor, update, start):
    """Writes `update` into `tensor` from the place `start` on; inside a loop, without copying the rest.

    `ops.slice_update` is in place under XLA but copies the tensor in a plain TensorFlow graph, where another op
    does not (measured: 0.58 against 0.07 ms a step on 12 MB).
    """
    update = ops.cast(update, tensor.dtype)
    if not (IS_TENSORFLOW and _plain_graph.get()):
        return ops.slice_update(tensor, start, update)
    begin = tf.stack([tf.cast(i, "int32") for i in start])
    return tf.raw_ops.TensorStridedSliceUpdate(
        input=tensor, begin=begin, end=begin + tf.shape(update), strides=[1] * len(start), value=update
    )


def add_at(tensor, index, update):
    """Adds one number to each row of a tensor; in place where nothing else needs it.

    Args:
        tensor: (..., V).
        index: int (...), the place in each row.
        update: (...), what to add there.
    """
    V = tensor.shape[-1]
    rows, index, update = ops.reshape(tensor, (-1, V)), ops.reshape(index, (-1,)), ops.reshape(update, (-1,))
    numbers = ops.arange(ops.shape(rows)[0], dtype=index.dtype)
    if IS_TENSORFLOW:
        rows = tf.tensor_scatter_nd_add(rows, tf.stack([numbers, index], axis=1), update)
    else:
        rows = rows.at[numbers, index].add(update)
    return ops.reshape(rows, ops.shape(tensor))


def matmul(x, y, transpose_x=False, transpose_y=False):
    """The product of two matrices, either of them transposed without a copy."""
    if IS_TENSORFLOW:
        return tf.matmul(x, y, transpose_a=transpose_x, transpose_b=transpose_y)
    return jax.numpy.matmul(x.T if transpose_x else x, y.T if transpose_y else y)


def pad_rows(tensor, multiple):
    """Rows of zeros added, so that their number is a multiple of another."""
    shape = ops.shape(tensor)
    return ops.concatenate([tensor, ops.zeros((-shape[0] % multiple, *shape[1:]), tensor.dtype)])


def gelu_tanh(x):
    """GELU by its tanh approximation (https://arxiv.org/abs/1606.08415), which GPT-2 and Gemma use.

    Written with (1 + tanh u) / 2 = sigmoid(2 u): fewer passes over memory than `ops.gelu`, which cubes by `pow`.
    """
    return x * ops.sigmoid(x * (1.5957691216057308 + 0.07135481627260025 * ops.square(x)))


def densify(gradient):
    """A sparse gradient, which TensorFlow makes for embeddings, as a tensor with repeated rows added up."""
    return tf.convert_to_tensor(gradient) if IS_TENSORFLOW and isinstance(gradient, tf.IndexedSlices) else gradient


def sum_over_replicas(tensors):
    """Sums over the replicas of a `tf.distribute` strategy; what it gets where there is none.

    Under `keras.distribution`, on JAX, tensors are those of all devices anyway.
    """
    context = tf.distribute.get_replica_context() if IS_TENSORFLOW else None
    if context is None or context.num_replicas_in_sync == 1:
        return tensors
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensors)


def accumulate_gradients(function, variables, state, parts):
    """Adds up a function's results over the parts of a batch, and their gradients, one part after the other.

    Args:
        function: a function (part) -> two float32 scalars, of which the first is differentiated.
        variables: Keras variables to differentiate by.
        state: the other Keras variables that the function may change.
        parts: nested tensors (parts, ...).

    Returns:
        A pair: the two sums, and a list of the gradient of the first by each variable, None where there is none.
    """
    values, state_values = [v.value for v in variables], [v.value for v in state]
    # In float32, as small numbers are lost when they are added to a large one in less.
    zeros = [ops.zeros(()), ops.zeros(()), *(ops.zeros(v.shape) for v in variables)]
    if IS_TENSORFLOW:
        unconnected = set()

        def body(index, *sums):
            with tf.GradientTape() as tape:
                results = function(tf.nest.map_structure(lambda part: part[index], parts))
            gradients = tape.gradient(results[0], values)
            unconnected.update(i for i, gradient in enumerate(gradients) if gradient is None)
            added = [*results, *(0.0 if g is None else tf.cast(densify(g), "float32") for g in gradients)]
            return index + 1, *(total + part for total, part in zip(sums, added, strict=True))

        count = tf.shape(tf.nest.flatten(parts)[0])[0]
        _, *sums = tf.while_loop(lambda index, *_: index < count, body, (0, *zeros), parallel_iterations=1)
        gradients = [None if i in unconnected else total for i, total in enumerate(sums[2:])]
    else:

        def differentiable(values, state_values, part):
            mapping = zip([*variables, *state], [*values, *state_values], strict=True)
            with keras.StatelessScope(state_mapping=mapping) as scope:
                first, second = function(part)
            return first, (second, [scope.get_current_value(v) for v in state])

        def step(carry, part):
            state_values, sums = carry
            differentiated = jax.value_and_grad(differentiable, has_aux=True)
            (first, (second, state_values)), gradients = differentiated(values, state_values, part)
            added = [first, second, *gradients]
            return (state_values, [t + p.astype(t.dtype) for t, p in zip(sums, added, strict=True)]), None

        (state_values, sums), _ = jax.lax.scan(step, (state_values, zeros), parts)
        for variable, value in zip(state, state_values, strict=True):
            variable.assign(value)
        gradients = sums[2:]
    like = zip(gradients, variables, strict=True)
    return sums[:2], [gradient if gradient is None else ops.cast(gradient, v.dtype) for gradient, v in like]


def apply_gradients(optimizer, gradients, variables):
    """Lets an optimizer change variables."""
    if IS_TENSORFLOW:
        optimizer.apply(gradients, variables)
        return
    # As Keras' own training step on JAX: some optimizers, that of float16 for one, can do it in no other way.
    states = [v.value for v in optimizer.variables]
    new_values, new_states = optimizer.stateless_apply(states, gradients, [v.value for v in variables])
    for variable, value in zip([*variables, *optimizer.variables], [*new_values, *new_states], strict=True):
        variable.assign(value)


def has_fused_adam(variable, gradient):
    """Whether `fused_adam` can update this variable with this gradient."""
    return IS_TENSORFLOW and isinstance(variable, tf.Variable) and isinstance(gradient, tf.Tensor)


def fused_adam(variable, momentum, velocity, gradient, learning_rate, iterations, beta_1, beta_2, epsilon):
    """One Adam update in one op and one pass over memory, where Keras' own takes a dozen."""
    dtype = variable.dtype
    step = tf.cast(iterations + 1, dtype)
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=momentum.value.handle,
        v=velocity.value.handle,
        beta1_power=tf.pow(tf.cast(beta_1, dtype), step),
        beta2_power=tf.pow(tf.cast(beta_2, dtype), step),
        lr=tf.cast(learning_rate, dtype),
        beta1=tf.cast(beta_1, dtype),
        beta2=tf.cast(beta_2, dtype),
        epsilon=tf.cast(epsilon, dtype),
        grad=tf.cast(gradient, dtype),
    )


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
        seed: int32 (2,), the same for the same elements.
    """
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


def remat(function, *tensors):
    """A function's result, whose gradient computes the function again in place of keeping what it computed."""
    return (tf.recompute_grad if IS_TENSORFLOW else jax.checkpoint)(function)(*tensors)


def fast_bfloat16_device():
    """The name of what multiplies faster in bfloat16 here, or None."""
    if not IS_TENSORFLOW:
        device = jax.devices()[0]
        is_old = str(getattr(device, "compute_capability", "8.0")) in ("5.0", "5.2", "6.0", "6.1", "7.0", "7.5")
        return None if device.platform == "cpu" or is_old else device.device_kind  # XLA on CPUs gains nothing
    if tf.config.list_physical_devices("TPU"):
        return "a TPU"
    if gpus := tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpus[0])
        is_new = details.get("compute_capability", (8, 0)) >= (8, 0)
        return details.get("device_name", "the GPU") if is_new else None
    return "this processor" if _BFLOAT16_FLAGS & _cpu_flags() else None


def _cpu_flags():
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = [line for line in file if line.startswith(("flags", "Features"))]
    except FileNotFoundError:
        return set()
    return set(lines[0].split()) if lines else set()


def compile_function(function, variables, xla=True):
    """Compiles a function of tensors that reads a model's variables.

    Args:
        function: a function of (nested) tensors.
        variables: the Keras variables that it reads, and does not write.
        xla: bool, on TensorFlow, where False compiles in less time, once for tensors of all lengths. JAX always
            compiles by XLA.
    """
    if IS_TENSORFLOW and xla:
        return tf.function(function, jit_compile=True, autograph=False)
    if IS_TENSORFLOW:

        def traced(*args):
            with plain_graph():
                return function(*args)

        return tf.function(traced, reduce_retracing=True, autograph=False)

    @jax.jit
    def stateless(values, *args):
        with keras.StatelessScope(state_mapping=zip(variables, values, strict=True)):
            return function(*args)

    return lambda *args: stateless([variable.value for variable in variables], *args)
