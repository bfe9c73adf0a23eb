"""Image files that tests make: of all kinds, damaged and hostile."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

PNG_BEGIN = b"\x89PNG\r\n\x1a\n"


def noise(height, width, *channels, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    """The bytes of a file of an array or of an image of Pillow's."""
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


def turned(image, orientation, kind="JPEG", **options):
    """A file whose EXIF data say how the camera was held."""
    image = Image.fromarray(image)
    exif = image.getexif()
    exif[0x010F], exif[0x0112] = "a camera", orientation
    return encoded(image, kind, exif=exif, **options)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *chunks):
    """A PNG file of a head, some chunks and an end, whose sums are right."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return PNG_BEGIN + chunk(b"IHDR", head) + b"".join(chunks) + chunk(b"IEND", b"")


def bombs():
    """Small files that stand for gigabytes of pixels or hours of decoding, by what they are."""
    zeros = zlib.compress(bytes(2**22), 9)
    jpeg = encoded(noise(8, 8, 3), "JPEG")
    frame = jpeg.index(b"\xff\xc0")
    scan = jpeg.index(b"\xff\xda")
    yield "png", png(2**16, 2**16, chunk(b"IDAT", zeros))
    yield "png 2^31", png(2**31 - 1, 2**31 - 1, chunk(b"IDAT", zeros))
    yield "png of text", png(1, 1, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**24), 9)))
    yield "png of a profile", png(2**14, 2**14, chunk(b"iCCP", b"a\0\0" + zeros))
    yield "gif", b"GIF89a\xff\xff\xff\xff\xf0\0\0" + bytes(6) + b"\x2c\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\x01\0;"
    yield "jpeg", jpeg[: frame + 5] + b"\xff\xff\xff\xff" + jpeg[frame + 9 :]
    yield "jpeg of scans", jpeg[:scan] + jpeg[scan:-2] * 5000 + jpeg[-2:]
    for kind, body in {
        b"VP8X": bytes(4) + b"\xff\x3f\0\xff\x3f\0",
        b"VP8L": b"\x2f" + struct.pack("<I", 0xFFFFFFF) + bytes(5),
        b"VP8 ": b"\x30\x01\0\x9d\x01\x2a\xff\x3f\xff\x3f",
    }.items():
        body = b"WEBP" + kind + struct.pack("<I", len(body)) + body
        yield f"webp {kind.decode()}", b"RIFF" + struct.pack("<I", len(body)) + body
