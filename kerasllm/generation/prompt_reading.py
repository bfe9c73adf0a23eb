"""A prompt on its way into a cache of its own, in pieces between which other texts may go on."""

import numpy as np

from kerasllm.generation.row_cache import length_bucket

PIECES = (16, 64, 256)  # tokens that are read at once


class Reading:
    """A prompt on its way into a cache of its own.

    Attributes:
        ids: list of int.
        names: list of int, the same where no pictures stand: see `SeenPictures`.
        known: int, how many of its tokens were read by others.
        left: int, how many are to be read.
    """

    def __init__(self, batch, ids, pictures=None):
        self.ids, self._batch, self._pictures = ids, batch, pictures
        self.names = ids if pictures is None else pictures.names
        self._target = len(ids) - 1
        self._places = length_bucket(max(self._target, 1), batch.longest)
        self.known, self.cache = batch.kept.begun_with(self.names[:-1], self._places)
        if self.cache is None:
            self.cache = batch.init_cache(1, self._places, full=True)
        self._read = self.known

    @property
    def left(self):
        return self._target - self._read

    def read_piece(self):
        """Reads some more tokens, or sees one of the pictures among them; returns how many tokens' work that was, 0
        where none were left."""
        if not self.left:
            return 0
        size = min(next((size for size in PIECES if size >= self.left), PIECES[-1]), self._places)
        end = min(self._read + size, self._target)
        if self._pictures is not None:
            end = self._pictures.end_of_piece(self._read, end)
            size = min(max(size, length_bucket(end - self._read, None) if end - self._read > size else 0), self._places)
        start = min(self._read, self._places - size)  # Some known ones are read again, if need be.
        if self._pictures is not None and self._pictures.see_one(start, end):
            return PIECES[-1]
        tokens = np.zeros((1, size), "int32")
        tokens[0, : end - start] = self.ids[start:end]
        place = np.array(start, "int32")
        if self._pictures is None:
            self.cache = self._batch.read(tokens, place, self.cache)
        else:
            self.cache = self._batch.read_seen(tokens, *self._pictures.inputs(start, end, size), place, self.cache)
        before, self._read = self._read, end
        if not self.left:
            self._batch.kept.keep(self.names[:-1], self.cache)
        return end - before
