"""Tokens and words that are to be likelier or rarer, by what is added to their logits.

Shapes: B batch, w tokens of context, V vocab, G sequences of one length.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from keras import ops

from kerasllm.generation.options import real_number
from kerasllm.generation.rules import LogitsRule


@dataclasses.dataclass(frozen=True)
class SequenceBias(LogitsRule):
    """Adds to the logit of a token, or of the last of several behind the others, as `sequence_bias` of transformers.

    Args:
        biases: tuple of pairs: ids, a tuple of int, and what is added, float; minus infinity rules out.
    """

    biases: tuple

    def start(self, tokens, is_prompt, vocab_size):
        """The last tokens, int32 (B, w), with -1 before the beginning."""
        highest = max(max(ids) for ids, _ in self.biases)
        if highest >= vocab_size:
            raise ValueError(f"`bias` has token id {highest}, and the model knows ids from 0 to {vocab_size - 1}.")
        width = max(len(ids) for ids, _ in self.biases) - 1
        places = ops.arange(ops.shape(tokens)[1], dtype="int32")[None]
        index = ops.max(ops.where(is_prompt, places + 1, 0)) - ops.arange(width, 0, -1, dtype="int32")
        columns = ops.maximum(index, 0)
        is_text = ops.logical_and(ops.take(is_prompt, columns, axis=1), index[None] >= 0)
        return ops.where(is_text, ops.take(tokens, columns, axis=1), -1)

    def apply(self, logits, state):
        B, V = ops.shape(logits)[0], logits.shape[-1]
        added = np.zeros((1, V), "float32")
        for ids, bias in self.biases:
            if len(ids) == 1:
                added[0, ids[0]] += bias
        logits = logits + added
        rows = ops.arange(B, dtype="int32")[:, None] * V
        for length in sorted({len(ids) for ids, _ in self.biases} - {1}):
            same = [(ids, bias) for ids, bias in self.biases if len(ids) == length]
            before = np.array([ids[:-1] for ids, _ in same], "int32")
            last = np.array([ids[-1] for ids, _ in same], "int32")
            is_behind = ops.all(state[:, None, -(length - 1) :] == before[None], axis=-1)
            values = ops.where(is_behind, np.array([bias for _, bias in same], "float32")[None], 0.0)
            places = ops.reshape(rows + last[None], (-1, 1))
            logits = logits + ops.reshape(ops.scatter(places, ops.reshape(values, (-1,)), (B * V,)), (B, V))
        return logits

    def advance(self, state, token):
        return ops.concatenate([state, token[:, None]], axis=1)[:, 1:]


def read_biases(biases, encode):
    """The `SequenceBias` that a user asks for.

    Args:
        biases: dict from a token id, a tuple of them or a text to what is added. Texts are meant at the beginning of a
            text and behind a space.
        encode: function from a text to a list of ids.

    Raises:
        TypeError, ValueError: if they are something else.
    """
    if not isinstance(biases, Mapping):
        raise TypeError(f"`bias` is a dict from tokens or texts to what is added, got {type(biases).__name__}.")
    found = {}
    for key, bias in biases.items():
        bias = real_number("bias", bias)
        if not bias < float("inf"):
            raise ValueError(f"`bias` must be less than infinity, got {bias} for {key!r:.80}.")
        if isinstance(key, str):
            sequences = {tuple(encode(text)) for text in (key, f" {key}")}
        else:
            sequences = {tuple(map(int, key if isinstance(key, tuple) else (key,)))}
        for ids in sequences:
            if not ids or min(ids) < 0:
                raise ValueError(f"`bias` has {key!r:.80}, which is no token.")
            found[ids] = found.get(ids, 0.0) + bias
    return SequenceBias(tuple(sorted(found.items())))
