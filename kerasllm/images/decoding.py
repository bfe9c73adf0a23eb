"""Image files as arrays, read by Pillow: what is damaged, hostile or too large is refused in one sentence.

A file is looked at before Pillow decodes it, as a small file can stand for gigabytes of pixels.
"""

import contextlib
import io
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np

from kerasllm.extras import optional

FORMATS = "PNG", "JPEG", "WEBP", "GIF"
MOST_PIXELS = 2**26  # 201 MB as bytes of red, green and blue
MOST_BYTES = 2**28  # of a file
_MOST_SCANS = 100  # of a progressive JPEG, each of which takes the time of a whole image; programs write about ten
_ORIENTATION = 0x0112  # the tag of EXIF
_ROWS_AT_ONCE = 2**22  # pixels of a strip that is laid on white
_PNG_BEGIN = b"\x89PNG\r\n\x1a\n"
_PNG_TEXTS = b"eXIf", b"tEXt", b"zTXt", b"iTXt"  # parts that may say how the camera was held
_ONE_AT_A_TIME = threading.Lock()
# How a camera was held, by EXIF's numbers, and the name of Pillow's way back.
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def read_image(source) -> np.ndarray:
    """The pixels of an image: upright, red, green and blue, whatever the file holds.

    Of a GIF and other animations it is the first frame. An image is turned as its EXIF data say. What is transparent is
    laid on white. CMYK, palettes and grey become red, green and blue as Pillow makes them; of 16 bits the upper 8 are
    kept.

    Args:
        source: path of a PNG, JPEG, WebP or GIF file, or its bytes; an image of Pillow's; or a uint8 array (height,
            width), or (height, width, 1, 3 or 4).

    Returns:
        uint8 array (height, width, 3).

    Raises:
        FileNotFoundError: where there is no such file.
        TypeError: where it is none of these.
        ValueError: for a file of another kind or a damaged one, one of more than 256 MB, and an image of more than 67
            million pixels.
        ImportError: where Pillow is not installed.

    Example:

    >>> read_image(np.zeros((2, 3), "uint8")).shape
    (2, 3, 3)
    """
    if isinstance(source, np.ndarray):
        return _checked_array(source)
    image, place, _ = _opened(source)
    try:
        image.load()
        return _rgb(_upright(image))
    except Exception as error:  # decoders raise whatever the bytes lead them to
        raise _damaged(place, error) from error


def image_size(source) -> tuple[int, int]:
    """The height and width of an image as `read_image` gives it. Of a file only the head is decoded.

    Args:
        source: as in `read_image`, which also says what is raised.

    Returns:
        (int, int).

    Example:

    >>> image_size(np.zeros((2, 3), "uint8"))
    (2, 3)
    """
    if isinstance(source, np.ndarray):
        return _checked_array(source).shape[:2]
    image, place, is_late = _opened(source)
    if is_late:
        try:
            image.load()
        except Exception as error:  # decoders raise whatever the bytes lead them to
            raise _damaged(place, error) from error
    is_turned = _orientation(image) in (5, 6, 7, 8)
    return image.size if is_turned else image.size[::-1]


def _checked_array(array):
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4) or not array.size:
        raise TypeError(
            f"An image is a uint8 array (height, width), or (height, width, 1, 3 or 4), got {array.dtype} "
            f"{array.shape}. Values from 0 to 1 become such by (255 * values).round().astype('uint8')."
        )
    _check_pixels(array.shape[1], array.shape[0], "This array")
    if channels == 4:
        return _rgb(_pillow().Image.fromarray(array))
    return np.broadcast_to(array.reshape(*array.shape[:2], channels), (*array.shape[:2], 3))


def _pillow():
    return optional("PIL.Image", "Image files are read")


def _opened(source):
    """An image of Pillow's that is not decoded yet, what errors call it, and whether it has to be decoded before its
    EXIF data are known: in a PNG file these may stand behind the pixels.
    """
    pillow = _pillow()
    if isinstance(source, pillow.Image.Image):
        _check_pixels(*source.size, "This image")
        return source, "This image", True
    if isinstance(source, str | os.PathLike):
        place, data = str(source), _read(Path(source))
    elif isinstance(source, bytes | bytearray | memoryview):
        place, data = "This image", bytes(source)
    else:
        raise TypeError(
            f"An image is a path, bytes, an image of Pillow's or a uint8 array, got {type(source).__name__}."
        )
    _look_at(data, place)
    try:
        with _quiet():
            image = pillow.Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:  # decoders raise whatever the bytes lead them to
        raise _damaged(place, error) from error
    _check_pixels(*image.size, place)
    return image, place, data.startswith(_PNG_BEGIN) and any(kind in data for kind in _PNG_TEXTS)


@contextlib.contextmanager
def _quiet():
    """Without Pillow's warnings of what is odd and can be read. Filters of warnings are all threads' together."""
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read(path):
    if not path.is_file():
        raise FileNotFoundError(f"There is no image file {path}.")
    _check_bytes(path.stat().st_size, path)
    return path.read_bytes()


def _check_bytes(count, place):
    if count > MOST_BYTES:
        raise ValueError(f"{place} has {count:,} bytes, and at most {MOST_BYTES:,} are read: save it as JPEG or PNG.")


def _check_pixels(width, height, place):
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"{place} has {height:,} x {width:,} pixels, and at most {MOST_PIXELS:,} are decoded: make it smaller."
        )


def _damaged(place, error):
    why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    if type(error).__name__ == "UnidentifiedImageError":
        return ValueError(f"{place} is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file, or its head is damaged.")
    return ValueError(f"{place} cannot be decoded: {why:.120}. It is damaged, or of a form that Pillow does not read.")


# Before Pillow


def _look_at(data, place):
    """Refuses bytes that would take much memory or time to decode, and those whose own sums say they are damaged."""
    _check_bytes(len(data), place)
    if data.startswith(_PNG_BEGIN):
        _check_png(data, place)
    elif data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > _MOST_SCANS:
        raise ValueError(f"{place} is a JPEG file of more than {_MOST_SCANS} scans, which no camera or program writes.")
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        _check_webp(data, place)


def _check_png(data, place):
    begin = len(_PNG_BEGIN)
    while begin < len(data):
        if begin + 12 > len(data):
            raise ValueError(f"{place} is a PNG file that is cut short.")
        size = struct.unpack_from(">I", data, begin)[0]
        end = begin + 12 + size
        if end > len(data):
            raise ValueError(f"{place} is a PNG file that is cut short.")
        kind = data[begin + 4 : begin + 8]
        if zlib.crc32(data[begin + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise ValueError(f"{place} is damaged: the sum of its part {kind!r} does not fit.")
        if kind == b"IEND":
            return
        begin = end
    raise ValueError(f"{place} is a PNG file that is cut short.")


def _check_webp(data, place):
    """Pillow makes room for the canvas of a WebP file as soon as it opens it."""
    size = struct.unpack_from("<I", data, 4)[0] if len(data) >= 30 else len(data)
    if len(data) < size + 8:
        raise ValueError(f"{place} is a WebP file that is cut short.")
    width, height = 1, 1
    if data[12:16] == b"VP8X":
        width, height = (1 + int.from_bytes(data[i : i + 3], "little") for i in (24, 27))
    elif data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif data[12:16] == b"VP8 ":
        width, height = (int.from_bytes(data[i : i + 2], "little") & 0x3FFF for i in (26, 28))
    _check_pixels(width, height, place)


# What Pillow read, as red, green and blue


def _orientation(image):
    try:
        with _quiet():
            return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # EXIF data are often wrong where the image is not, and then say nothing
        return 1


def _upright(image):
    way = _UPRIGHT.get(_orientation(image))
    return image.transpose(getattr(_pillow().Image.Transpose, way)) if way else image


def _rgb(image):
    if image.mode.startswith("I") or image.mode == "F":
        return _grey(np.asarray(image))
    if "A" in image.getbands() or "a" in image.getbands() or image.info.get("transparency") is not None:
        return _on_white(image)
    return np.asarray(image.convert("RGB"))


def _grey(values):
    """Grey of 16 bits: Pillow itself would take 255 for white."""
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError("its greys are not numbers of 16 bits")
    return np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)


def _on_white(image):
    pillow = _pillow()
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, _ROWS_AT_ONCE // width)
    for top in range(0, height, rows):
        box = 0, top, width, min(top + rows, height)
        strip = image.crop(box).convert("RGBA")
        white = pillow.Image.new("RGBA", strip.size, "white")
        pixels[top : box[3]] = np.asarray(pillow.Image.alpha_composite(white, strip).convert("RGB"))
    return pixels
