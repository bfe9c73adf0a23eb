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

    def _parts(self, rows, slots):
        return _gatherer(self.rows)(self.values, rows.astype("int32"), slots.astype("int32"))

    def resize(self, kept, rows, length, index):
        """Another number of rows and slots.

        Args:
            kept: list of int, the rows that stay, which become the first ones.
            rows, length: as for the class.
            index: int, the clock. All that a kept row has stands in the latest places before it.
        """
        sources = np.array([*kept, *[0] * (rows - len(kept))])
        cache = self._parts(sources, _places(length, index - 1) % self.length)
        self.rows, self.length = rows, length
        self._set(cache)

    def put(self, row, begin, count, index, cache):
        """Gives a row the text of a cache of one row, KeyValueCaches of (1, K, S, h), of which it has `count` tokens,
        the first at place `begin`; the next place is `index`."""
        sources = np.clip(_places(self.length, index - 1) - begin, 0, max(count - 1, 0))
        written = _writer()(self.values, cache, np.array(row, "int32"), sources.astype("int32"))
        self.values = self.values if self._in_buffers else written

    def take(self, row, begin, count):
        """The first `count` places of the text of a row, as a cache of one row."""
        cache = self._parts(np.array([row]), (begin + np.arange(self.length)) % self.length)
        cache = keras.tree.map_structure(lambda part: part[:, :, :count], cache)
        return [block._replace(own=KeyValueCache(*block.own)) for block in cache]


def _places(length, last):
    """The latest place up to `last` that each slot holds; negative for none."""
    return last - (last - np.arange(length)) % length


# Each of them does all layers in one call, as a call takes as long as what it does.


@functools.cache
def _gatherer(num_rows):
    """A compiled function of the values of so many rows, and the rows and slots that are wanted, to a cache of those
    alone."""

    def gather(values, rows, slots):
        whole = split_heads(backend.read_buffers(values) if backend.are_buffers(values) else values, num_rows)
        return keras.tree.map_structure(lambda part: ops.take(ops.take(part, rows, axis=0), slots, axis=2), whole)

    return backend.compile_function(gather, [], xla=False, by_shape=True)


@functools.cache
def _writer():
    """A compiled function that writes the cache of one text to a row: to its slots, what `sources` name."""

    def write_part(leaf, part, row, sources):
        old = backend.read_buffers(leaf) if backend.are_buffers(leaf) else leaf
        new = ops.take(part, sources, axis=2)
        if len(old.shape) == 4:
            written = ops.slice_update(old, (row, 0, 0, 0), new)
        else:  # its rows and heads are joined
            written = ops.slice_update(old, (row * new.shape[1], 0, 0), new[0])
        return backend.write_buffers(leaf, written) if backend.are_buffers(leaf) else written

    def write(values, cache, row, sources):
        leaves, parts = keras.tree.flatten(values), keras.tree.flatten(cache)
        written = [write_part(leaf, part, row, sources) for leaf, part in zip(leaves, parts, strict=True)]
        return () if backend.are_buffers(values) else keras.tree.pack_sequence_as(values, written)

    return backend.compile_function(write, [])
