"""The watermark that lets tokens win tournaments by numbers which a hash of the tokens before them gives.

Shapes: B batch, n tokens of an n-gram, H contexts that are remembered, V vocab, D keys, T n-grams.
"""

import dataclasses
import functools

import numpy as np
from keras import ops

from kerasllm.generation.options import whole_number
from kerasllm.generation.torch_shuffle import raw_numbers
from kerasllm.generation.watermarks import Evidence, Watermark, standard_score

_MULTIPLIER = np.uint32(6364136223846793005 % 2**32)
_FIRST_WEIGHT, _LAST_WEIGHT = 10.0, 1.0  # of the layers of a tournament: the first ones say most


@dataclasses.dataclass(frozen=True)
class SynthID(Watermark):
    """The watermark of Dathathri et al. 2024 (https://www.nature.com/articles/s41586-024-08025-4), as transformers'
    `SynthIDTextWatermarkingConfig` sets it. Over all keys, each token is drawn as often as without the mark.

    Args:
        keys: sequence of int, one for each layer of the tournament, 20 to 30 for the most part. Who knows them can
            detect the mark.
        ngram_len: int, at least 2: the tokens of which the last is marked by those before.
        context_history_size: int. What was drawn behind the same `ngram_len - 1` tokens, so many tokens ago at most, is
            not marked again.
        sampling_table_seed: int, of the table of g-values.
        sampling_table_size: int, of that table, a power of two.
        skip_first_ngram_calls: bool. The first `ngram_len - 1` tokens are not marked.

    Example:
        >>> watermark = kerasllm.generation.SynthID(keys=[654, 400, 836, 123, 340, 443, 597, 160, 57])
        >>> text = kerasllm.generate(model, tokenizer, "Once", 200, temperature=1.0, watermark=watermark)
        >>> kerasllm.safety.detect(text, tokenizer, watermark).p_value
        3e-12
    """

    keys: tuple
    ngram_len: int = 5
    context_history_size: int = 1024
    sampling_table_seed: int = 0
    sampling_table_size: int = 2**16
    skip_first_ngram_calls: bool = False

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "keys", tuple(whole_number("keys", key, -(2**63)) for key in self.keys))
        if not self.keys:
            raise ValueError("`keys` must have at least one key.")
        for name, least in {"ngram_len": 2, "context_history_size": 1, "sampling_table_seed": 0}.items():
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least))
        size = whole_number("sampling_table_size", self.sampling_table_size, 2)
        if size > 2**24 or size & (size - 1):
            # So that of the hash, which has 64 bits, the lower ones alone count: JAX and some devices have 32.
            raise ValueError(f"`sampling_table_size` must be a power of two of at most 2**24, got {size}.")

    def start(self, tokens, is_prompt, vocab_size):
        """The tokens drawn last (B, n - 1), contexts that have been (B, H, n - 1), and how many were drawn (B, 1)."""
        B, width = ops.shape(tokens)[0], self.ngram_len - 1
        history = ops.full((B, self.context_history_size, width), -1, "int32")
        return ops.zeros((B, width), "int32"), history, ops.zeros((B, 1), "int32")

    def apply_last(self, logits, state):
        context, history, drawn = state
        hashed = self._hash(ops.cast(context, "uint32"))[:, None]
        hashed = _more_hashed(hashed, np.arange(logits.shape[-1], dtype="uint32")[None])
        likelihood = ops.softmax(logits)
        for key in self.keys:
            wins = ops.take(self._table, ops.cast(self._places(hashed, key), "int32"))
            likelihood = likelihood * (1 + wins - ops.sum(wins * likelihood, axis=-1, keepdims=True))
        is_known = ops.any(ops.all(history == context[:, None], axis=-1), axis=1, keepdims=True)
        return ops.where(ops.logical_or(is_known, self._is_skipped(drawn)), logits, ops.log(likelihood))

    def advance(self, state, token):
        context, history, drawn = state
        longer = ops.concatenate([context[:, None], history[:, :-1]], axis=1)
        history = ops.where(self._is_skipped(drawn)[:, :, None], history, longer)
        return ops.concatenate([context[:, 1:], token[:, None]], axis=1), history, drawn + 1

    def evidence(self, texts, vocab_size, repeated=False):
        return list(map(self._evidence, texts))

    def g_values(self, ids):
        """The g-values of a text's n-grams, int (T, D), and which of them are not to be counted, as their contexts are
        repeated, bool (T,)."""
        if len(ids) < self.ngram_len:
            return np.zeros((0, len(self.keys)), int), np.zeros(0, bool)
        ngrams = np.lib.stride_tricks.sliding_window_view(np.asarray(ids, "uint32"), self.ngram_len)
        hashed = self._hash(ngrams)
        values = np.stack([self._table[self._places(hashed, key)] for key in self.keys], axis=1).astype(int)
        return values, self._are_repeated(ngrams[:, :-1])

    def _evidence(self, ids):
        values, are_repeated = self.g_values(ids)
        values = values[~are_repeated]
        T, D = values.shape
        weights = np.linspace(_FIRST_WEIGHT, _LAST_WEIGHT, D)
        z_score = standard_score(((values - 0.5) @ weights).sum(), T * (weights**2).sum() / 4)
        return Evidence(T, float(values.mean()) if T else 0.0, z_score)

    def _are_repeated(self, contexts):
        latest, found = {}, []
        for place, context in enumerate(map(tuple, contexts.tolist())):
            found.append(place - latest.get(context, -np.inf) <= self.context_history_size)
            latest[context] = place
        return np.array(found)

    def _is_skipped(self, drawn):
        return ops.logical_and(self.skip_first_ngram_calls, drawn < self.ngram_len - 1)

    def _hash(self, tokens):
        """The hash of tokens, uint32 (N, n): (N,)."""
        hashed = tokens[:, 0] * 0 + np.uint32(1)
        for place in range(tokens.shape[1]):
            hashed = _more_hashed(hashed, tokens[:, place])
        return hashed

    def _places(self, hashed, key):
        """Where the g-values of hashed n-grams stand in the table, for a key."""
        return _more_hashed(hashed, np.uint32(key % 2**32)) & np.uint32(self.sampling_table_size - 1)

    @property
    def _table(self):
        return _table(self.sampling_table_seed, self.sampling_table_size)


def _more_hashed(hashed, number):
    """The hash with one more number in it: a linear congruential generator, of which the lower 32 bits, that depend on
    no higher ones, are all that a table of a power of two asks for."""
    return (hashed + number) * _MULTIPLIER + np.uint32(1)


@functools.lru_cache(maxsize=4)
def _table(seed, size):
    return (raw_numbers(seed, size) & 1).astype("float32")
