"""Images as a vision encoder takes them: of one size, as normalised floats, pixel for pixel as it was trained.

Resampling is Pillow's, in bytes, as Hugging Face's processors have it; in_graph.py is the same as operations of
TensorFlow. Letters in local names: N images, tiles or crops.
"""

import dataclasses
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from kerasllm.images import configs, sizes
from kerasllm.images.decoding import image_size, read_image
from kerasllm.images.placeholders import ImageTokens
from kerasllm.images.resampling import RESAMPLE, check_made, resized
from kerasllm.images.tiles import PanAndScan, Tiling


class ProcessedImage(NamedTuple):
    """An image as a model takes it.

    Attributes:
        pixel_values: float32 (N, height, width, 3): of tiles and crops first the tiles, then the whole; or first the
            whole, then the crops: as its family has it.
        rows, columns: int, into how many it was cut; 0 where it was not.
    """

    pixel_values: np.ndarray
    rows: int
    columns: int


@dataclass(frozen=True)
class ImageProcessor:
    """Makes pixel values of images.

    An image is decoded to red, green and blue, upright and on white (see `read_image`), padded, resized, cropped, cut
    into tiles, and normalised: (rescale_factor * byte - mean) / std.

    Attributes:
        size: int or (height, width) of what comes out, in pixels.
        resize_to: what an image is resized to before its middle is cut out: int for its shortest edge, as CLIP does, or
            (height, width). None: `size`, and nothing is cut off, as SigLIP does.
        pad_to_square: bool, whether it first becomes a square by borders in the colour of `mean`, as LLaVA can do.
        resample: Pillow's filter: "bicubic", "bilinear", "lanczos", "nearest", "box" or "hamming".
        mean, std: float, or three of them, of red, green and blue.
        rescale_factor: float, what bytes are multiplied by.
        tiles: `Tiling` or `PanAndScan`, what an image is cut into; None: nothing.
        tokens: `ImageTokens`, what stands for an image in a text; None where that is not known.

    Raises:
        ValueError: for sizes below 1, an unknown filter, or a square where the tiles need one.

    Example:

    >>> processor = ImageProcessor(size=32)
    >>> processor([np.zeros((100, 50, 3), "uint8")]).shape
    (1, 32, 32, 3)
    """

    size: int | tuple[int, int] = 224
    resize_to: int | tuple[int, int] | None = None
    pad_to_square: bool = False
    resample: str = "bicubic"
    mean: float | tuple[float, float, float] = 0.5
    std: float | tuple[float, float, float] = 0.5
    rescale_factor: float = 1 / 255
    tiles: Tiling | PanAndScan | None = None
    tokens: ImageTokens | None = None

    def __post_init__(self):
        for name in ("size", "mean", "std"):
            value = getattr(self, name)
            count = 2 if name == "size" else 3
            value = (value,) * count if isinstance(value, int | float) else tuple(value)
            if len(value) != count:
                raise ValueError(f"{name} is one number or {count}, got {getattr(self, name)!r}.")
            object.__setattr__(self, name, value)
        if isinstance(self.resize_to, list):
            object.__setattr__(self, "resize_to", tuple(self.resize_to))
        wanted = self.resize_to if isinstance(self.resize_to, tuple) else (self.resize_to or 1,)
        if min(*self.size, *wanted) < 1:
            raise ValueError(f"Sizes are at least 1, got size={self.size}, resize_to={self.resize_to}.")
        if self.resample not in RESAMPLE:
            raise ValueError(f"resample={self.resample!r} is not possible; choose one of {', '.join(RESAMPLE)}.")
        if isinstance(self.tiles, Tiling) and (self.size[0] != self.size[1] or self.resize_to or self.pad_to_square):
            raise ValueError("Tiles are squares of size, which nothing is padded or cut off before: give size=int.")

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "ImageProcessor":
        """What the preprocessor_config.json, or processor_config.json, of a folder in Hugging Face's format says.

        Args:
            folder: path of a checkpoint's folder, or of such a file.

        Returns:
            `ImageProcessor`. It is that of CLIP, SigLIP, ViT, LLaVA 1.5, PaliGemma, Idefics3, SmolVLM or Gemma 3, or
            one of their kind.

        Raises:
            FileNotFoundError: where there is no such file.
            ValueError: where it is damaged, or wants what cannot be done here, which is named.
        """
        return configs.load(cls, folder)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes a preprocessor_config.json, as `load` and transformers read it, into a folder that exists."""
        configs.save(self, folder)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, 3) of what comes out."""
        height, width = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        return height, width, 3

    def __call__(self, images: Any | Iterable[Any]) -> np.ndarray:
        """Pixel values of images, one after the other.

        Args:
            images: an image or several of them, each as in `read_image`.

        Returns:
            float32 (N, height, width, 3), where N counts tiles and crops.
        """
        several = images if isinstance(images, list | tuple) else [images]
        if not several:
            return np.zeros((0, *self.image_shape), np.float32)
        return np.concatenate([self.process(image).pixel_values for image in several])

    def process(self, image: Any) -> ProcessedImage:
        """Pixel values of one image, and how it was cut.

        Args:
            image: as in `read_image`, which says what is raised.

        Returns:
            `ProcessedImage`.
        """
        pixels = read_image(image)
        rows, columns = self._grid(*pixels.shape[:2])
        if isinstance(self.tiles, Tiling):
            parts = self._tiled(pixels, rows, columns)
        else:
            parts = [self._fitted(part) for part in [pixels, *_crops(pixels, rows, columns)]]
        return ProcessedImage(self._normalised(np.stack(parts)), rows, columns)

    def grid(self, image: Any) -> tuple[int, int]:
        """Into how many rows and columns an image is cut, (0, 0) for not at all, by its size alone."""
        return self._grid(*image_size(image))

    def count(self, rows: int, columns: int) -> int:
        """How many pictures the model sees of an image that is cut so: one more than tiles or crops."""
        return rows * columns + 1

    def for_video(self) -> "ImageProcessor":
        """The processor of frames: as this one, but none is cut. `read_video` gives them."""
        if isinstance(self.tiles, Tiling):
            return dataclasses.replace(self, tiles=Tiling(self.size[0], split=False))
        return dataclasses.replace(self, tiles=None)

    def image_text(self, rows: int = 0, columns: int = 0) -> str:
        """The text that stands for an image, of special tokens: see `ImageTokens.text`.

        Raises:
            ValueError: where this processor has no `tokens`.
        """
        if self.tokens is None:
            raise ValueError(
                "This image processor does not know what stands for an image in a text: give it tokens=ImageTokens(n), "
                "n being how many vectors the model makes of an image."
            )
        return self.tokens.text(rows, columns)

    def _grid(self, height, width):
        if isinstance(self.tiles, PanAndScan):
            options = self.tiles.min_crop_size, self.tiles.max_crops, self.tiles.min_ratio
            return sizes.pan_and_scan_grid(height, width, *options)
        if self.tiles is None or not self.tiles.split:
            return 0, 0
        edge = self.size[0]
        height, width = sizes.longest_edge_size(height, width, self.tiles.longest_edge)
        height, width = sizes.whole_tiles_size(height, width, edge)
        return (0, 0) if height == width == edge else (height // edge, width // edge)

    def _tiled(self, pixels, rows, columns):
        edge = self.size[0]
        pixels = self._resized(pixels, *sizes.longest_edge_size(*pixels.shape[:2], self.tiles.longest_edge))
        if not rows:
            return [self._resized(pixels, edge, edge)]
        pixels = self._resized(pixels, rows * edge, columns * edge)
        tiles = pixels.reshape(rows, edge, columns, edge, 3).swapaxes(1, 2).reshape(-1, edge, edge, 3)
        return [*tiles, self._resized(pixels, edge, edge)]

    def _fitted(self, pixels):
        if self.pad_to_square:
            pixels = _padded_to_square(pixels, [int(255 * mean) for mean in self.mean])
        if isinstance(self.resize_to, int):
            size = sizes.shortest_edge_size(*pixels.shape[:2], self.resize_to)
        else:
            size = self.resize_to or self.size
        return _middle(self._resized(pixels, *size), *self.size)

    def _resized(self, pixels, height, width):
        return resized(pixels, height, width, self.resample)

    def _normalised(self, pixels):
        values = (pixels.astype(np.float64) * self.rescale_factor).astype(np.float32)
        return (values - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)


def _padded_to_square(pixels, colour):
    height, width = pixels.shape[:2]
    edge = max(height, width)
    check_made(edge, edge, pixels.shape)
    square = np.empty((edge, edge, 3), np.uint8)
    square[:] = colour
    top, left = (edge - height) // 2, (edge - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


def _middle(pixels, height, width):
    """The middle of an image, with black around it where it is smaller."""
    there = pixels.shape[:2]
    black = [math.ceil(max(0, wanted - length) / 2) for wanted, length in zip((height, width), there, strict=True)]
    top, left = ((length - wanted) // 2 for wanted, length in zip((height, width), there, strict=True))
    if any(black):
        larger = np.zeros((max(height, there[0]), max(width, there[1]), 3), np.uint8)
        larger[black[0] : black[0] + there[0], black[1] : black[1] + there[1]] = pixels
        pixels, top, left = larger, top + black[0], left + black[1]
    return pixels[max(0, top) : top + height, max(0, left) : left + width]


def _crops(pixels, rows, columns):
    if not rows:
        return []
    height, width = math.ceil(pixels.shape[0] / rows), math.ceil(pixels.shape[1] / columns)
    return [
        pixels[row * height : (row + 1) * height, column * width : (column + 1) * width]
        for row in range(rows)
        for column in range(columns)
    ]
