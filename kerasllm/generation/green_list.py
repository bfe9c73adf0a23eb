"""The watermark that makes some tokens, the green ones, likelier: which they are, the token before them says.

Shapes: B batch, w tokens of context, V vocab, N windows.
"""

import dataclasses
import functools
import math
from collections import Counter

import numpy as np
from keras import ops

from kerasllm import backend
from kerasllm.generation.options import real_number, whole_number
from kerasllm.generation.torch_shuffle import in_front, permutation
from kerasllm.generation.watermarks import Evidence, Watermark, standard_score

_TABLE = 1_000_003  # entries of the table that "selfhash" hashes tokens by
_CANDIDATES = 40  # of which "selfhash" looks whether they would be green
_ROWS_AT_ONCE, _VALUES_AT_ONCE = 256, 2**21  # tokens green or not, computed at once by a detector


@dataclasses.dataclass(frozen=True)
class GreenList(Watermark):
    """The watermark of Kirchenbauer et al. 2023 (https://arxiv.org/abs/2301.10226), as transformers'
    `WatermarkingConfig` sets it: `GreenList(**config.to_dict())` is the same.

    Args:
        greenlist_ratio: float, the share of the vocabulary that is green.
        bias: float, added to the logits of green tokens.
        hashing_key: int, at least 1. Who knows it can detect the mark, and remove it: choose one of your own.
        seeding_scheme: "lefthash": the last token says which tokens are green. Or "selfhash": the smallest hash of the
            last `context_width` tokens, the new one among them (https://arxiv.org/abs/2306.04634), of which the 40
            likeliest are tried, which takes 40 times as long.
        context_width: int, how many tokens a text has to have before it is marked.
        vocab_size: int or None, how many ids the model knows, where that is not what the tokenizer has. The green ones
            depend on it.

    Example:
        >>> watermark = kerasllm.generation.GreenList(hashing_key=1234567)
        >>> text = kerasllm.generate(model, tokenizer, "Once", 200, temperature=1.0, watermark=watermark)
        >>> kerasllm.safety.detect(text, tokenizer, watermark).z_score
        11.9
    """

    greenlist_ratio: float = 0.25
    bias: float = 2.0
    hashing_key: int = 15485863
    seeding_scheme: str = "lefthash"
    context_width: int = 1
    vocab_size: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if not 0 < real_number("greenlist_ratio", self.greenlist_ratio) < 1:
            raise ValueError(f"`greenlist_ratio` must be between 0 and 1, got {self.greenlist_ratio}.")
        if not math.isfinite(real_number("bias", self.bias)):
            raise ValueError(f"`bias` must be finite, got {self.bias}.")
        if self.seeding_scheme not in ("lefthash", "selfhash"):
            raise ValueError(f"`seeding_scheme` is 'lefthash' or 'selfhash', got {self.seeding_scheme!r}.")
        for name in ("hashing_key", "context_width"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), 1))

    def fitted(self, model_size, tokenizer_size):
        if self.vocab_size is None and model_size != tokenizer_size:
            raise ValueError(
                f"The model knows {model_size} ids and its tokenizer {tokenizer_size}: say which count with "
                f"GreenList(vocab_size={model_size}), which its detector has to be told too."
            )
        return self

    def start(self, tokens, is_prompt, vocab_size):
        """The last tokens (B, w), and how many there are, (B, 1)."""
        self._count_green(self.vocab_size or vocab_size)
        places = ops.arange(ops.shape(tokens)[1], dtype="int32")[None]
        index = ops.max(ops.where(is_prompt, places + 1, 0))
        last = ops.maximum(index - ops.arange(self.context_width, 0, -1, dtype="int32"), 0)
        return ops.take(tokens, last, axis=1), ops.sum(ops.cast(is_prompt, "int32"), axis=1, keepdims=True)

    def apply_last(self, logits, state):
        window, length = state
        V = logits.shape[-1]
        size = self.vocab_size or V
        if self.seeding_scheme == "selfhash":
            green = self._green_candidates(logits, window, size)
        else:
            green = in_front(self._seeds(window, size), size, self._count_green(size))
            green = ops.pad(green, ((0, 0), (0, max(V - size, 0))))[:, :V]
        return ops.where(ops.logical_and(green, length >= self.context_width), logits + self.bias, logits)

    def advance(self, state, token):
        window, length = state
        return ops.concatenate([window[:, 1:], token[:, None]], axis=1), length + 1

    def evidence(self, texts, vocab_size, repeated=False):
        size = self.vocab_size or vocab_size
        counts = [Counter(map(tuple, self._windows(ids).tolist())) for ids in texts]
        windows = list({window: None for count in counts for window in count})
        green = dict(zip(windows, self._last_is_green(windows, size), strict=True))
        return [self._evidence(count, green, repeated) for count in counts]

    def _evidence(self, counts, green, repeated):
        times = [count if repeated else 1 for count in counts.values()]
        found = sum(time for time, window in zip(times, counts, strict=True) if green[window])
        total, ratio = sum(times), self.greenlist_ratio
        z_score = standard_score(found - ratio * total, total * ratio * (1 - ratio))
        return Evidence(total, found / max(total, 1), z_score)

    def _windows(self, ids):
        """The tokens by which each is green or not, and at last itself, (N, n)."""
        length = self.context_width + (self.seeding_scheme == "lefthash")
        if len(ids) < length:
            return np.zeros((0, length), "int32")
        return np.lib.stride_tricks.sliding_window_view(np.asarray(ids, "int32"), length)

    def _last_is_green(self, windows, size):
        """Of windows from `_windows`, a list of tuples, whether the last token is green: list of bool."""
        rows = max(min(_VALUES_AT_ONCE // size, _ROWS_AT_ONCE), 1)
        find = _finder(self, size)
        found = []
        for begin in range(0, len(windows), rows):
            some = np.array(windows[begin : begin + rows], "int32")
            filled = np.pad(some, ((0, rows - len(some)), (0, 0)))
            found += np.asarray(ops.convert_to_numpy(find(filled)))[: len(some)].tolist()
        return found

    def _count_green(self, size):
        count = int(size * self.greenlist_ratio)
        if count < 1:
            raise ValueError(f"Of {size} tokens, a `greenlist_ratio` of {self.greenlist_ratio} makes none green.")
        return count

    def _green_candidates(self, logits, window, size):
        """Which of the likeliest tokens would be green, bool (B, V)."""
        B, V = ops.shape(logits)[0], logits.shape[-1]
        count = min(_CANDIDATES, size, V)
        ids = ops.minimum(ops.cast(ops.top_k(logits, count)[1], "int32"), size - 1)
        before = ops.broadcast_to(window[:, None, 1:], (B, count, self.context_width - 1))
        windows = ops.concatenate([before, ids[:, :, None]], axis=2)
        green = self._are_green(ops.reshape(windows, (-1, self.context_width)), size)
        chosen = ops.one_hot(ids, V, dtype="bool")
        return ops.any(ops.logical_and(chosen, ops.reshape(green, (B, count, 1))), axis=1)

    def _are_green(self, windows, size):
        """Of windows (N, n) as of `_windows`, whether the last token is green, bool (N,)."""
        seeding = windows if self.seeding_scheme == "selfhash" else windows[:, :-1]
        green = in_front(self._seeds(seeding, size), size, self._count_green(size))
        return ops.take_along_axis(green, windows[:, -1:], axis=1)[:, 0]

    def _seeds(self, windows, size):
        """What torch's generator is seeded by behind windows (N, w): the lower 32 bits, uint32 (N,)."""
        if self.seeding_scheme == "lefthash":
            return ops.take(ops.convert_to_tensor(_left_seeds(self.hashing_key, size)), windows[:, -1])
        factors, highs, lows = map(ops.convert_to_tensor, _self_hashes(self.hashing_key, size))
        factor = ops.take(factors, windows[:, -1:])
        high, low = _times(ops.take(highs, windows), ops.take(lows, windows), factor)
        least = high[:, 0], low[:, 0]
        for place in range(1, windows.shape[1]):
            least = _less(least, (high[:, place], low[:, place]))
        # transformers takes a seed modulo 2^64 - 1, which is one less than modulo 2^64 where it is negative.
        return least[1] - ops.right_shift(least[0], np.uint32(31))


@functools.lru_cache(maxsize=16)
def _finder(watermark, size):
    return backend.compile_function(functools.partial(watermark._are_green, size=size), [])


@functools.lru_cache(maxsize=8)
def _left_seeds(key, size):
    return np.array([key * token % (2**64 - 1) % 2**32 for token in range(size)], "uint32")


@functools.lru_cache(maxsize=4)
def _self_hashes(key, size):
    """Each token's entry of the table, and that times the key in two halves of 64 bits: three of uint32 (V,)."""
    table = permutation(key, _TABLE)
    entries = [table[token % _TABLE] + 1 for token in range(size)]
    products = np.array([key * entry % 2**64 for entry in entries], "uint64")
    return np.array(entries, "uint32"), (products >> 32).astype("uint32"), products.astype("uint32")


def _times(high, low, factor):
    """The product of numbers of 64 bits, in halves, and numbers of 32: both halves. (JAX has 64 bits only if asked.)"""
    half = np.uint32(0xFFFF)
    low_1, low_0 = ops.right_shift(low, np.uint32(16)), ops.bitwise_and(low, half)
    factor_1, factor_0 = ops.right_shift(factor, np.uint32(16)), ops.bitwise_and(factor, half)
    middle = low_1 * factor_0 + ops.right_shift(low_0 * factor_0, np.uint32(16))
    carried = ops.bitwise_and(middle, half) + low_0 * factor_1
    carry = low_1 * factor_1 + ops.right_shift(middle, np.uint32(16)) + ops.right_shift(carried, np.uint32(16))
    return high * factor + carry, low * factor


def _less(one, other):
    """The lesser of two signed numbers of 64 bits, each in halves."""
    (high_1, low_1), (high_2, low_2) = one, other
    signed = [ops.bitwise_xor(high, np.uint32(0x80000000)) for high in (high_1, high_2)]
    below = ops.logical_and(high_1 == high_2, low_1 < low_2)
    is_first = ops.logical_or(signed[0] < signed[1], below)
    return ops.where(is_first, high_1, high_2), ops.where(is_first, low_1, low_2)
