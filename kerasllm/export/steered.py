"""Directions inside a model, by whose strengths a SavedModel is steered: inputs of its `generate`."""

import contextlib
import keyword
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from kerasllm.layers import taps


class Steering:
    """What is added to the residual stream, times strengths that are inputs of a signature.

    Args:
        model: the Keras model.
        directions: from `read_steering`.
    """

    def __init__(self, model, directions):
        self._model, self._directions = model, directions
        self.specs = [tf.TensorSpec((), tf.float32, name) for name in directions]

    @property
    def names(self):
        """Those of the strengths in the settings of a draw."""
        return tuple(map(_setting, self._directions))

    @contextlib.contextmanager
    def within(self, settings):
        """Within it, what is traced has the directions in it, where the settings have strengths."""
        with contextlib.ExitStack() as stack:
            for name, (tap, direction) in self._directions.items():
                if _setting(name) in settings:
                    add = _adder(settings[_setting(name)], np.array(direction, "float32"))
                    stack.enter_context(taps.changing({tap: add}, model=self._model))
            yield


def read_steering(model, steering):
    """Directions by the names of their strengths, as plain values: dict from str to (name of a tap, list of float).

    Args:
        model: a Keras model.
        steering: a `SteeringVector`, whose strength is called "steering"; or a dict from names to such.

    Raises:
        TypeError, ValueError: if they are something else, or of another model.
    """
    vectors = dict(steering) if isinstance(steering, Mapping) else {"steering": steering}
    found = {}
    for name, vector in vectors.items():
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name) or name in _TAKEN:
            raise ValueError(f"A strength is an input of its own, so its name cannot be {name!r}.")
        if not hasattr(vector, "direction"):
            raise TypeError(f"`steering` is a SteeringVector, or a dict of such, got {vector!r:.80} for {name!r}.")
        width = getattr(getattr(model, "config", None), "d_model", None)
        if vector.direction.shape != (width,):
            raise ValueError(f"{name!r} has shape {vector.direction.shape}, and the model a width of {width}.")
        found[name] = vector.name, vector.direction.tolist()
    return found


_TAKEN = ("text", "token_ids", "prompt_lengths", "max_new_tokens", "temperature", "top_k", "top_p", "seed")


def _setting(name):
    return f"strength of {name}"


def _adder(strength, direction):
    return lambda x: x + tf.cast(strength, x.dtype) * tf.cast(direction, x.dtype)
