"""What layers on sequences of vectors have in common: they say in one sentence what they take."""

from typing import NamedTuple

import keras

from kerasllm.layers.checks import check_shape, check_vectors


class WithScores(NamedTuple):
    """What a call with `return_attention_scores` gives: its output, and attention probabilities."""

    output: object
    attention_scores: object


class WithCache(NamedTuple):
    """What a call with a cache gives: what it gives without, and the updated cache."""

    output: object
    cache: object


def result(output, scores=None, cache=None):
    """What a call returns, with those others that are not None."""
    output = output if scores is None else WithScores(output, scores)
    return output if cache is None else WithCache(output, cache)


def parts_of(result):
    """Output, scores and cache of what a call returned; None for what is not there."""
    scores = cache = None
    if isinstance(result, WithCache):
        result, cache = result
    if isinstance(result, WithScores):
        result, scores = result
    return result, scores, cache


def spec_of(cache):
    """The shapes of a cache, or None."""
    return (
        None
        if cache is None
        else keras.tree.map_structure(lambda part: keras.KerasTensor(part.shape, part.dtype), cache)
    )


class SequenceLayer(keras.layers.Layer):
    """A layer called as `layer(x, context, mask=…, …)` on float (B, T, width).

    It looks at what it is called with before Keras does, so that what is wrong is said here and in these words.
    """

    _input_width = None  # what it was built for

    def __call__(self, x, *args, **kwargs):
        self._check_call(x, *args, **kwargs)
        return super().__call__(x, *args, **kwargs)

    def _check_call(self, x, context=None, *, cache=None, **given):
        check_vectors(self.name, "x", x, self._input_width)
        B, T, _ = x.shape
        S = T if cache is None else None  # A cache holds other tokens too.
        if context is not None:
            check_vectors(self.name, "context", context)
            check_shape(self.name, "context", context, [(B, None, None)])
        known = {
            "mask": [(B, S)],
            "x_mask": [(B, S)],
            "context_mask": [(B, None if context is None else context.shape[1])],
            "document_ids": [(B, T)],
            "span_ids": [(B, T)],
            "position_ids": [(B, T), (T,)],
            "attention_mask": [(B, getattr(self, "num_heads", None), T, S), (B, T, S), (T, S)],
        }
        for name, shapes in known.items():
            if given.get(name) is not None:
                check_shape(self.name, name, given[name], shapes)
