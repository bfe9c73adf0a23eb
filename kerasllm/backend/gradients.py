"""Gradients: added up, clipped and applied."""

import math

import keras
import numpy as np
from keras import ops

from kerasllm.backend.base import IS_JAX, IS_TENSORFLOW
from kerasllm.backend.compiling import on_cpu
from kerasllm.backend.devices import keep_with
from kerasllm.backend.own_gradients import custom_gradient
from kerasllm.backend.tensors import while_loop

if IS_TENSORFLOW:
    import tensorflow as tf
elif IS_JAX:
    import jax

_FEW = 2**24  # elements of gradients, 64 MiB of them


def with_gradient(function, gradient, x, *constants):
    """A function's result `function(x, *constants)`, with a gradient by `x` of its own and none by the constants.

    Args:
        function: a function of tensors.
        gradient: a function (upstream, *constants) -> tensor like `x`. No more than the constants are kept for it.
        x: float tensor; or a tuple of them, which the functions get and give one by one.
        *constants: tensors, whole numbers too. What the functions read must be among them.
    """
    xs, count = (x, len(x)) if isinstance(x, tuple) else ((x,), 1)

    def gradients(upstream, constants):
        found = gradient(upstream, *constants)
        return found if isinstance(x, tuple) else (found,)

    if IS_TENSORFLOW:

        @custom_gradient
        def call(*tensors):
            constants = tensors[count:]
            return function(*tensors), lambda upstream: [*gradients(upstream, constants), *[None] * len(constants)]

        return call(*xs, *constants)

    def nothing(tensor):
        is_float = jax.numpy.issubdtype(tensor.dtype, jax.numpy.inexact)
        return jax.numpy.zeros_like(tensor) if is_float else np.zeros(tensor.shape, jax.dtypes.float0)

    call = jax.custom_vjp(function)
    call.defvjp(
        lambda *tensors: (function(*tensors), tensors[count:]),
        lambda constants, upstream: (*gradients(upstream, constants), *map(nothing, constants)),
    )
    return call(*xs, *constants)


def no_gradient(tensor):
    """What a gradient of one's own answers for a tensor that nothing is to be learned of."""
    return None if IS_TENSORFLOW else jax.numpy.zeros_like(tensor)  # which XLA leaves out


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


def gathered_over_replicas(tensor):
    """What all replicas of a `tf.distribute` strategy have, one below the other along the first axis, and gradients go
    back to each; what it gets where there is none, see `sum_over_replicas`."""
    context = tf.distribute.get_replica_context() if IS_TENSORFLOW else None
    if context is None or context.num_replicas_in_sync == 1:
        return tensor
    return context.all_gather(tf.convert_to_tensor(tensor), axis=0)


def value_and_gradients(function, variables, state, batch):
    """A function's results, and the gradient of the first.

    Args:
        function: a function (batch) -> a float32 scalar, which is differentiated, and another or a vector.
        variables: Keras variables to differentiate by.
        state: the other Keras variables that the function may change.
        batch: nested tensors.

    Returns:
        A pair: the two results, and a list of the gradient of the first by each variable; on TensorFlow None where
        there is none.
    """
    if IS_TENSORFLOW:
        with tf.GradientTape() as tape:
            results = function(batch)
        return results, tape.gradient(results[0], [v.value for v in variables])
    values, state_values = [v.value for v in variables], [v.value for v in state]
    results, state_values, gradients = differentiated(function, variables, state)(values, state_values, batch)
    for variable, value in zip(state, state_values, strict=True):
        variable.assign(value)
    return results, gradients


def input_gradients(function, tensors):
    """A function's values, and how their sum changes with what it is given.

    Args:
        function: a function of float tensors -> float (R,).
        tensors: list of float tensors.

    Returns:
        The values (R,), and a list of gradients like the tensors.
    """
    if IS_TENSORFLOW:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(tensors)
            values = function(*tensors)
        return values, tape.gradient(values, tensors, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def total(tensors):
        values = function(*tensors)
        return values.sum(), values

    gradients, values = jax.grad(total, has_aux=True)(tensors)
    return values, gradients


def accumulate_gradients(function, variables, state, parts, shape=()):
    """Adds up `value_and_gradients` over the parts of a batch, nested tensors (parts, ...), one after the other; the
    second result is of the shape that is given."""
    # In float32, as small numbers are lost when they are added to a large one in less.
    zeros = [ops.zeros(()), ops.zeros(shape), *(keep_with(v, ops.zeros(v.shape)) for v in variables)]
    if IS_TENSORFLOW:
        unconnected = set()

        def body(index, *sums):
            part = tf.nest.map_structure(lambda tensor: tensor[index], parts)
            results, gradients = value_and_gradients(function, variables, state, part)
            unconnected.update(i for i, gradient in enumerate(gradients) if gradient is None)
            added = [*results, *(0.0 if g is None else tf.cast(densify(g), "float32") for g in gradients)]
            return index + 1, *(total + part for total, part in zip(sums, added, strict=True))

        count = tf.shape(tf.nest.flatten(parts)[0])[0]
        _, *sums = while_loop(lambda index, *_: index < count, body, (0, *zeros))
        gradients = [None if i in unconnected else total for i, total in enumerate(sums[2:])]
    else:
        values, step_of = [v.value for v in variables], differentiated(function, variables, state)

        def step(carry, part):
            state_values, sums = carry
            results, state_values, gradients = step_of(values, state_values, part)
            added = [*results, *gradients]
            return (state_values, [t + p.astype(t.dtype) for t, p in zip(sums, added, strict=True)]), None

        (state_values, sums), _ = jax.lax.scan(step, ([v.value for v in state], zeros), parts)
        for variable, value in zip(state, state_values, strict=True):
            variable.assign(value)
        gradients = sums[2:]
    like = zip(gradients, variables, strict=True)
    return sums[:2], [gradient if gradient is None else ops.cast(gradient, v.dtype) for gradient, v in like]


def differentiated(function, variables, state):
    """The same as JAX wants it: a function (values of the variables, values of the state, batch) -> (results, values of
    the state, gradients)."""

    def stateless(values, state_values, batch):
        mapping = zip([*variables, *state], [*values, *state_values], strict=True)
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:  # those that layers add
            first, second = function(batch)
        return first, (second, [scope.get_current_value(v) for v in state])

    def call(values, state_values, batch):
        gradient = jax.value_and_grad(stateless, has_aux=True)
        (first, (second, state_values)), gradients = gradient(values, state_values, batch)
        return (first, second), state_values, [keep_with(v, g) for v, g in zip(variables, gradients, strict=True)]

    return call


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


def global_norm(gradients):
    """The norm of gradients, taken over all of them together; None is left out."""
    given = [gradient for gradient in gradients if gradient is not None]
    if IS_TENSORFLOW:  # has an op for the norm of a tensor
        return tf.linalg.global_norm(given)
    return ops.sqrt(sum(ops.sum(ops.square(gradient)) for gradient in given))


def clip_by_norm(gradients, limit, norm):
    """Gradients scaled down from the norm that they have to a lower one; None stays None."""
    given = [gradient for gradient in gradients if gradient is not None]
    # Most of the time there is nothing to scale, which saves a pass over all gradients.
    clipped = iter(ops.cond(norm > limit, lambda: [gradient * (limit / norm) for gradient in given], lambda: given))
    return [gradient if gradient is None else next(clipped) for gradient in gradients]


def are_few(gradients):
    """Whether gradients had better be joined: on TensorFlow, whose graphs take memory and time for each op, where they
    are those of adapters."""
    if not IS_TENSORFLOW or tf.executing_eagerly() or tf.distribute.has_strategy() or not on_cpu():
        return False
    if not all(gradient.dtype == tf.float32 and gradient.shape.is_fully_defined() for gradient in gradients):
        return False
    return sum(gradient.shape.num_elements() for gradient in gradients) <= _FEW


def join(tensors):
    """Tensors as one vector."""
    return ops.concatenate([ops.reshape(tensor, (-1,)) for tensor in tensors])


def split_like(vector, tensors):
    """The parts of what `join` made of tensors like these."""
    parts = tf.split(vector, [math.prod(tensor.shape) for tensor in tensors])
    return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def update_if_finite(update, gradients, norm, variables):
    """Updates variables with gradients, and leaves all as it is where the norm of the gradients is not finite.

    Several replicas of TensorFlow cannot leave an update out, so theirs is one with gradients of zero.

    Args:
        update: a function (gradients) that changes variables.
        gradients: list of tensors.
        norm: float scalar.
        variables: the Keras variables that it may change.

    Returns:
        bool scalar, whether the norm is finite.
    """
    is_finite = ops.isfinite(norm)
    if IS_TENSORFLOW:
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync > 1:
            update([tf.where(is_finite, gradient, tf.zeros_like(gradient)) for gradient in gradients])
            return is_finite

        def updated():
            update(gradients)
            return True

        return tf.cond(is_finite, updated, lambda: False)
    before = [v.value for v in variables]
    with keras.StatelessScope(state_mapping=zip(variables, before, strict=True)) as scope:
        update(gradients)
    for variable, value in zip(variables, before, strict=True):
        variable.assign(ops.where(is_finite, scope.get_current_value(variable), value))
    return is_finite


def has_fused_adam(variable, gradient):
    """Whether `fused_adam` can update this variable with this gradient."""
    return IS_TENSORFLOW and isinstance(variable, tf.Variable) and isinstance(gradient, tf.Tensor)


def adam_terms(dtype, learning_rate, iterations, beta_1, beta_2, epsilon, moves=None):
    """What Adam's updates of all variables of a dtype have in common.

    Where `moves`, a bool scalar, is false, updates with gradients of zero change nothing.
    """
    step = tf.cast(iterations + 1, dtype)
    learning_rate, beta_1, beta_2, epsilon = (tf.cast(x, dtype) for x in (learning_rate, beta_1, beta_2, epsilon))
    terms = {"beta1_power": tf.pow(beta_1, step), "beta2_power": tf.pow(beta_2, step), "epsilon": epsilon}
    changing = {"lr": (learning_rate, 0), "beta1": (beta_1, 1), "beta2": (beta_2, 1)}
    for name, (term, idle) in changing.items():
        terms[name] = term if moves is None else tf.where(moves, term, tf.cast(idle, dtype))
    return terms


def fused_adam(variable, momentum, velocity, gradient, terms):
    """One Adam update in one op and one pass over memory, where Keras' own takes a dozen; see `adam_terms`."""
    handles = {"var": variable.handle, "m": momentum.value.handle, "v": velocity.value.handle}
    tf.raw_ops.ResourceApplyAdam(**handles, grad=tf.cast(gradient, variable.dtype), **terms)
