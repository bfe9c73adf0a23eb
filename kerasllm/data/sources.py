"""Where documents come from: files, folders, globs, data sets of others and Python's own manual.

A document is a str. Sources are read as they are consumed, in bounded memory, and always in the same order. What a file
is and how it is opened is in formats.py, what its rows and objects hold in records.py, TensorFlow Datasets in tfds.py,
Hugging Face's in hub.py, object stores in `kerasllm.storage`.
"""

import collections
import functools
import glob
import itertools
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kerasllm.data import formats, hub
from kerasllm.data.formats import JSON_LINES, TEXT, kind_by_name, kind_of, read_chunks
from kerasllm.data.records import read_texts
from kerasllm.data.tfds import PREFIX, is_version_folder, read_tfds
from kerasllm.storage import RemotePath, is_remote, size_of
from kerasllm.storage import path_of as any_path_of

MAX_DOCUMENT = 2**21
# What a folder is read for; where it has none of these, for the one kind of data that it has.
_DOCUMENT_KINDS = TEXT, JSON_LINES


def read_text(
    source: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    field: str | None = None,
    data_dir: str | os.PathLike | None = None,
) -> Iterator[str]:
    """Reads documents, one after the other.

    A text file is one document, as it stands: line ends and spaces are kept, only a byte order mark is dropped. A file
    of more than 2,097,152 characters comes as several documents, each cut after the last line end within that many, so
    that memory stays bounded. In files of records each record is a document: each line of a .jsonl file, each row of a
    .csv, .tsv or .parquet file, each object of a .json file. Documents of white space alone are left out, and so are
    records whose text is null: a warning at the end says how many there were, and where the first was.

    Args:
        source: one of these, or a list of them:

            - a file. What it is follows from its name, in capitals or not: .jsonl and .ndjson hold a JSON object a
              line; .json a list of objects or texts, or columns, read at once; .csv and .tsv rows, the first of which
              names the columns; .parquet what pandas and Hugging Face write (with `pip install pyarrow`); every other
              file is text. Files compressed with gzip, bzip2, xz or Zstandard (.zst, with `pip install zstandard`) are
              read as what they hold, whatever their names. Text is UTF-8, or the UTF-16 or UTF-32 that a byte order
              mark tells of.
            - a folder: all its .txt, .md, .jsonl and .ndjson files, also compressed ones and in sub-folders, ordered by
              path; hidden ones are left out. A folder without such files is read where all its other files of data
              are of one kind: .json, .csv, .tsv or .parquet. A warning says what was left out.
            - a glob, such as "corpus/**/*.py": its files, ordered by path.
            - `"tfds:NAME[/CONFIG][:SPLIT]"`, a data set of TensorFlow Datasets; the split is "train" by default. What
              `data_dir` holds, in any version, is used before anything is fetched. The folder of one version, such as
              "data/toy/1.0.0", serves too, with "tfds:" before it and a split behind it or without.
              "tfds:translate_folder" is its TranslateFolder: the files LANGUAGE.SPLIT.txt of `data_dir`.
            - `"hf:DATASET[/CONFIG][:SPLIT]"`, a data set of Hugging Face's hub, OWNER/NAME, or of a folder in its
              format (with `pip install datasets`). It is read as it is fetched; the split is "train" by default.
            - a file, folder or glob of an object store, "gs://BUCKET/crawl/*.jsonl.zst" and what else fsspec knows
              (with `pip install fsspec` and what it asks for, such as gcsfs).
            - "python_docs": Python's language reference, which every Python brings along (0.46 MB of English).
        field: str, where the text is in a record or in an example of a data set; "OUTER.INNER" for a field inside
            another one. None means "text", or else the only field that has text. For a table whose first line names
            nothing, the number of a column, "0" for the first.
        data_dir: the folder of TensorFlow Datasets, by default its own (~/tensorflow_datasets).

    Returns:
        An iterator of str.

    Raises:
        FileNotFoundError: where a source does not exist.
        TypeError: where a source is neither a str, a path nor a list of those.
        ValueError: for a file that is damaged, or not what its name says, with the place; a field that is not there,
            or not plain; an unknown data set or split; and, at the end, for sources that hold no text.

    Example:

    >>> documents = read_text("python_docs")
    >>> next(documents)[:24]
    'The "assert" statement\\n*'
    """
    left_out = _LeftOut()
    parts = parts_of(source, field, data_dir, left_out.add)
    return _not_empty(itertools.chain.from_iterable(part.read() for part in parts), source, left_out)


class Part(NamedTuple):
    """A file or data set that a source names.

    Attributes:
        read: function without arguments that returns an iterator over its documents. It can be sent to other processes.
        size: int, bytes of the file; 0 where that is not known.
    """

    read: Callable
    size: int = 0


class _LeftOut:
    """How many records have null for a text, and where the first of them is."""

    count, first = 0, None

    def add(self, place):
        self.count, self.first = self.count + 1, self.first or place

    def __str__(self):
        return f"Records whose text is null are left out: {self.count:,}, the first of which is {self.first}."


def is_filled(document):
    """Whether a document is more than white space: others are left out."""
    return bool(document) and not document.isspace()


def _not_empty(documents, source, left_out):
    empty = True
    for document in documents:
        if is_filled(document):
            empty = False
            yield document
    if empty:
        why = f" {left_out}" if left_out.count else ""
        raise ValueError(f"{source!s} holds no text: at least one document with more than white space is needed.{why}")
    if left_out.count:
        warnings.warn(str(left_out), stacklevel=2)


def parts_of(source, field=None, data_dir=None, left_out=lambda place: None):
    """The `Part`s of a source, in order; the arguments are those of `read_text`, which says what it raises.

    `left_out` is a function that is called with the place of each record whose text is null.
    """
    if isinstance(source, (list, tuple)):
        if not source:
            raise ValueError("source is an empty list: name at least one file, folder, glob or data set.")
        return [part for one in source for part in parts_of(one, field, data_dir, left_out)]
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"source must be a str, a path or a list of those, got {type(source).__name__}.")
    source = os.fspath(source)
    if source == "python_docs":
        return [Part(_read_python_docs)]
    if source.startswith(hub.PREFIX):
        return [Part(functools.partial(hub.read_hub, source, field, left_out))]
    if source.startswith(PREFIX) or (not is_remote(source) and is_version_folder(path_of(source))):
        return [Part(functools.partial(read_tfds, source, field, data_dir))]
    files = files_of(source)
    return [Part(functools.partial(_read_file, file, field, left_out), size_of(file)) for file in files]


def path_of(source):
    """The path that a source names. FileNotFoundError where none could be so: perhaps it is meant as a text."""
    try:
        path = any_path_of(source).expanduser()
        path.exists()
        return path
    except (OSError, ValueError, RuntimeError) as error:
        if is_remote(source):
            raise
        source = str(source)
        raise FileNotFoundError(
            f"A source names files, and this str of {len(source):,} characters cannot: {source[:60]!r}. A text itself "
            "needs no reading: give [text] to what takes documents."
        ) from error


def files_of(source):
    """The paths of the files that a file, a folder or a glob stands for, which is not empty."""
    path = path_of(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        return _files_of_folder(path)
    files = _globbed(path)
    if not files:
        raise FileNotFoundError(
            f'No text at {source}: give a file, a folder, a glob that matches files, "tfds:NAME", "hf:NAME" or '
            '"python_docs".'
        )
    return files


def _globbed(path):
    if isinstance(path, RemotePath):
        folder, _, pattern = str(path).rpartition("/")
        while "*" in folder:
            folder, _, part = folder.rpartition("/")
            pattern = f"{part}/{pattern}"
        return RemotePath(folder).files(pattern)
    return sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())


def _files_of_folder(folder):
    if isinstance(folder, RemotePath):
        files = [p for p in folder.files() if not _is_hidden(Path(str(p).removeprefix(f"{folder}/")))]
    else:
        files = sorted(p for p in folder.rglob("*") if not _is_hidden(p.relative_to(folder)) and p.is_file())
    kinds = {path: kind_by_name(path) for path in files}
    data = set(kinds.values()) - {None}
    wanted = data.intersection(_DOCUMENT_KINDS) or (data if len(data) == 1 else ())
    if not wanted:
        ends = ", ".join(end for end, kind in formats.KINDS.items() if kind in _DOCUMENT_KINDS)
        raise FileNotFoundError(
            f"The folder {folder} has no {ends} file, compressed or not; it has {_counted(files) or 'nothing'}. Name "
            f'what to read with a glob, such as "{_glob_for(folder, files)}".'
        )
    chosen = [path for path in files if kinds[path] in wanted]
    if others := [path for path in files if kinds[path] not in wanted]:
        warnings.warn(
            f"Of the folder {folder}, {len(chosen):,} files are read and {len(others):,} are left out, "
            f'{_counted(others)}: name others with a glob, such as "{_glob_for(folder, others)}".',
            stacklevel=2,
        )
    return chosen


def _is_hidden(path):
    return any(part.startswith(".") for part in path.parts)


def _counted(files):
    """What files there are, by the ends of their names: "3 .py, 1 .toml, 4 other"."""
    counts = collections.Counter(path.suffix or "nameless" for path in files).most_common()
    rest = sum(count for _, count in counts[3:])
    return ", ".join([f"{count:,} {end}" for end, count in counts[:3]] + [f"{rest:,} other"] * bool(rest))


def _glob_for(folder, files):
    """The glob of the files with the commonest end."""
    counts = collections.Counter(path.suffix for path in files).most_common(1)
    return f"{folder}/**/*{counts[0][0] if counts else '.txt'}"


def _read_file(path, field, left_out):
    kind = kind_of(path)
    return _read_plain(path) if kind == TEXT else read_texts(path, kind, field, left_out)


def _read_plain(path):
    text = ""
    for chunk in read_chunks(path):
        text += chunk
        while len(text) > MAX_DOCUMENT:
            cut = text.rfind("\n", 0, MAX_DOCUMENT) + 1 or MAX_DOCUMENT
            yield text[:cut]
            text = text[cut:]
    yield text


def _read_python_docs():
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield topics[name]
