"""Functions with gradients of their own, which TensorFlow keeps no longer than the graph that they are called in."""

import functools
import weakref

from keras import ops

from kerasllm.backend.base import IS_TENSORFLOW

if IS_TENSORFLOW:
    import tensorflow as tf
    from tensorflow.python.framework.ops import gradient_registry


def custom_gradient(function):
    """A function of tensors whose gradient is its own, as `ops.custom_gradient` makes it on TensorFlow and JAX.

    Args:
        function: a function (*tensors) -> its result, a tensor, and a function from the gradient by that to those by
            the tensors, a tuple or list, or the one. It is given all tensors that it needs, as JAX wants it.
    """
    return kept_by_graph(ops.custom_gradient(function))


def kept_by_graph(function):
    """The same function, whose custom gradients TensorFlow keeps no longer than the graphs that they are in.

    It else keeps them for ever: it registers each by a name of its own, and each holds tensors, which hold their graph.
    Every training function that a process ever made would stay in memory (7 MB of it for a model of one layer).
    """
    if not IS_TENSORFLOW:
        return function

    @functools.wraps(function)
    def call(*args, **kwargs):
        results = function(*args, **kwargs)
        if not tf.executing_eagerly():
            _hand_over()
        return results

    return call


def _hand_over():
    """Has graphs keep the gradients that were registered last, and TensorFlow's registry no more than find them."""
    registered = gradient_registry._registry
    for name, entry in reversed(list(registered.items())):
        gradient = entry["type"]
        if not name.startswith("CustomGradient-") or isinstance(gradient, _Found):
            break
        graph = _graph_of(gradient)
        if graph is not None:
            entry["type"] = _Found(gradient)
            graph.own_gradients = [*getattr(graph, "own_gradients", ()), gradient]
            weakref.finalize(graph, registered.pop, name, None).atexit = False


def _graph_of(gradient):
    """The graph of the results that a gradient is for, which may be one inside another; None where it does not say."""
    result = _read_by(_read_by(gradient).get("tape_grad_fn")).get("result")
    return next((getattr(tensor, "graph", None) for tensor in tf.nest.flatten(result)), None)


def _read_by(function):
    """What a function reads of those around it, by name."""
    names, cells = (
        getattr(getattr(function, "__code__", None), "co_freevars", ()),
        getattr(function, "__closure__", None),
    )
    return {name: cell.cell_contents for name, cell in zip(names, cells or (), strict=True)}


class _Found:
    """A gradient that something else keeps."""

    def __init__(self, gradient):
        self._gradient = weakref.ref(gradient)

    def __call__(self, op, *upstream):
        return self._gradient()(op, *upstream)
