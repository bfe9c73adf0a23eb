"""Videos as some of their frames, read by PyAV, with the seconds that they are from."""

import io
import os
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kerasllm.extras import optional
from kerasllm.images.decoding import MOST_PIXELS

VIDEO_ENDS = {".mp4", ".mov", ".webm", ".mkv", ".avi"}
MOST_FRAMES_BYTES = 2**30  # of the frames that are taken
_MOST_READ = 2**20  # frames of a video
_SKIPPED = 1.0  # seconds at both ends of a long video, which often show nothing
# The kinds of files that are opened, by their first bytes. Others can name further files, which would be opened too.
_KINDS = (
    (4, (b"ftyp", b"moov", b"mdat", b"wide", b"free"), "mp4"),
    (0, (b"\x1a\x45\xdf\xa3",), "matroska"),
    (8, (b"AVI ",), "avi"),
    (0, (b"GIF8",), "gif"),
)


class Video(NamedTuple):
    """Frames of a video.

    Attributes:
        frames: list of uint8 arrays (height, width, 3).
        seconds: list of float, where in the video each is.
        duration: float, of the video in seconds.
    """

    frames: list
    seconds: list
    duration: float


def read_video(source, max_frames: int = 64, frames_per_second: float = 1.0) -> Video:
    """Frames of a video at equal distances, as SmolVLM2 takes them.

    Args:
        source: path of an MP4, MOV, WebM, MKV, AVI or GIF file, or its bytes.
        max_frames: int, the most frames that are taken.
        frames_per_second: float, how many are taken where that are fewer. Of a video that is longer than max_frames
            seconds, the first second and the last are left out.

    Returns:
        `Video`.

    Raises:
        FileNotFoundError: where there is no such file.
        TypeError: where it is neither a path nor bytes.
        ValueError: for a file of another kind or a damaged one, and frames that would take more than a gigabyte.
        ImportError: where the package av is not installed.

    Example:
        >>> video = kerasllm.images.read_video("walk.mp4", max_frames=8)
        >>> prompt = kerasllm.data.image_prompt(tokenizer, processor, video, "What happens?")
    """
    if max_frames < 1 or not frames_per_second > 0:
        raise ValueError(
            f"max_frames is at least 1 and frames_per_second above 0, got {max_frames}, {frames_per_second}."
        )
    if isinstance(source, str | os.PathLike):
        place = str(source)
        if not Path(source).is_file():
            raise FileNotFoundError(f"There is no video file {place}.")
        with open(source, "rb") as file:
            return _read(file, place, max_frames, frames_per_second)
    if isinstance(source, bytes | bytearray | memoryview):
        return _read(io.BytesIO(bytes(source)), "This video", max_frames, frames_per_second)
    raise TypeError(f"A video is a path or bytes, got {type(source).__name__}.")


def frames_to_take(count, rate, max_frames=64, frames_per_second=1.0):
    """Which frames of a video are taken: int array, ascending.

    Args:
        count: int, how many frames it has.
        rate: float, its frames in a second.
        max_frames, frames_per_second: as in `read_video`.

    Example:

    >>> frames_to_take(100, 25.0).tolist()
    [0, 33, 66, 99]
    """
    duration = count / rate
    wanted = max(1, min(round(frames_per_second * duration), max_frames))
    begin, end = 0, count - 1
    if duration - 2 * _SKIPPED > max_frames * frames_per_second:
        begin, end = int(_SKIPPED * rate), min(int(count - _SKIPPED * rate), end)
    if begin >= end:
        begin, end = 0, count - 1
    return np.unique(np.linspace(begin, end, wanted, dtype=int))


def _read(file, place, max_frames, frames_per_second):
    head = file.read(16)
    kind = next((kind for begin, marks, kind in _KINDS if head[begin : begin + 4] in marks), None)
    if kind is None:
        raise ValueError(f"{place} is no MP4, MOV, WebM, MKV, AVI or GIF file.")
    av = optional("av", "Videos are read")
    file.seek(0)
    try:
        with av.open(file, format=kind) as container:
            return _frames(container, place, max_frames, frames_per_second)
    except _TooLarge as error:
        raise ValueError(f"{place} {error}") from error
    except Exception as error:  # decoders raise whatever the bytes lead them to
        why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(
            f"{place} cannot be decoded: {why:.120}. It is damaged, or of a form that PyAV does not read."
        ) from error


class _TooLarge(Exception):
    """What is too large, the end of a sentence that begins with the video's name."""


def _frames(container, place, max_frames, frames_per_second):
    stream = container.streams.video[0]
    rate = float(stream.average_rate or stream.guessed_rate or Fraction(24))
    count = stream.frames or _counted(container, stream)
    if count > _MOST_READ:
        raise _TooLarge(f"has {count:,} frames, and at most {_MOST_READ:,} are read: cut it.")
    context = stream.codec_context
    if context.width * context.height > MOST_PIXELS:
        raise _TooLarge(f"has frames of {context.height:,} x {context.width:,} pixels: make it smaller.")
    places = frames_to_take(count, rate, max_frames, frames_per_second)
    if len(places) * context.width * context.height * 3 > MOST_FRAMES_BYTES:
        raise _TooLarge(
            f"gives {len(places)} frames of {context.height:,} x {context.width:,} pixels: lower max_frames."
        )
    stream.thread_type = "AUTO"
    wanted, frames, seconds = set(places.tolist()), [], []
    for number, frame in enumerate(container.decode(stream)):
        if number in wanted:
            if frame.width * frame.height > MOST_PIXELS:
                raise _TooLarge("has frames that grow.")
            pixels = frame.to_ndarray(format="rgb24")
            turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
            frames.append(np.ascontiguousarray(np.rot90(pixels, turns)))
            seconds.append(number / rate)
        if number >= places[-1]:
            break
    if not frames:
        raise ValueError("it has no frame")
    return Video(frames, seconds, count / rate)


def _counted(container, stream):
    count = sum(packet.size > 0 for packet in container.demux(stream))
    container.seek(0)
    return max(1, count)
