"""Which tokens may come next, whichever sampler draws them.

As in samplers.py, numbers and ids are inputs of the graph, so that other ones do not compile anew.
Shapes: B batch, L room for prompt and continuation, V vocab.
"""

import dataclasses
import math

import numpy as np
from keras import ops

from kerasllm.generation.options import real_number, whole_number


@dataclasses.dataclass(frozen=True)
class Rules:
    """What texts must not hold.

    Args:
        repetition_penalty: float, divides positive and multiplies negative logits of tokens that occurred; 1 is off
            (https://arxiv.org/abs/1909.05858).
        no_repeat_ngram_size: int. No so many tokens occur twice in the same order, the prompt's included; 0 is off
            (https://arxiv.org/abs/1705.04304).
        min_new_tokens: int. End tokens are not drawn before so many others.
        min_length: int, the same with the prompt's tokens counted.
        suppress_tokens: ids that are never drawn.
        begin_suppress_tokens: ids that are not the first drawn.

    Raises:
        ValueError: for a number out of its range; the message names it.
    """

    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    min_new_tokens: int = 0
    min_length: int = 0
    suppress_tokens: tuple = ()
    begin_suppress_tokens: tuple = ()

    def __post_init__(self):
        if not 0 < real_number("repetition_penalty", self.repetition_penalty) < math.inf:
            raise ValueError(f"`repetition_penalty` must be more than 0 (1 is off), got {self.repetition_penalty}.")
        for name in ("no_repeat_ngram_size", "min_new_tokens", "min_length"):
            whole_number(name, getattr(self, name), 0)
        for name in ("suppress_tokens", "begin_suppress_tokens"):
            ids = np.asarray(getattr(self, name))
            if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
                raise ValueError(f"`{name}` must be a list of token ids, got {getattr(self, name)!r:.80}.")

    @property
    def structure(self):
        """What the graph depends on, as against the numbers that it takes as inputs."""
        return self.repetition_penalty != 1, int(self.no_repeat_ngram_size)

    def numbers(self, hidden, end_ids):
        """The inputs of the graph.

        Args:
            hidden: bool (V,), ids that are never drawn, whatever the rules say.
            end_ids: list of int, which end a text.
        """
        hidden = np.stack([hidden, hidden])
        for row, ids in ((slice(None), self.suppress_tokens), (1, self.begin_suppress_tokens)):
            ids = np.asarray(ids, "int64")
            hidden[row, ids[(ids >= 0) & (ids < hidden.shape[1])]] = True  # Others cannot be drawn anyway.
        return {
            "repetition_penalty": ops.convert_to_tensor(float(self.repetition_penalty), "float32"),
            "min_new_tokens": ops.convert_to_tensor(self.min_new_tokens, "int32"),
            "min_length": ops.convert_to_tensor(self.min_length, "int32"),
            "end_ids": ops.convert_to_tensor(end_ids or [-1], "int32"),
            "hidden": ops.convert_to_tensor(hidden[0]),
            "hidden_first": ops.convert_to_tensor(hidden[1]),
        }


def ruled(structure, numbers, logits, tokens, begins, start, index, free=None):
    """Logits as the rules leave them: minus infinity for ids that must not be drawn, less for those that occurred.

    Args:
        structure, numbers: of `Rules`.
        logits: float32 (B, V), for the tokens at place `index`.
        tokens: int32 (B, L), texts so far.
        begins: int32 (B,), the place where each text begins.
        start: int scalar, the place of the first token that is drawn.
        index: int scalar.
        free: int scalar or None, the place of the first that is not prescribed; None means `start`.

    Returns:
        float32 (B, V).
    """
    penalises, size = structure
    V = ops.shape(logits)[-1]
    columns = ops.arange(ops.shape(tokens)[1], dtype="int32")[None]
    begins = begins[:, None]
    if penalises:
        seen = _marked(tokens, ops.logical_and(columns >= begins, columns < index), V)
        penalty = numbers["repetition_penalty"]
        logits = ops.where(seen, ops.where(logits > 0, logits / penalty, logits * penalty), logits)
    if size:
        logits = ops.where(_marked(tokens, _behind_repeated(tokens, begins, index, size), V), -float("inf"), logits)
    ids = ops.arange(V, dtype="int32")
    is_end = ops.any(ids[:, None] == numbers["end_ids"][None], axis=-1)
    too_early = ops.logical_or(index - start < numbers["min_new_tokens"], index - begins < numbers["min_length"])
    hidden = ops.where(index == (start if free is None else free), numbers["hidden_first"], numbers["hidden"])
    hidden = ops.logical_or(hidden[None], ops.logical_and(is_end[None], too_early))
    return ops.where(hidden, -float("inf"), logits)


def _behind_repeated(tokens, begins, index, size):
    """Which places (B, L) of texts stand behind the same `size - 1` tokens as place `index` does."""
    L = ops.shape(tokens)[1]
    columns = ops.arange(L, dtype="int32")[None]
    alike = ops.logical_and(columns - (size - 1) >= begins, columns < index)
    for back in range(1, size):
        # What turns around to the first places is left out above.
        last = ops.take(tokens, [ops.maximum(index - back, 0)], axis=1)
        alike = ops.logical_and(alike, ops.roll(tokens, back, axis=1) == last)
    return alike


def _marked(tokens, places, vocab_size):
    """Which ids stand at any of these places of tokens (B, L): bool (B, V)."""
    B = ops.shape(tokens)[0]
    flat = ops.arange(B, dtype="int32")[:, None] * vocab_size + tokens
    counts = ops.scatter(ops.reshape(flat, (-1, 1)), ops.reshape(ops.cast(places, "int32"), (-1,)), (B * vocab_size,))
    return ops.reshape(counts, (B, vocab_size)) > 0
