"""Arrays on disk or in an object store that need not fit into memory, read as one."""

import collections

import numpy as np

_BLOCK_BYTES = 2**18
_BLOCKS_KEPT = 256  # 64 MB


class RemoteArray:
    """An array of one axis in a file of an object store. What is asked for is fetched in blocks, the latest are kept.

    Args:
        path: `storage.RemotePath`.
        dtype: NumPy dtype.
        count: int, its length.
        blocks: dict of the blocks that are kept, which arrays can share.
    """

    def __init__(self, path, dtype, count, blocks):
        self._path, self.dtype, self._count, self._blocks = path, dtype, count, blocks

    def __len__(self):
        return self._count

    def __getitem__(self, part):
        begin, end, _ = part.indices(self._count)
        size = _BLOCK_BYTES // self.dtype.itemsize
        pieces = [
            self._block(number)[max(begin - number * size, 0) : end - number * size]
            for number in range(begin // size, -(-end // size) if end > begin else 0)
        ]
        return np.concatenate([np.zeros(0, self.dtype), *pieces])

    def _block(self, number):
        key = str(self._path), number
        if (block := self._blocks.pop(key, None)) is None:
            begin = number * _BLOCK_BYTES
            end = min(begin + _BLOCK_BYTES, self._count * self.dtype.itemsize)
            data = self._path.read_range(begin, end)
            if len(data) != end - begin:
                raise ValueError(f"{self._path} is shorter than the manifest says. Write the tokens anew.")
            block = np.frombuffer(data, self.dtype)
        self._blocks[key] = block  # the latest stand behind
        while len(self._blocks) > _BLOCKS_KEPT:
            self._blocks.popitem(last=False)
        return block


def new_blocks():
    """The blocks of `RemoteArray`s, none yet."""
    return collections.OrderedDict()


class JoinedArray:
    """Arrays of one axis, one behind the other, of which parts are read as they are asked for.

    Args:
        parts: list of arrays, or what has their `len`, `dtype` and slices.
        offsets: list of int, what to add to the values of each; None for 0.

    Example:

    >>> joined = JoinedArray([np.arange(3), np.arange(2)], offsets=[0, 10])
    >>> joined[1:4].tolist(), joined.take([-1, 0]).tolist()
    ([1, 2, 10], [11, 0])
    """

    ndim = 1

    def __init__(self, parts, offsets=None):
        self._parts, self._offsets = parts, offsets or [0] * len(parts)
        self._begins = np.cumsum([0, *map(len, parts)])
        self.dtype = parts[0].dtype

    def __len__(self):
        return int(self._begins[-1])

    @property
    def shape(self):
        """(N,)."""
        return (len(self),)

    def __getitem__(self, part):
        if not isinstance(part, slice):
            return self.take([part])[0]
        begin, end, step = part.indices(len(self))
        if step < 0:
            return np.asarray(self)[part]
        pieces = [np.zeros(0, self.dtype)]
        for number in range(np.searchsorted(self._begins, begin, "right") - 1, len(self._parts)):
            first = self._begins[number]
            if first >= end:
                break
            pieces.append(self._piece(number, max(begin - first, 0), end - first))
        return np.concatenate(pieces)[::step]

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self[:], dtype)

    def take(self, indices, axis=None, out=None, mode="wrap"):
        """The values at some places, which count on around the end: what `np.take` calls."""
        indices = np.asarray(indices) % len(self)
        values = np.empty(indices.shape, self.dtype)
        # Runs of places one behind the other, as windows are, are read together.
        flat, filled = indices.ravel(), values.ravel()
        cuts = np.flatnonzero(np.diff(flat) != 1) + 1
        for begin, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(flat)], strict=True):
            if end > begin:
                filled[begin:end] = self[flat[begin] : flat[begin] + end - begin]
        return filled.reshape(indices.shape)

    def _piece(self, number, begin, end):
        piece, offset = np.asarray(self._parts[number][int(begin) : int(end)]), self._offsets[number]
        return piece + self.dtype.type(offset) if offset else piece


class Slice:
    """The values begin … end - 1 of an array, which is not read yet."""

    def __init__(self, array, begin, end):
        self._array, self._begin, self._end, self.dtype = array, begin, end, array.dtype

    def __len__(self):
        return self._end - self._begin

    def __getitem__(self, part):
        begin, end, _ = part.indices(len(self))
        return self._array[self._begin + begin : self._begin + max(end, begin)]
