"""Functions whose gradient computes them again, in place of keeping what they computed.

On TensorFlow the layers of a stack share one function: see `shared_functions.py`.
"""

import keras

from kerasllm.backend.base import IS_JAX, IS_TENSORFLOW
from kerasllm.backend.compiling import current_graph, in_plain_graph, in_xla
from kerasllm.backend.gradients import densify
from kerasllm.backend.own_gradients import custom_gradient, kept_by_graph
from kerasllm.backend.shared_functions import functions_of_graph, traced, values_of, with_values

if IS_TENSORFLOW:
    import tensorflow as tf
elif IS_JAX:
    import jax


def remat(function, *tensors, variables=(), alike=None):
    """A function's results, whose gradient computes the function again.

    Args:
        function: function of tensors -> tuple of tensors.
        *tensors: tensors. The gradient reaches those of floats.
        variables: sequence of the Keras variables that the function reads. (On JAX it may read any.)
        alike: hashable, or None. Functions for which it is equal do the same, each with its own variables; they may
            differ in nothing else that this does not tell.
    """
    if not IS_TENSORFLOW:
        return jax.checkpoint(function)(*tensors)
    graph = current_graph()
    is_stateless = keras.src.backend.get_stateless_scope() is not None
    if alike is None or graph is None or is_stateless or in_xla() or in_plain_graph():
        return kept_by_graph(tf.recompute_grad(function))(*tensors)
    given = [*map(tf.convert_to_tensor, tensors), *values_of(variables)]  # casts are among what is computed again
    shared = functions_of_graph("recomputed")
    key = alike, *((tensor.dtype, tuple(tensor.shape)) for tensor in given)
    if key not in shared:
        shared[key] = _Recomputed(function, variables, given)
    return shared[key](*given)


class _Recomputed:
    """A function as a graph may call it many times, and its gradient.

    Args:
        function: as for `remat`.
        variables: those that it reads, for whose values it gets others.
        given: the first tensors and values of variables, for their shapes.
    """

    def __init__(self, function, variables, given):
        self._function = function
        self._variables = variables
        is_trained = [True] * (len(given) - len(variables)) + [variable.trainable for variable in variables]
        self._by = [i for i, tensor in enumerate(given) if is_trained[i] and tensor.dtype.is_floating]
        self._connected = None
        self._forward = traced(self._results, given)
        self._backward = {}  # by the graph that it is called in, as what it reads of one is not to be had in another

    def __call__(self, *given):
        @custom_gradient
        def call(*given):
            return self._forward(*given), lambda *upstream: self._gradients(given, upstream)

        return call(*given)

    def _results(self, *given):
        return with_values(self._function, self._variables, given, collect_losses=True)

    def _gradients(self, given, upstream):
        graph = current_graph()
        if graph not in self._backward:
            self._backward[graph] = traced(self._compute_again, [*given, *upstream])
        found = dict(zip(self._connected, self._backward[graph](*given, *upstream), strict=True))
        return [found.get(i) for i in range(len(given))]

    def _compute_again(self, *tensors):
        given, upstream = list(tensors[: -self._num_results]), tensors[-self._num_results :]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            for i, tensor in enumerate(given[: len(given) - len(self._variables)]):
                given[i] = _after(upstream[0], tensor)
            of = [given[i] for i in self._by]
            tape.watch(of)
            results = self._results(*given)
        gradients = tape.gradient(results, of, upstream)
        self._connected = [i for i, gradient in zip(self._by, gradients, strict=True) if gradient is not None]
        return [densify(gradient) for gradient in gradients if gradient is not None]

    @property
    def _num_results(self):
        return len(self._forward.outputs)


def _after(other, tensor):
    """The tensor, made anew of another: XLA would else find it computed already, and keep what comes of it."""
    if not tensor.dtype.is_floating:
        return tensor
    first = tf.reduce_max(tf.reshape(other, [-1])[:1])
    return tensor + tf.cast(tf.where(tf.math.is_nan(first), float("nan"), 0.0), tensor.dtype)
