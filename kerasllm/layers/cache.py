"""Keys and values of tokens that were read before: what decoding carries from one step to the next.

A layer chooses how its own are laid out, by the class that `init_cache` makes: all of them, or where a window hides the
others a ring of the latest. Caches are tuples of tensors, which a loop carries as they are.

Shapes: B batch, K key/value heads, S places, T new tokens, h head_dim.
"""

from typing import NamedTuple

import keras
from keras import ops

from kerasllm import backend


class KeyValueCache(NamedTuple):
    """Keys and values of all places, those of a context too.

    Attributes:
        key, value: float (B, K, S, h).
    """

    key: object
    value: object

    def places(self, index, length):
        """Where in the text the keys that `extended` gives stand, int32 (S,), when tokens come to the places from
        `index` on, `length` of them. What stands there later is hidden from them by causality."""
        return ops.arange(ops.shape(self.key)[2], dtype="int32")

    def begun_with(self, prefix, padding, index):
        """With what stands before place `index` taken from the beginning of a text, which begins later in some rows.

        Args:
            prefix: KeyValueCache of one row, (1, K, Q, h).
            padding: int32 (B,), the place at which each row's text begins.
            index: int.
        """
        places = ops.arange(ops.shape(self.key)[2], dtype="int32")
        return KeyValueCache(*(_rows_from(part, places, padding) for part in prefix))

    def seen_by(self, length):
        """The number of keys that `extended` gives so many tokens."""
        return self.key.shape[2]

    def columns(self, mask, places):
        """Of a mask (..., S) for all places, or None, what concerns these `places`: a mask, or None."""
        return mask

    def extended(self, key, value, index):
        """With new tokens from place `index` on.

        Args:
            key, value: float (B, K, T, h).
            index: int scalar.

        Returns:
            The keys and values that new tokens may see, (B, K, any, h), and the cache after them.
        """
        cache = KeyValueCache(_write(self.key, key, index), _write(self.value, value, index))
        return *cache, cache


class RingCache(NamedTuple):
    """Keys and values of the latest places: that of place p is in slot p modulo their number.

    Attributes:
        key, value: float (B, K, slots, h), as many slots as a token can see, or fewer for a shorter text.
    """

    key: object
    value: object

    def places(self, index, length):
        """As for `KeyValueCache`; negative for slots that are empty."""
        slots = ops.arange(ops.shape(self.key)[2], dtype="int32")
        if isinstance(length, int) and length == 1:
            return latest_places(slots, index)
        return ops.concatenate([latest_places(slots, index - 1), index + ops.arange(length, dtype="int32")])

    def begun_with(self, prefix, padding, index):
        """As for `KeyValueCache`."""
        places = latest_places(ops.arange(ops.shape(self.key)[2], dtype="int32"), index - 1)
        return RingCache(*(_rows_from(part, places, padding) for part in prefix))

    def seen_by(self, length):
        """As for `KeyValueCache`."""
        return None if length is None else self.key.shape[2] + (0 if length == 1 else length)

    def columns(self, mask, places):
        """As for `KeyValueCache`; what is empty is hidden."""
        is_full = (places >= 0)[None]
        if mask is None:
            return is_full
        return ops.logical_and(ops.take(ops.cast(mask, "bool"), ops.maximum(places, 0), axis=-1), is_full)

    def extended(self, key, value, index):
        """As for `KeyValueCache`. A single token takes the place of one that it does not see; the first of several may
        see what the last takes the place of."""
        if key.shape[2] == 1:
            slot = index % ops.shape(self.key)[2]
            cache = type(self)(_write(self.key, key, slot), _write(self.value, value, slot))
            return *cache, cache
        both = [ops.concatenate(parts, axis=2) for parts in ((self.key, key), (self.value, value))]
        return *both, RingCache(self._turned(self.key, key, index), self._turned(self.value, value, index))

    @staticmethod
    def _turned(old, new, index):
        """Slots with the latest of old and new tokens."""
        T = ops.shape(new)[2]
        newest = latest_places(ops.arange(ops.shape(old)[2], dtype="int32"), index + T - 1) - index
        return ops.where(newest[:, None] >= 0, ops.take(new, ops.maximum(newest, 0), axis=2), old)


class SharedRing(RingCache):
    """A ring whose rows hold texts that begin at places of their own: masks are for its slots, and say which places are
    a row's."""

    __slots__ = ()

    def columns(self, mask, places):
        """As for `RingCache`, of a mask (B, slots)."""
        return mask


class BlockCache(NamedTuple):
    """What a block keeps.

    Attributes:
        own: the cache of its self-attention.
        context: `KeyValueCache` of the context, or () where there is none.
    """

    own: object
    context: object = ()

    def of_rows(self, rows):
        """That of other rows of the batch, int (B,), which share a context: as when beams are chosen."""
        return self._replace(own=keras.tree.map_structure(lambda part: ops.take(part, rows, axis=0), self.own))


def empty_cache(batch_size, heads, length, head_dim, dtype, window=None):
    """A cache of zeros for `length` places, of which a token sees `window` or all (None)."""
    slots = length if window is None else _smaller(window, length)
    shape = (batch_size, heads, slots, head_dim)
    kind = KeyValueCache if window is None else RingCache
    return kind(ops.zeros(shape, dtype), ops.zeros(shape, dtype))


def _smaller(window, length):
    return min(window, length) if isinstance(length, int) else ops.minimum(window, length)


def begun_with(cache, prefix, padding, index):
    """As the methods of that name, for caches of any nesting."""
    if isinstance(cache, BlockCache):
        return cache._replace(own=cache.own.begun_with(prefix.own, padding, index))
    return [begun_with(*pair, padding, index) for pair in zip(cache, prefix, strict=True)]


def join_heads(cache):
    """Caches of any nesting without axes of one element: as such, XLA writes those that a loop carries in place."""

    def join(part):
        B, K, _, h = part.shape
        return part if B is None or 1 not in (B, K) else ops.reshape(part, (B * K, -1, h))

    return keras.tree.map_structure(join, cache)


def split_heads(cache, batch_size):
    """What `join_heads` has joined, as it was."""

    def split(part):
        if len(part.shape) == 4:
            return part
        return ops.reshape(part, (batch_size, part.shape[0] // batch_size, -1, part.shape[2]))

    return keras.tree.map_structure(split, cache)


def latest_places(slots, last):
    """The latest place up to `last` that each slot holds."""
    return last - (last - slots) % ops.shape(slots)[0]


def _rows_from(tensor, places, padding):
    """What a tensor (1, K, Q, h) has for places of rows that begin later: (B, K, S, h)."""
    source = ops.clip(places[None] - padding[:, None], 0, ops.shape(tensor)[2] - 1)
    return ops.transpose(ops.take(tensor[0], source, axis=1), (1, 0, 2, 3))


def _write(tensor, new, index):
    """A tensor (B, K, S, h) with new tokens (B, K, T, h) from place `index` on."""
    B, K, _, h = tensor.shape
    if B is None or 1 not in (B, K):
        return backend.slice_update(tensor, new, (0, 0, index, 0))
    # Products drop axes of one element. XLA writes in place only where no axis is dropped after it: so, before.
    tensor, new = (ops.reshape(part, (B * K, -1, h)) for part in (tensor, new))
    return ops.reshape(backend.slice_update(tensor, new, (0, index, 0)), (B, K, -1, h))
