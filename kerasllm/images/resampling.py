"""Images made larger or smaller by Pillow's filters, in bytes."""

import numpy as np

from kerasllm.extras import optional
from kerasllm.images.decoding import MOST_PIXELS

RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by Pillow's numbers


def resized(pixels, height, width, resample):
    """An image of another size.

    Args:
        pixels: uint8 (height, width, 3).
        height, width: int, what is wanted.
        resample: str, one of RESAMPLE.

    Returns:
        uint8 (height, width, 3).

    Raises:
        ValueError: where that would be too large.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    check_made(height, width, pixels.shape)
    pillow = optional("PIL.Image", "Image files are read")
    image = pillow.Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((width, height), resample=RESAMPLE.index(resample)))


def check_made(height, width, shape):
    """Refuses to make an image that is too large of one that is long and thin."""
    if height * width > MOST_PIXELS:
        raise ValueError(
            f"An image of {shape[0]:,} x {shape[1]:,} pixels would become one of {height:,} x {width:,}: it is too "
            "long and thin for this processor. Cut it first."
        )
