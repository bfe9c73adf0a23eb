"""Layers that do the same with weights of their own share one function: a graph calls it for each of them.

So it is traced once, and a graph of 30 layers is hardly larger than one of 3; and where XLA compiles the function, it
does so once. On JAX, and where XLA compiles a whole graph, there is nothing to share.
"""

import contextlib
import contextvars

import keras
from keras.src.backend.common.variables import AutocastScope

from kerasllm.backend.base import IS_TENSORFLOW
from kerasllm.backend.compiling import current_graph, in_xla, within_xla

if IS_TENSORFLOW:
    import tensorflow as tf

_shares = contextvars.ContextVar("shares", default=None)


@contextlib.contextmanager
def sharing(compiled=None):
    """Within it, `shared` functions are traced once: in each TensorFlow graph; or, where a dict is given to keep them
    in, for all graphs, and compiled by XLA."""
    token = _shares.set((compiled,) if IS_TENSORFLOW else None)
    try:
        yield
    finally:
        _shares.reset(token)


def shares():
    """Whether what is traced shares functions."""
    return _shares.get() is not None and not in_xla() and current_graph() is not None


def compiles_shared():
    """Whether XLA compiles those functions."""
    return shares() and _shares.get()[0] is not None


def shared(function, *tensors, variables, alike):
    """A function's results, where `shares` is true.

    Args:
        function: function of tensors -> (nested) tensors. If it is to be compiled, it reads no other tensors.
        *tensors: (nested) tensors; those in `buffers` it may write to.
        variables: sequence of the Keras variables that the function reads.
        alike: hashable. Functions for which it is equal do the same, each with its own variables, and read the same
            other tensors of the graph.
    """
    (compiled,), values = _shares.get(), values_of(variables)
    if compiled is not None:
        if alike not in compiled:
            compiled[alike] = tf.function(_in_xla(function, variables), jit_compile=True, autograph=False)
        return compiled[alike](*tensors, values)
    given = [*keras.tree.map_structure(tf.convert_to_tensor, tensors), *values]
    of_graph = functions_of_graph("shared")
    key = alike, *((tensor.dtype, tuple(tensor.shape)) for tensor in keras.tree.flatten(given))
    if key not in of_graph:
        of_graph[key] = traced(lambda *given: with_values(function, variables, given), given)
    return of_graph[key](*given)


def _in_xla(function, variables):
    def call(*given):
        *tensors, values = given
        with within_xla():
            return with_values(function, variables, [*tensors, *values])

    return call


def buffers(tensors):
    """(Nested) tensors in memory that compiled functions write to in place."""
    return keras.tree.map_structure(lambda tensor: tf.Variable(tensor, trainable=False), tensors)


def are_buffers(tensors):
    """Whether (nested) tensors come from `buffers`."""
    return IS_TENSORFLOW and any(isinstance(tensor, tf.Variable) for tensor in keras.tree.flatten(tensors))


def read_buffers(tensors):
    return keras.tree.map_structure(lambda buffer: buffer.read_value(), tensors)


def write_buffers(tensors, values):
    for buffer, value in zip(keras.tree.flatten(tensors), keras.tree.flatten(values), strict=True):
        buffer.assign(value, read_value=False)


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
