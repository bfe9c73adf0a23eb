"""Pictures of a prompt that is read in pieces: each is seen when its tokens are due, and known again in other prompts.

Letters: I pictures, P tokens of a picture, D d_model.
"""

import hashlib

import numpy as np


class SeenPictures:
    """What stands in the places of a prompt's image tokens.

    Args:
        model: a `VisionLanguageModel`.
        see: function from pixel values (1, height, width, channels) to vectors (1, P, D).
        ids: list of int, the prompt.
        pixel_values: float32 (I, height, width, channels).

    Attributes:
        names: list of int, the ids, and in the place of image tokens numbers below 0 that only the same picture has:
            two texts that begin with the same names begin alike.
    """

    def __init__(self, model, see, ids, pixel_values):
        self._see, self._pixels, self._width = see, np.asarray(pixel_values), model.config.d_model
        self._sees_whole = model.attention == "image"
        is_image = np.array(ids) == model.image_token_id
        self._picture, self._token = np.divmod(np.cumsum(is_image) - 1, model.tokens_of(self._pixels))
        self._picture = np.where(is_image, self._picture, -1)
        self._vectors = {}
        names = np.array(ids, "int32")
        names[is_image] = np.concatenate([_names(one, model.tokens_of(self._pixels)) for one in self._pixels])
        self.names = names.tolist()

    def see_one(self, begin, end):
        """Sees a picture with tokens at these places that has not been seen; returns whether there was one."""
        for number in sorted({*self._picture[begin:end].tolist()} - {-1, *self._vectors}):
            self._vectors[number] = np.asarray(self._see(self._pixels[number : number + 1]), "float32")[0]
            return True
        return False

    def end_of_piece(self, begin, end):
        """Where a piece is to end so that pictures whose tokens see each other are not cut: before the one that would
        be, or where the piece begins with that, behind it."""
        if not self._sees_whole or end >= len(self._picture) or self._picture[end] < 0 or not self._token[end]:
            return end
        of_picture = np.flatnonzero(self._picture == self._picture[end])
        return int(of_picture[0] if of_picture[0] > begin else of_picture[-1] + 1)

    def inputs(self, begin, end, size):
        """What the model takes of these places, behind which is padding: vectors (1, size, D), where they stand, bool
        (1, size), and the numbers of those that see each other, int32 (1, size)."""
        picture, token = self._picture[begin:end], self._token[begin:end]
        vectors, numbers = np.zeros((1, size, self._width), "float32"), np.zeros((1, size), "int32")
        for place in np.flatnonzero(picture >= 0):
            vectors[0, place] = self._vectors[picture[place]][token[place]]
        numbers[0, : len(picture)] = picture + 1
        return vectors, numbers > 0, numbers


def _names(pixels, count):
    """So many numbers below 0 of a picture; its digest is made longer, so that no one finds another picture of them."""
    digest = hashlib.blake2b(np.ascontiguousarray(pixels), digest_size=32).digest()
    numbers = np.frombuffer(hashlib.shake_256(digest).digest(4 * count), "<u4")
    return (-1 - (numbers >> 1).astype("int64")).astype("int32")
