"""What is shown in a text, an image or a video: the tokens that stand for it, and its pixel values."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kerasllm.images.video import VIDEO_ENDS, Video, read_video


class Shown(NamedTuple):
    """An image or a video in a text.

    Attributes:
        text: str, what stands for it.
        num_pictures: int, how many pictures the model sees of it: tiles, crops or frames.
        pixel_values: function without arguments that makes them, float32 (num_pictures, height, width, 3).
    """

    text: str
    num_pictures: int
    pixel_values: Callable[[], np.ndarray]


def is_video(source) -> bool:
    """Whether something is a `Video`, or the path of a file whose name ends as those of videos do."""
    is_path = isinstance(source, str | os.PathLike)
    return isinstance(source, Video) or (is_path and Path(source).suffix.lower() in VIDEO_ENDS)


def shown(processor, source) -> Shown:
    """What is shown of an image or a video. No pixel values are made yet.

    Args:
        processor: `ImageProcessor`, with `tokens`.
        source: an image, as in `read_image`; a `Video`; or the path of a video, of which `read_video` takes frames.

    Raises:
        ValueError: for a processor without `tokens`.
    """
    if is_video(source):
        return shown_video(processor, source)
    rows, columns = processor.grid(source) if processor.tiles else (0, 0)
    text = processor.image_text(rows, columns)
    return Shown(text, processor.count(rows, columns), lambda: processor.process(source).pixel_values)


def shown_video(processor, source) -> Shown:
    """The same of a video, which may be bytes. Its frames are kept only where it is a `Video`."""
    video = source if isinstance(source, Video) else read_video(source)
    processor.image_text()  # says where tokens are missing
    text, frames = processor.tokens.video_text(video.seconds, video.duration), processor.for_video()

    def pixel_values():
        return frames((source if isinstance(source, Video) else read_video(source)).frames)

    return Shown(text, len(video.frames), pixel_values)


def pixel_values_of(several) -> np.ndarray:
    """Those of several `Shown`, one after the other: float32 (N, height, width, 3)."""
    return np.concatenate([one.pixel_values() for one in several])
