"""What was read of earlier texts, for others that begin alike: conversations that go on, messages of a system."""

import collections
import math

import keras
import numpy as np
from keras import ops

_LEAST = 16  # tokens for which it is worth it
_STEP = 64  # of the lengths that caches have


class KeptTexts:
    """Caches of texts, of which those go first that were not used for longest.

    Args:
        most_bytes: int, of all caches together.
    """

    def __init__(self, most_bytes):
        self._most_bytes = most_bytes
        self._texts = collections.OrderedDict()  # from ids to cache and its size

    @property
    def num_bytes(self):
        return sum(size for _, size in self._texts.values())

    def begun_with(self, ids, places):
        """How many tokens of a text (list of int) are known, and a cache of one row of so many places with them, or
        None."""
        ids = np.array(ids, "int32")
        shared = {known: _shared(np.array(known, "int32"), ids) for known in self._texts}
        best = max(shared, key=shared.get, default=None)
        if best is None or shared[best] < _LEAST:
            return 0, None
        self._texts.move_to_end(best)
        return shared[best], keras.tree.map_structure(lambda part: _fitted(part, places), self._texts[best][0])

    def keep(self, ids, cache):
        """Keeps a text.

        Args:
            ids: list of int.
            cache: a cache of one row, or a function from a number of tokens to it.
        """
        ids = tuple(ids)
        if len(ids) < _LEAST:
            return
        for known in list(self._texts):
            if known[: len(ids)] == ids:
                self._texts.move_to_end(known)
                return
            if ids[: len(known)] == known:
                del self._texts[known]
        cache = cache(-(-len(ids) // _STEP) * _STEP) if callable(cache) else cache
        size = sum(math.prod(part.shape) * _bytes_of(part) for part in keras.tree.flatten(cache))
        self._texts[ids] = cache, size
        while self.num_bytes > self._most_bytes:
            self._texts.popitem(last=False)


def _shared(known, ids):
    """How many tokens two texts begin with alike."""
    length = min(len(known), len(ids))
    differs = np.flatnonzero(known[:length] != ids[:length])
    return int(differs[0]) if len(differs) else length


def _fitted(part, places):
    part = part[:, :, :places]
    return ops.pad(part, ((0, 0), (0, 0), (0, places - part.shape[2]), (0, 0)))


def _bytes_of(part):
    return 2 if keras.backend.standardize_dtype(part.dtype) in ("bfloat16", "float16") else 4
