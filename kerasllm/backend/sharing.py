"""Layers that do the same with weights of their own share one function: a graph calls it for each of them.

So it is traced once, and a graph of 30 layers is hardly larger than one of 3. On JAX, and where XLA compiles a whole
graph, there is nothing to share.
"""

import contextlib
import contextvars

import keras
from keras.src.backend.common.variables import AutocastScope

from kerasllm.backend.base import IS_TENSORFLOW
from kerasllm.backend.compiling import current_graph, in_xla

if IS_TENSORFLOW:
    import tensorflow as tf

_shares = contextvars.ContextVar("shares", default=False)


@contextlib.contextmanager
def sharing():
    """Within it, `shared` functions are traced once in each TensorFlow graph."""
    token = _shares.set(IS_TENSORFLOW)
    try:
        yield
    finally:
        _shares.reset(token)


def shares():
    """Whether what is traced shares functions."""
    return _shares.get() and not in_xla() and current_graph() is not None


def shared(function, *tensors, variables, alike):
    """A function's results, where `shares` is true.

    Args:
        function: function of tensors -> (nested) tensors.
        *tensors: (nested) tensors.
        variables: sequence of the Keras variables that the function reads.
        alike: hashable. Functions for which it is equal do the same, each with its own variables, and read the same
            other tensors of the graph.
    """
    tensors = keras.tree.map_structure(tf.convert_to_tensor, tensors)
    given = [*tensors, *values_of(variables)]
    of_graph = functions_of_graph("shared")
    key = alike, *((tensor.dtype, tuple(tensor.shape)) for tensor in keras.tree.flatten(given))
    if key not in of_graph:
        of_graph[key] = traced(lambda *given: with_values(function, variables, given), given)
    return of_graph[key](*given)


def functions_of_graph(kind):
    """A dict of what was traced for the graph that is being made: it holds tensors of the graph, and goes with it."""
    graph, name = current_graph(), f"{kind}_functions"
    if not hasattr(graph, name):
        setattr(graph, name, {})
    return getattr(graph, name)


def values_of(variables):
    """Tensors of what Keras variables hold, not cast to what a scope of Keras asks for."""
    with AutocastScope(None):
        return [tf.convert_to_tensor(variable.value) for variable in variables]


def with_values(function, variables, given, **options):
    """Calls a function with the first of some tensors, while its variables have the others for values.

    Args:
        **options: of the `keras.StatelessScope`.
    """
    count = len(given) - len(variables)
    with AutocastScope(None):  # or the scope that a layer stands in would cast what is mapped
        scope = keras.StatelessScope(state_mapping=zip(variables, given[count:], strict=True), **options)
    with scope:
        return function(*given[:count])


def traced(function, given):
    """A function of (nested) tensors as a graph may call it many times: its body is not put in the place of each call,
    so that the executor has one of it, not one for each layer."""
    shared = tf.function(function, autograph=False, experimental_attributes={"_noinline": True})
    specs = keras.tree.map_structure(lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), given)
    return shared.get_concrete_function(*specs)
