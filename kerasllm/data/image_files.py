"""Where the bytes of images are: files, members of tar archives, and a temporary file for those out of tables.

An archive is looked through once, for what is where in it. Nothing is unpacked, and no name in it is used as a path.
"""

import contextlib
import os
import tarfile
import tempfile
import weakref
from pathlib import Path
from typing import NamedTuple

from kerasllm.images.decoding import MOST_BYTES

IMAGE_ENDS = {".png", ".jpg", ".jpeg", ".webp", ".gif"}
_MOST_MEMBERS = 2**24  # of an archive
_LONGEST_TEXT = 2**24  # bytes of a member that is a text


class FilePart(NamedTuple):
    """Bytes in a file.

    Attributes:
        path: path of the file.
        offset: int, where they begin.
        size: int, how many they are.
        name: str, what errors call them.
        owner: what has to live as long, or None.
    """

    path: Path
    offset: int
    size: int
    name: str
    owner: object = None

    def read(self):
        """The bytes.

        Raises:
            ValueError: where the file has become shorter.
        """
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) < self.size:
            raise ValueError(f"{self.name} is cut short: {self.path} has changed since it was looked through.")
        return data


class Spool:
    """A temporary file of bytes that came out of a table or a data set; it goes with the last of its parts."""

    def __init__(self):
        descriptor, path = tempfile.mkstemp(prefix="kerasllm-images-")
        self._file, self._path, self._size = os.fdopen(descriptor, "wb", buffering=0), Path(path), 0
        self._end = weakref.finalize(self, _remove, self._file, self._path)

    def add(self, data, name):
        """A `FilePart` of bytes."""
        self._file.write(data)
        self._size += len(data)
        return FilePart(self._path, self._size - len(data), len(data), name, self)


def _remove(file, path):
    file.close()
    with contextlib.suppress(OSError):
        path.unlink()


def tar_samples(path):
    """The samples of a shard of WebDataset's: members that follow each other and whose names are one up to the first
    dot of the last part.

    Args:
        path: path of a .tar file, not compressed.

    Yields:
        The sample's name (str) and a dict from what stands behind that dot, in small letters, such as "jpg", to a
        `FilePart`.

    Raises:
        ValueError: for a file that is no such archive, or a damaged one.

    Reference: https://github.com/webdataset/webdataset
    """
    begun, sample = None, {}
    for member in _members(path):
        folder, _, last = member.name.rpartition("/")
        stem, _, end = last.partition(".")
        name = f"{folder}/{stem}" if folder else stem
        if not end or not stem:
            continue  # a hidden file, or one of which nothing says what it is
        if name != begun:
            if sample:
                yield begun, sample
            begun, sample = name, {}
        sample[end.lower()] = FilePart(path, member.offset_data, member.size, f"{member.name!r:.100} in {path}")
    if sample:
        yield begun, sample


def _members(path):
    try:
        with tarfile.open(path, "r:") as archive:
            number = 0
            while member := archive.next():
                archive.members = []  # of which it would keep all
                number += 1
                if number > _MOST_MEMBERS:
                    raise ValueError(f"{path} has more than {_MOST_MEMBERS:,} members.")
                if member.isreg():
                    _check_member(member, path)
                    yield member
    except (tarfile.TarError, OSError, EOFError) as error:
        if getattr(error, "errno", None):
            raise  # the disk's
        raise ValueError(
            f"{path} is no whole tar archive: {error}. One that is compressed has to be decompressed first, as images "
            "are read from any place in it."
        ) from error


def _check_member(member, path):
    if member.issparse():
        raise ValueError(f"{path} has a sparse member, {member.name!r:.100}, as no data set has.")
    if member.size > MOST_BYTES:
        raise ValueError(
            f"{member.name!r:.100} in {path} has {member.size:,} bytes, and at most {MOST_BYTES:,} are read."
        )
    if member.offset_data + member.size > os.path.getsize(path):
        raise ValueError(f"{path} is cut short, in its member {member.name!r:.100}.")


def text_of_part(part):
    """The text of a member.

    Raises:
        ValueError: where it is not UTF-8, or longer than a text.
    """
    if part.size > _LONGEST_TEXT:
        raise ValueError(f"{part.name} has {part.size:,} bytes, too many for a text.")
    try:
        return part.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{part.name} is not UTF-8: byte {error.start}.") from error
