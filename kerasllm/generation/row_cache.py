"""The keys and values of texts that are written side by side, each begun when a row was free.

One clock counts the steps of all rows, and what they write in a step stands at its place in a ring: so a text that
begins at place b of the clock has its token i in the slot b + i modulo the ring's length, and every step writes to one
slot of all rows. Shapes: R rows, K key/value heads, L slots, S places of one text, h head_dim.
"""

import functools

import keras
import numpy as np
from keras import ops

from kerasllm import backend
from kerasllm.layers.cache import KeyValueCache, SharedRing, join_heads, split_heads

SMALLEST_LENGTH = 256


def length_bucket(length, longest):
    """Places for a text: a power of 2, so that few lengths are compiled, or all that the model takes."""
    places = SMALLEST_LENGTH
    while places < length:
        places *= 2
    return places if longest is None else min(places, longest)


class RowCache:
    """See above.

    Args:
        init_cache: function (batch_size, length, full=) -> cache.
        rows, length: int, R and L.
        in_buffers: bool. It is written in place, in `backend.buffers`.

    Attributes:
        rows, length: those of now.
        values: nested tensors or buffers, as the compiled loop takes them.
    """

    def __init__(self, init_cache, rows, length, in_buffers):
        self.rows, self.length, self._in_buffers = rows, length, in_buffers
        self._set([block._replace(own=SharedRing(*block.own)) for block in init_cache(rows, length, full=True)])

    def _set(self, cache):
        joined = join_heads(cache)
        self.values = backend.buffers(joined) if self._in_buffers else joined

    def _whole(self):
        return split_heads(backend.read_buffers(self.values) if self._in_buffers else self.values, self.rows)

    def resize(self, kept, rows, length, index, in_buffers):
        """Another number of rows and slots.

        Args:
            kept: list of int, the rows that stay, which become the first ones.
            rows, length, in_buffers: as for the class.
            index: int, the clock. All that a kept row has stands in the latest places before it.
        """
        sources = np.array([*kept, *[0] * (rows - len(kept))], "int32")
        slots = (_places(length, index - 1) % self.length).astype("int32")
        cache = keras.tree.map_structure(lambda leaf: _taken(leaf, sources, slots), self._whole())
        self.rows, self.length, self._in_buffers = rows, length, in_buffers
        self._set(cache)

    def put(self, row, begin, count, index, cache):
        """Gives a row the text of a cache of one row, KeyValueCaches of (1, K, S, h), of which it has `count` tokens,
        the first at place `begin`; the next place is `index`."""
        sources = _places(self.length, index - 1) - begin
        sources = np.clip(sources, 0, max(count - 1, 0)).astype("int32")
        leaves = keras.tree.flatten(self.values)
        for number, part in enumerate(keras.tree.flatten(cache)):
            new = _writer()(leaves[number], ops.take(part, sources, axis=2), np.array(row, "int32"))
            leaves[number] = leaves[number] if self._in_buffers else new
        self.values = keras.tree.pack_sequence_as(self.values, leaves)

    def take(self, row, begin, count):
        """The first `count` places of the text of a row, as a cache of one row."""
        slots = ((begin + np.arange(count)) % self.length).astype("int32")
        rows = np.array([row], "int32")
        cache = keras.tree.map_structure(lambda leaf: _taken(leaf, rows, slots), self._whole())
        return [block._replace(own=KeyValueCache(*block.own)) for block in cache]


def _places(length, last):
    """The latest place up to `last` that each slot holds; negative for none."""
    return last - (last - np.arange(length)) % length


def _taken(leaf, rows, slots):
    return ops.take(ops.take(leaf, rows, axis=0), slots, axis=2)


@functools.cache
def _writer():
    """A compiled function that writes a row (1, K, L, h) into a tensor, which it returns, or into a buffer."""

    def write(leaf, new, row):
        old = backend.read_buffers(leaf) if backend.are_buffers(leaf) else leaf
        if len(old.shape) == 4:
            written = ops.slice_update(old, (row, 0, 0, 0), new)
        else:  # its rows and heads are joined
            written = ops.slice_update(old, (row * new.shape[1], 0, 0), new[0])
        if not backend.are_buffers(leaf):
            return written
        backend.write_buffers(leaf, written)
        return row

    return backend.compile_function(write, [])
