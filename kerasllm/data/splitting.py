"""Text in two parts: the first to train on, the last characters to validate on.

This is nanoGPT's split, of one file or of many. `split_text` gives parts that read their source each time; `split_once`
parts what is read a single time.
"""

import collections
import itertools
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from kerasllm.data.sources import read_text

_CHARACTERS_AT_ONCE = 2**22


def split_text(
    source: str | os.PathLike | Sequence[str | os.PathLike],
    validation: float = 0.1,
    *,
    field: str | None = None,
    data_dir: str | os.PathLike | None = None,
) -> tuple[Iterable[str], Iterable[str]]:
    """Reads documents in two parts: the first to train on, the last characters to validate on.

    This is nanoGPT's split, of one file or of many: the first int(0.9 × characters) characters are for training, the
    rest for validation, and the document at the cut is cut there. The source is read through once to count, which also
    finds unreadable files before anything else is done.

    Args:
        source, field, data_dir: as in `read_text`.
        validation: float, the share of the characters that is kept for validation, between 0 and 1.

    Returns:
        Two iterables of str. Each reads the source anew when it is iterated over.

    Raises:
        ValueError: where a part would be empty, and as `read_text`.

    Example:

    >>> train, validation = split_text("python_docs")
    >>> sum(map(len, validation)) / sum(map(len, read_text("python_docs")))
    0.1
    """
    if not 0 < validation < 1:
        raise ValueError(f"validation is a share of the text, above 0 and below 1; got {validation}.")

    def documents():
        return read_text(source, field=field, data_dir=data_dir)

    length = sum(map(len, documents()))
    cut = _checked_cut(length, validation)
    return _Part(documents, 0, cut), _Part(documents, cut, length)


def split_once(documents, validation=0.1):
    """Parts documents as `split_text` does, but reads them only once, and knows their length only at their end.

    So a document of the first part comes as soon as it is certain that it is one: when nine times as many characters
    were read before it as behind it. The others wait, in temporary files where they are long.

    Args:
        documents: iterable of str.
        validation: as in `split_text`.

    Returns:
        An iterator over the first part, and an iterable over the second, which is complete when the iterator has ended,
        and can be read again and again.

    Raises:
        ValueError: where a part would be empty, when the iterator ends.

    Example:

    >>> first, second = split_once(["abcde", "fghij"], validation=0.2)
    >>> list(first), list(second), list(second)
    (['abcde', 'fgh'], ['ij'], ['ij'])
    """
    waiting = Spool()
    return _first_part(documents, waiting, validation), waiting


def _first_part(documents, waiting, validation):
    length = given = 0
    for document in documents:
        length += len(document)
        waiting.put(document)
        while given < length and given + len(waiting.first()) <= _cut(length, validation):
            document = waiting.take()
            given += len(document)
            yield document
    rest = _checked_cut(length, validation) - given
    at_cut = waiting.take()
    waiting.put_back(at_cut[rest:])
    if rest:
        yield at_cut[:rest]


def _cut(length, validation):
    return int(length * (1 - validation))


def _checked_cut(length, validation):
    cut = _cut(length, validation)
    if not 0 < cut < length:
        raise ValueError(f"{length} characters are too few to keep {validation:g} of them for validation.")
    return cut


class _Part:
    """The characters begin … end - 1 of what documents() returns, in their documents, each time it is iterated over."""

    def __init__(self, documents, begin, end):
        self._documents, self._begin, self._end = documents, begin, end

    def __iter__(self):
        position = 0
        for document in self._documents():
            part = document[max(0, self._begin - position) : max(0, self._end - position)]
            position += len(document)
            if part:
                yield part
            if position >= self._end:
                return


class Spool:
    """Documents in a line: put in behind, taken out in front, iterated over as often as wanted, in bounded memory.

    Some megabytes of the first and of the last are in memory, those between in temporary files.

    Args:
        documents: iterable of str, those to begin with.
    """

    def __init__(self, documents=()):
        self._front, self._files, self._back = collections.deque(), collections.deque(), []
        self._back_length, self._folder, self._names = 0, None, itertools.count()
        for document in documents:
            self.put(document)

    def put(self, document):
        """Adds a document behind the others."""
        self._back.append(document)
        self._back_length += len(document)
        if self._back_length >= _CHARACTERS_AT_ONCE:
            self._folder = self._folder or tempfile.TemporaryDirectory(prefix="kerasllm-text-")
            path = Path(self._folder.name) / f"{next(self._names)}.json"
            path.write_text(json.dumps(self._back), encoding="ascii")  # which takes lone surrogates too
            self._files.append(path)
            self._back, self._back_length = [], 0

    def first(self):
        """The document in front."""
        if not self._front and self._files:
            path = self._files.popleft()
            self._front.extend(_read(path))
            path.unlink()
        elif not self._front:
            self._front.extend(self._back)
            self._back, self._back_length = [], 0
        return self._front[0]

    def take(self):
        """Removes the document in front, and returns it."""
        document = self.first()
        self._front.popleft()
        return document

    def put_back(self, document):
        """Adds a document in front of the others."""
        self._front.appendleft(document)

    def __iter__(self):
        yield from self._front
        for path in self._files:
            yield from _read(path)
        yield from self._back


def _read(path):
    return json.loads(path.read_text(encoding="ascii"))
