"""What there is to see in a picture, whatever draws it."""

import dataclasses

import numpy as np

from kerasllm.interpret import colours


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """Numbers as colours.

    Attributes:
        values: float (R, C), from 0 to 1; where `signed`, of both signs, and the largest is the darkest.
        rows, columns: lists of R and C str.
        texts: R lists of C str to stand in the cells, or None.
        signed: bool.
        title: str.
    """

    values: np.ndarray
    rows: list
    columns: list
    texts: list | None = None
    signed: bool = False
    title: str = ""

    @property
    def shares(self):
        """The values as colours take them, from -1 to 1."""
        return shares(self.values) if self.signed else np.clip(self.values, 0, 1)


@dataclasses.dataclass(frozen=True)
class HeatMaps:
    """Several heat maps: a list of `HeatMap`."""

    maps: list


@dataclasses.dataclass(frozen=True)
class Bars:
    """Numbers of both signs as bars: list of pairs (str, float), and what they are."""

    pairs: list
    title: str


@dataclasses.dataclass(frozen=True)
class ColouredText:
    """Tokens, coloured by what they mean to something, once for each row.

    Attributes:
        tokens: list of N str.
        values: float (K, N).
        rows: list of K str, what the tokens are coloured for.
        title: str.
    """

    tokens: list
    values: np.ndarray
    rows: list
    title: str = ""

    @property
    def shares(self):
        """The values as colours take them, from -1 to 1, the largest of a row as dark as that of any other."""
        return np.array([shares(row) for row in self.values])


@dataclasses.dataclass(frozen=True)
class AttentionView:
    """Where heads look: a list of `AttentionMap`, and the head to show large, or None for all of them small."""

    maps: list
    head: int | None = None


@dataclasses.dataclass(frozen=True)
class OnImage:
    """Numbers drawn on an image.

    Attributes:
        image: uint8 (H, W, 3).
        maps: list of lists, one for each row, of a title (str) and values (h, w) of parts of the image.
    """

    image: np.ndarray
    maps: list

    def drawn(self, values):
        """The image in light grey with values as colours on it, float (H, W, 3) from 0 to 1."""
        grey = 0.4 + 0.6 * self.image.mean(axis=-1, keepdims=True) / 255
        H, W = self.image.shape[:2]
        rows, columns = (np.arange(size) * count // size for size, count in zip((H, W), values.shape, strict=True))
        found = shares(values)[rows][:, columns]
        ink = np.where(found[..., None] < 0, colours.NEGATIVE, colours.POSITIVE) / 255
        strength = 0.8 * np.abs(found)[..., None]
        return grey * (1 - strength) + ink * strength


def shares(values):
    """Numbers over the largest of them."""
    values = np.asarray(values, "float64")
    return values / max(np.abs(values).max(initial=0.0), 1e-12)
