"""Paths of files here and in object stores: "gs://bucket/corpus" and the like are read and written by fsspec."""

import contextlib
import os
import re
import secrets
from pathlib import Path

from kerasllm.extras import optional
from kerasllm.files import flush

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)  # two letters at least: "C:/" is a disk of Windows


def is_remote(path):
    """Whether a path is one of an object store, or the like: "PROTOCOL://…"."""
    return isinstance(path, RemotePath) or bool(_URL.match(os.fspath(path)))


def path_of(path):
    """A `pathlib.Path`, or a `RemotePath` of "PROTOCOL://…"."""
    if isinstance(path, RemotePath):
        return path
    return RemotePath(os.fspath(path)) if is_remote(path) else Path(path)


class RemotePath:
    """A path "PROTOCOL://…", with what is needed of `pathlib.Path`. It can be sent to other processes.

    Args:
        url: str.

    Raises:
        ImportError: where fsspec, or what it needs for the protocol, is not installed.
        ValueError: for a protocol that it does not know.
    """

    def __init__(self, url):
        self._url = url.rstrip("/")
        _ = self._system  # to refuse it at once

    @property
    def _system(self):
        # fsspec keeps one for all paths of a store.
        return optional("fsspec", "Files of object stores are read").core.url_to_fs(self._url)[0]

    @property
    def name(self):
        """str, behind the last slash."""
        return self._url.rpartition("/")[2]

    @property
    def suffix(self):
        """str, the end of the name with its dot."""
        return Path(self.name).suffix

    def __truediv__(self, name):
        return RemotePath(f"{self._url}/{name}")

    def __str__(self):
        return self._url

    def __fspath__(self):
        return self._url

    def __repr__(self):
        return f"RemotePath({self._url!r})"

    def __eq__(self, other):
        return isinstance(other, RemotePath) and self._url == other._url

    def __hash__(self):
        return hash(self._url)

    def expanduser(self):
        """Itself."""
        return self

    def exists(self):
        """Whether there is a file or a folder."""
        return self._system.exists(self._url)

    def is_file(self):
        """Whether there is a file."""
        return self._system.isfile(self._url)

    def is_dir(self):
        """Whether there are files below it."""
        return self._system.isdir(self._url)

    def open(self, mode="rb"):
        """Opens the file. What is written appears when it is closed."""
        return self._system.open(self._url, mode)

    def read_text(self, encoding="utf-8"):
        """The text of the file."""
        return self._system.cat_file(self._url).decode(encoding)

    def read_range(self, begin, end):
        """The bytes begin … end - 1 of the file."""
        return self._system.cat_file(self._url, start=begin, end=end)

    def size(self):
        """int, bytes of the file."""
        return self._system.size(self._url)

    def files(self, pattern=""):
        """The paths of the files below it, those that match a glob where one is given, in order."""
        found = self._system.glob(f"{self._url}/{pattern}".rstrip("/")) if pattern else self._system.find(self._url)
        protocol = self._url.partition("://")[0]
        names = sorted(name for name in found if not pattern or self._system.isfile(name))
        return [RemotePath(name if _URL.match(name) else f"{protocol}://{name.lstrip('/')}") for name in names]


def size_of(path):
    """int, bytes of a file."""
    return path.size() if isinstance(path, RemotePath) else path.stat().st_size


@contextlib.contextmanager
def new_file(path):
    """Yields a file to write bytes to, which takes the place of `path` when the context ends well, and never else.

    So a file that is written twice, as by a worker that failed and the one in its place, is there once and whole.
    """
    if isinstance(path, RemotePath):
        file = path.open("wb")
        try:
            yield file
        except BaseException:
            file.discard()
            raise
        file.close()
        return
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("xb") as file:
            yield file
        flush(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
