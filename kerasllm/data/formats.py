"""What a file is, and how it is opened: its kind by its name, its compression and encoding by its first bytes.

Files are read in chunks, in bounded memory, and a bad byte is named with its place.
"""

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import os
import zlib
from pathlib import Path

# Kinds of files by the ends of their names, which may be in capitals and followed by one of COMPRESSIONS.
TEXT, JSON_LINES, JSON, CSV, TSV, PARQUET = "text", "JSON lines", "JSON", "CSV", "TSV", "Parquet"
KINDS = {
    ".txt": TEXT,
    ".md": TEXT,
    ".jsonl": JSON_LINES,
    ".ndjson": JSON_LINES,
    ".json": JSON,
    ".csv": CSV,
    ".tsv": TSV,
    ".parquet": PARQUET,
}
COMPRESSIONS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "Zstandard"}

_CHUNK_BYTES = 2**20
_FEED_BYTES = 2**12  # what Zstandard makes of so many is at most some 100 MB
_HEAD_BYTES = 512
_BEGINNINGS = {
    "gzip": b"\x1f\x8b",
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ\x00",
    "Zstandard": b"\x28\xb5\x2f\xfd",
}
_BZIP2_BLOCK = b"1AY&SY"  # after "BZh" and a digit: a text may begin with those
_PARQUET_MARK = b"PAR1"  # at both ends
_NO_TEXT = {b"PK\x03\x04": "a ZIP archive, as .zip, .docx and .xlsx are", b"%PDF-": "a PDF"}
# UTF-32 before UTF-16: its mark begins with the other's.
_MARKS = {
    codecs.BOM_UTF32_LE: ("UTF-32", codecs.utf_32_le_decode),
    codecs.BOM_UTF32_BE: ("UTF-32", codecs.utf_32_be_decode),
    codecs.BOM_UTF8: ("UTF-8", codecs.utf_8_decode),
    codecs.BOM_UTF16_LE: ("UTF-16", codecs.utf_16_le_decode),
    codecs.BOM_UTF16_BE: ("UTF-16", codecs.utf_16_be_decode),
}
_UTF8 = _MARKS[codecs.BOM_UTF8]


def kind_by_name(path):
    """The kind of a file by its name, one of those in KINDS; None for other names."""
    return KINDS.get(Path(_without_compression(path.name.lower())).suffix)


def kind_of(path):
    """The kind of a file that is there: Parquet by its bytes, or what its name says, or else text."""
    size = len(_PARQUET_MARK)
    with path.open("rb") as file:
        begin = file.read(size)
        file.seek(max(size, file.seek(0, os.SEEK_END) - size))
        if begin == file.read() == _PARQUET_MARK:
            return PARQUET
    return kind_by_name(path) or TEXT


def read_chunks(path):
    """The characters of a text file, in pieces of about a million: plain or compressed, without its byte order mark.

    Raises:
        ValueError: for bytes that are no characters of its encoding (UTF-8, or what its byte order mark says), files
            that are not whole, and those that are no text.
        ModuleNotFoundError: for Zstandard without the package `zstandard`.
    """
    with _opened(path) as file:
        head = file.read(_HEAD_BYTES)
        _check_text(head, path)
        mark = next((mark for mark in _MARKS if head.startswith(mark)), b"")
        encoding = _MARKS.get(mark) or _unmarked(head)
        pending, offset = head[len(mark) :], len(mark)  # where `pending`, the bytes not yet decoded, begins in the file
        while chunk := file.read(_CHUNK_BYTES):
            data = pending + chunk
            text, pending = decode(data, path, offset, False, encoding)
            offset += len(data) - len(pending)
            yield text
        yield decode(pending, path, offset, True, encoding)[0]


def read_lines(path):
    """The lines of a text file without their line feeds; nothing else ends a line. Raises as `read_chunks`."""
    begun = []  # the pieces of a line that goes on
    for chunk in read_chunks(path):
        *whole, rest = chunk.split("\n")
        if whole:
            yield "".join([*begun, whole[0]])
            yield from whole[1:]
            begun = []
        begun.append(rest)
    if last := "".join(begun):
        yield last


def decode(data, place, offset=0, final=True, encoding=_UTF8):
    """Decodes bytes that begin at byte `offset` of `place`: (text, bytes of an unfinished character at the end)."""
    name, decoder = encoding
    try:
        text, used = decoder(data, "strict", final)
    except UnicodeDecodeError as error:
        advice = "Convert it, for example with iconv -f LATIN1 -t UTF-8." if name == "UTF-8" else "It is damaged."
        if name == "UTF-8" and b"\x00" in data:
            advice = "It holds zero bytes, which text does not: it is a file of another kind."
        raise ValueError(
            f"{place} is not {name}: byte {offset + error.start} is 0x{data[error.start]:02x}. {advice}"
        ) from error
    return text, data[used:]


def _without_compression(name):
    return next((name.removesuffix(end) for end in COMPRESSIONS if name.endswith(end)), name)


@contextlib.contextmanager
def _opened(path):
    """The bytes of a file, decompressed."""
    with path.open("rb") as raw:
        compression = _compression(raw.read(_HEAD_BYTES), path)
        raw.seek(0)
        if compression is None:
            yield raw
            return
        try:
            with _OPENERS[compression](raw) as file:
                yield file
        except (EOFError, zlib.error, lzma.LZMAError, OSError, *_zstandard_errors()) as error:
            if getattr(error, "errno", None):
                raise  # the disk's
            raise ValueError(f"{path} is not a whole {compression} file: {error}.") from error


def _compression(head, path):
    """What a file is compressed with, by its first bytes or else by its name; None for none."""
    for name, beginning in _BEGINNINGS.items():
        if head.startswith(beginning) and (name != "bzip2" or head[4:10] == _BZIP2_BLOCK):
            return name
    return COMPRESSIONS.get(path.suffix.lower())


def _open_zstandard(raw):
    try:
        import zstandard
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{getattr(raw, 'name', raw)} is compressed with Zstandard, and the package zstandard is not installed: "
            "pip install zstandard, or decompress the file with unzstd."
        ) from error
    return io.BufferedReader(_Zstandard(raw, zstandard.ZstdDecompressor().decompressobj))


def _zstandard_errors():
    try:
        import zstandard
    except ModuleNotFoundError:
        return ()
    return (zstandard.ZstdError,)


_OPENERS = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open, "Zstandard": _open_zstandard}


class _Zstandard(io.RawIOBase):
    """A reader of all frames of a file. zstandard's own ends without a word where a file was cut short."""

    def __init__(self, file, new_frame):
        self._file, self._new_frame = file, new_frame
        self._frame, self._made = None, b""

    def readable(self):
        return True

    def readinto(self, buffer):
        while not self._made:
            data = self._file.read(_FEED_BYTES)
            if not data:
                if self._frame is not None and not self._frame.eof:
                    raise EOFError("it ends inside a frame")
                return 0
            self._made = b"".join(self._decompressed(data))
        part, self._made = self._made[: len(buffer)], self._made[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)

    def _decompressed(self, data):
        while data:
            if self._frame is None or self._frame.eof:
                self._frame = self._new_frame()
            yield self._frame.decompress(data)
            data = self._frame.unused_data


def _check_text(head, path):
    """Refuses files that are no text, though parts of them could be read as such."""
    found = next((what for beginning, what in _NO_TEXT.items() if head.startswith(beginning)), None)
    if head[257:262] == b"ustar":
        found = "a tar archive"
    if found:
        raise ValueError(f"{path} is {found}, and no text: take the text out of it first.")


def _unmarked(head):
    """UTF-16 without a byte order mark is known by its zeros: Latin letters, digits and signs have one each."""
    if len(head) >= 4 and head[1] == head[3] == 0 and head[0] and head[2]:
        return _MARKS[codecs.BOM_UTF16_LE]
    if len(head) >= 4 and head[0] == head[2] == 0 and head[1] and head[3]:
        return _MARKS[codecs.BOM_UTF16_BE]
    return _UTF8
