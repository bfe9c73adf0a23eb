"""Layers that do the same with weights of their own: they share one function in a graph, see `backend.sharing`."""

from typing import NamedTuple

import keras

from kerasllm import backend
from kerasllm.layers.taps import listeners


def call_alike(layer, x, cache, **options):
    """What a layer gives for x and its cache, by a function that layers which are alike share where graphs share.

    Args:
        layer: called as `layer(x, cache=cache, **options)`.
        x: tensor.
        cache: nested tensors, or None for a plain call.
        **options: what is the same for all of those layers.
    """
    alike = likeness(layer) if cache is not None and backend.shares() and not listeners() else None
    if alike is None:
        return layer(x, cache=cache, **options)
    return backend.shared(
        lambda x, cache: layer(x, cache=cache, **options),
        *(x, cache),
        variables=layer.weights,
        alike=(alike, identity(options)),
    )


def likeness(layer):
    """A text that is equal for layers that do the same with weights of the same shapes; None where there are layers of
    somebody else inside, whose configs need not say all that they do."""
    inside = layer._flatten_layers()
    if not all(type(part).__module__.startswith(("kerasllm.", "keras.")) for part in inside):
        return None
    of_parts = [(type(part), keras.saving.serialize_keras_object(part.activity_regularizer)) for part in inside]
    of_weights = [(tuple(weight.shape), weight.dtype, weight.trainable) for weight in layer.weights]
    return repr([_without_names(layer.get_config()), of_parts, of_weights])


def _without_names(config):
    if isinstance(config, dict):
        return {key: _without_names(value) for key, value in config.items() if key != "name"}
    return [*map(_without_names, config)] if isinstance(config, list | tuple) else config


def identity(value):
    """What is equal for plain values that are equal, and for others, such as tensors, if they are the same object."""
    if isinstance(value, dict):
        return tuple((name, identity(part)) for name, part in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(identity, value))
    return value if value is None or isinstance(value, bool | int | str) else _Itself(value)


class _Itself(NamedTuple):
    """An object by what it is, not by what is in it."""

    value: object

    def __eq__(self, other):
        return isinstance(other, _Itself) and self.value is other.value

    def __hash__(self):
        return id(self.value)
