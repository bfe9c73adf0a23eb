"""Gradients of single examples, clipped and added up."""

from keras import ops

from kerasllm.backend.base import IS_JAX, IS_TENSORFLOW
from kerasllm.backend.compiling import on_cpu
from kerasllm.backend.gradients import densify, differentiated, global_norm, value_and_gradients
from kerasllm.backend.tensors import pad_rows, while_loop

if IS_TENSORFLOW:
    import tensorflow as tf
elif IS_JAX:
    import jax
    import jax.numpy as jnp


def clipped_sums(function, variables, state, batch, clip_norm, count, at_once):
    """The sum of examples' gradients, each scaled down to a norm where it is longer; one that is not finite counts as
    zero.

    On CPUs one example is differentiated after the other: as quick as all at once, as each product fills the cores, and
    no more than one gradient is held. On other devices JAX differentiates several at once.

    Args:
        function: a function (example, nested tensors (1, …)) -> a float32 scalar, which is differentiated, and another.
        variables: Keras variables to differentiate by.
        state: the other Keras variables that the function may change.
        batch: nested tensors (B, …).
        clip_norm: float, over all gradients of an example together.
        count: int32 scalar, the examples that there are; rows behind them are not looked at.
        at_once: int, how many may be differentiated at once.

    Returns:
        The sum of the second results, float32, and a list of float32 sums, one for each variable.
    """
    zeros = [ops.zeros(variable.shape) for variable in variables]
    if IS_TENSORFLOW:

        def body(index, reported, *sums):
            example = tf.nest.map_structure(lambda tensor: tensor[index : index + 1], batch)
            (_, value), gradients = value_and_gradients(function, variables, state, example)
            gradients = [None if g is None else tf.cast(densify(g), "float32") for g in gradients]
            scale = scale_of(global_norm(gradients), clip_norm)
            added = tf.cond(  # A product with zero would not rid the sums of what is no number.
                scale > 0,
                lambda: [s if g is None else s + scale * g for s, g in zip(sums, gradients, strict=True)],
                lambda: list(sums),
            )
            return index + 1, reported + value, *added

        _, reported, *sums = while_loop(lambda index, *_: index < count, body, (0, ops.zeros(()), *zeros))
        return reported, sums

    size = 1 if on_cpu() else at_once
    batch = jax.tree.map(lambda tensor: pad_rows(ops.convert_to_tensor(tensor), size), batch)
    values, step = [v.value for v in variables], differentiated(function, variables, state)

    def of_example(state_values, example):
        (_, value), state_values, gradients = step(values, state_values, jax.tree.map(lambda x: x[None], example))
        gradients = [gradient.astype("float32") for gradient in gradients]
        scale = scale_of(global_norm(gradients), clip_norm)
        return value, state_values, [jnp.where(scale > 0, scale * gradient, 0.0) for gradient in gradients]

    def of_examples(index, carry):
        state_values, reported, sums = carry
        examples = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, index * size, size), batch)
        found, states, gradients = jax.vmap(of_example, in_axes=(None, 0))(state_values, examples)
        is_there = (index * size + jnp.arange(size) < count).astype("float32")
        sums = [s + jnp.tensordot(is_there, g, axes=1) for s, g in zip(sums, gradients, strict=True)]
        # What a call changes, such as the seeds of dropout, it changes alike in each.
        return [x[0] for x in states], reported + jnp.sum(jnp.where(is_there > 0, found, 0.0)), sums

    chunks = (count + size - 1) // size
    start = [v.value for v in state], ops.zeros(()), zeros
    state_values, reported, sums = jax.lax.fori_loop(0, chunks, of_examples, start)
    for variable, value in zip(state, state_values, strict=True):
        variable.assign(value)
    return reported, sums


def scale_of(norm, clip_norm):
    """What a gradient of that norm is multiplied by."""
    return ops.where(ops.isfinite(norm), ops.minimum(1.0, clip_norm / ops.maximum(norm, 1e-12)), 0.0)


def stateless_normal(shape, seed):
    """Normally distributed numbers that depend on the seed alone.

    Args:
        shape: tuple.
        seed: list of int32 scalars or integers: the first two are a key, the others count what is drawn by it.

    Returns:
        float32.
    """
    if IS_TENSORFLOW:
        first, second, *counters = (tf.cast(part, "int32") for part in seed)
        key = tf.stack([first, second])
        for counter in counters:
            key = tf.random.experimental.stateless_fold_in(key, counter)
        return tf.random.stateless_normal(shape, key, alg="philox")
    key = jax.random.key(0)
    for part in seed:
        key = jax.random.fold_in(key, part)
    return jax.random.normal(key, shape)
