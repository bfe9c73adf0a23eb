"""The rules that have options of their own in `generate` and `translate`.

Their settings are part of their state, so that other ones do not compile anew: in a state, a setting has one row for
all texts. Shapes: B batch, L places for prompt and continuation, E end tokens, V vocab.
"""

import dataclasses
import math

import numpy as np
from keras import ops

from kerasllm import backend
from kerasllm.generation.options import real_number, whole_number
from kerasllm.generation.rules import InOrder, LogitsRule


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

    def as_rule(self, end_ids, vocab_size, own_rules=(), hidden_ids=(), first=0):
        """All of them as one `LogitsRule`.

        Args:
            end_ids: list of int, which end a text.
            vocab_size: int or None, how many ids the tokenizer has, where the model knows more.
            own_rules: tuple of a user's `LogitsRule`. They come before those that rule tokens out for good.
            hidden_ids: further ids that are never drawn.
            first: int, how many tokens are prescribed before the first that is drawn.
        """
        rules = []
        if self.repetition_penalty != 1:
            rules.append(RepetitionPenalty(float(self.repetition_penalty)))
        if self.no_repeat_ngram_size:
            rules.append(NoRepeatedNgrams(int(self.no_repeat_ngram_size)))
        # These are there also where their settings change nothing: a text with others needs no other loop.
        suppressed = (*self.suppress_tokens, *hidden_ids)
        return InOrder(
            (
                *rules,
                *own_rules,
                MinimumLength(tuple(end_ids), self.min_new_tokens, self.min_length),
                SuppressedTokens(suppressed, tuple(self.begin_suppress_tokens), first),
                *([] if vocab_size is None else [VocabularyEnd(vocab_size)]),
            )
        )


@dataclasses.dataclass(frozen=True)
class _SettingsInState(LogitsRule):
    @property
    def graph_key(self):
        return type(self)


@dataclasses.dataclass(frozen=True)
class RepetitionPenalty(_SettingsInState):
    """Tokens that occurred are less likely: see `Rules`."""

    penalty: float

    def start(self, tokens, is_prompt, vocab_size):
        return _row(self.penalty, "float32"), _marked(tokens, is_prompt, vocab_size)

    def apply(self, logits, state):
        penalty, seen = state
        return ops.where(seen, ops.where(logits > 0, logits / penalty, logits * penalty), logits)

    def advance(self, state, token):
        penalty, seen = state
        return penalty, ops.logical_or(seen, _ids_until(seen) == token[:, None])


@dataclasses.dataclass(frozen=True)
class NoRepeatedNgrams(LogitsRule):
    """No `size` tokens occur twice in the same order."""

    size: int

    def start(self, tokens, is_prompt, vocab_size):
        places = ops.arange(ops.shape(tokens)[1], dtype="int32")[None]
        index = ops.max(ops.where(is_prompt, places + 1, 0))
        return tokens, index - _lengths(is_prompt), ops.reshape(index, (1,))

    def apply(self, logits, state):
        tokens, begins, index = state
        behind_repeated = self._places_behind_repeated(tokens, begins, index[0])
        return ops.where(_marked(tokens, behind_repeated, ops.shape(logits)[-1]), -float("inf"), logits)

    def advance(self, state, token):
        tokens, begins, index = state
        return backend.slice_update(tokens, token[:, None], (0, index[0])), begins, index + 1

    def _places_behind_repeated(self, tokens, begins, index):
        """Which places (B, L) of texts stand behind the same `size - 1` tokens as place `index` does."""
        places = ops.arange(ops.shape(tokens)[1], dtype="int32")[None]
        alike = ops.logical_and(places - (self.size - 1) >= begins, places < index)
        for back in range(1, self.size):
            # What turns around to the first places is left out above.
            last = ops.take(tokens, [ops.maximum(index - back, 0)], axis=1)
            alike = ops.logical_and(alike, ops.roll(tokens, back, axis=1) == last)
        return alike


@dataclasses.dataclass(frozen=True)
class MinimumLength(_SettingsInState):
    """No end token before `min_new_tokens` are drawn, and none before the text has `min_length`."""

    end_ids: tuple
    min_new_tokens: int = 0
    min_length: int = 0

    def start(self, tokens, is_prompt, vocab_size):
        end_ids = np.array([self.end_ids or (-1,)], "int32")
        return end_ids, ops.maximum(int(self.min_length) - _lengths(is_prompt), int(self.min_new_tokens))

    def apply(self, logits, state):
        end_ids, remaining = state
        is_end = ops.any(_ids_until(logits)[:, :, None] == end_ids[:, None], axis=-1)
        return ops.where(ops.logical_and(is_end, remaining > 0), -float("inf"), logits)

    def advance(self, state, token):
        end_ids, remaining = state
        return end_ids, remaining - 1


@dataclasses.dataclass(frozen=True)
class SuppressedTokens(_SettingsInState):
    """Tokens that are never drawn, and others that are not drawn behind `begin` new ones."""

    ids: tuple
    begin_ids: tuple = ()
    begin: int = 0

    def start(self, tokens, is_prompt, vocab_size):
        masks = [_mask(ids, vocab_size) for ids in (self.ids, (*self.ids, *self.begin_ids))]
        return *masks, _row(self.begin, "int32")

    def apply(self, logits, state):
        always, at_begin, until_begin = state
        return ops.where(ops.where(until_begin == 0, at_begin, always), -float("inf"), logits)

    def advance(self, state, token):
        always, at_begin, until_begin = state
        return always, at_begin, until_begin - 1


@dataclasses.dataclass(frozen=True)
class VocabularyEnd(_SettingsInState):
    """Only the first `size` ids are drawn, for a model wider than its tokenizer."""

    size: int

    def start(self, tokens, is_prompt, vocab_size):
        return _row(self.size, "int32")

    def apply(self, logits, state):
        return ops.where(_ids_until(logits) < state, logits, -float("inf"))


def _row(value, dtype):
    """A setting, as one row for all texts."""
    return np.array([[value]], dtype)  # Arrays become tensors for less where the compiled loop takes them.


def _lengths(is_prompt):
    """Tokens of each prompt, int32 (B, 1)."""
    return ops.sum(ops.cast(is_prompt, "int32"), axis=1, keepdims=True)


def _mask(ids, vocab_size):
    """Which ids are among some, bool (1, V). Others than the model knows cannot be drawn anyway."""
    ids = np.asarray(ids, "int64")
    mask = np.zeros((1, vocab_size), bool)
    mask[0, ids[(ids >= 0) & (ids < vocab_size)]] = True
    return mask


def _ids_until(rows):
    """All ids (1, V) of rows (B, V)."""
    return ops.arange(ops.shape(rows)[-1], dtype="int32")[None]


def _marked(tokens, places, vocab_size):
    """Which ids stand at any of these places of tokens (B, L): bool (B, V)."""
    B = ops.shape(tokens)[0]
    flat = ops.arange(B, dtype="int32")[:, None] * vocab_size + tokens
    counts = ops.scatter(ops.reshape(flat, (-1, 1)), ops.reshape(ops.cast(places, "int32"), (-1,)), (B * vocab_size,))
    return ops.reshape(counts, (B, vocab_size)) > 0
