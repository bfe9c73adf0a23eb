"""Where documents come from: files, folders, globs, JSON lines, gzip, TensorFlow Datasets and Python's own manual.

A document is a str. Sources are read as they are consumed, in bounded memory, and always in the same order.
"""

import codecs
import difflib
import glob
import gzip
import itertools
import json
import zlib
from pathlib import Path

SUFFIXES = (".txt", ".md", ".jsonl")
MAX_DOCUMENT = 2**21
_CHUNK_BYTES = 2**20


def read_text(source, *, field="text", data_dir=None):
    """Reads documents, one after the other.

    A text file is one document, as it stands: line ends and spaces are kept, only a byte order mark is dropped. A file
    of more than 2,097,152 characters comes as several documents, each cut after the last line end within that many, so
    that memory stays bounded. Each line of a .jsonl file is a document. Documents of white space alone are left out.

    Args:
        source: one of these, or a list of them:

            - a file, UTF-8. Names that end in .jsonl hold JSON objects, one a line; names that end in .gz are gzip.
            - a folder: all its .txt, .md and .jsonl files, plain or .gz, also in sub-folders, ordered by path; hidden
              ones are left out.
            - a glob, such as "corpus/**/*.py": its files, ordered by path.
            - "tfds:NAME[/CONFIG][:SPLIT]", a data set of TensorFlow Datasets; the split is "train" by default.
            - "python_docs": Python's language reference, which every Python brings along (0.46 MB of English).
        field: str, where the text is in a JSON object, or in an example of a data set that has several texts.
        data_dir: the folder of TensorFlow Datasets, by default its own (~/tensorflow_datasets).

    Returns:
        An iterator of str.

    Raises:
        FileNotFoundError: where a source does not exist.
        ValueError: for a file that is not UTF-8 (with the place), not gzip or not JSON, an unknown data set or split,
            and, at the end, for sources that hold no text.

    Example:

    >>> documents = read_text("python_docs")
    >>> next(documents)[:24]
    'The "assert" statement\\n*'
    """
    readers = _readers(source, field, data_dir)
    return _not_empty(itertools.chain.from_iterable(reader() for reader in readers), source)


def split_text(source, validation=0.1, *, field="text", data_dir=None):
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
    cut = int(length * (1 - validation))
    if not 0 < cut < length:
        raise ValueError(f"{length} characters are too few to keep {validation:g} of them for validation.")
    return _Part(documents, 0, cut), _Part(documents, cut, length)


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


def _not_empty(documents, source):
    empty = True
    for document in documents:
        if document and not document.isspace():
            empty = False
            yield document
    if empty:
        raise ValueError(f"{source!s} holds no text: at least one document with more than white space is needed.")


def _readers(source, field, data_dir):
    """Functions without arguments, one for each file or data set, that iterate over its documents."""
    if isinstance(source, (list, tuple)):
        if not source:
            raise ValueError("source is an empty list: name at least one file, folder, glob or data set.")
        return [reader for one in source for reader in _readers(one, field, data_dir)]
    if not isinstance(source, (str, Path)):
        raise TypeError(f"source must be a str, a path or a list of those, got {type(source).__name__}.")
    if source == "python_docs":
        return [_read_python_docs]
    if str(source).startswith("tfds:"):
        return [lambda: _read_tfds(str(source), field, data_dir)]
    return [lambda file=file: _read_file(file, field) for file in _files(source)]


def _files(source):
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if _is_text(p.relative_to(path)) and p.is_file())
        if not files:
            raise FileNotFoundError(
                f"The folder {path} has no {', '.join(SUFFIXES)} file (or one of those with .gz): for other names "
                f'give a glob, such as "{path}/*.py".'
            )
        return files
    files = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
    if not files:
        raise FileNotFoundError(
            f'No text at {source}: give a file, a folder, a glob that matches files, "tfds:NAME" or "python_docs".'
        )
    return files


def _is_text(path):
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and path.name.removesuffix(".gz").endswith(SUFFIXES)


def _read_file(path, field):
    opened = gzip.open if path.name.endswith(".gz") else open
    read = _read_lines if path.name.removesuffix(".gz").endswith(".jsonl") else _read_plain
    try:
        with opened(path, "rb") as file:
            yield from read(file, path, field)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file: {error}.") from error


def _read_plain(file, path, field):
    text, pending = "", file.read(3).removeprefix(codecs.BOM_UTF8)
    offset = file.tell() - len(pending)  # where `pending`, the bytes not yet decoded, begins in the file
    while chunk := file.read(_CHUNK_BYTES):
        data = pending + chunk
        decoded, pending = _decode(data, path, offset, final=False)
        offset += len(data) - len(pending)
        text += decoded
        while len(text) > MAX_DOCUMENT:
            cut = text.rfind("\n", 0, MAX_DOCUMENT) + 1 or MAX_DOCUMENT
            yield text[:cut]
            text = text[cut:]
    yield text + _decode(pending, path, offset)[0]


def _read_lines(file, path, field):
    offset = 0
    for number, raw in enumerate(file, start=1):
        line, _ = _decode(raw, path, offset)
        offset += len(raw)
        if line.isspace():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line.removeprefix("\ufeff"))
        except ValueError as error:
            raise ValueError(f"{where} is not JSON: {error}.") from error
        if not isinstance(record, dict) or not isinstance(record.get(field), str):
            found = f"the fields {sorted(record)}" if isinstance(record, dict) else f"a {type(record).__name__}"
            raise ValueError(f"{where} has no text in a field {field!r}: it has {found}. Name the field with field=.")
        yield record[field]


def _decode(data, path, offset, final=True):
    """Decodes UTF-8: (text, bytes of an unfinished character at the end)."""
    try:
        text, used = codecs.utf_8_decode(data, "strict", final)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte {offset + error.start} is 0x{data[error.start]:02x}. Convert it, for example "
            "with iconv -f LATIN1 -t UTF-8."
        ) from error
    return text, data[used:]


def _read_python_docs():
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield topics[name]


def _read_tfds(source, field, data_dir):
    import tensorflow_datasets as tfds

    name, _, split = source.removeprefix("tfds:").partition(":")
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise ValueError(f"TensorFlow Datasets has no {name!r}. {_what_there_is(tfds, name)}") from error
    try:
        builder.download_and_prepare()
    except Exception as error:  # whatever a download can raise
        raise OSError(
            f"TensorFlow Datasets could not fetch {name!r}: {error}. Without a network, give the folder of a data set "
            "that was fetched before as data_dir."
        ) from error
    split = split or "train"
    if split.partition("[")[0] not in builder.info.splits:
        raise ValueError(f"{name} has no split {split!r}: it has {', '.join(builder.info.splits)}.")
    column = _text_feature(tfds, builder, name, field)
    for number, example in enumerate(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False))):
        text, _ = _decode(example[column], f"Example {number} of {source}", 0)
        yield text


def _what_there_is(tfds, name):
    base, known = name.partition("/")[0], set(tfds.list_builders())
    if base in known:
        return f"The configs of {base} are {sorted(tfds.builder_cls(base).builder_configs)}."
    near = difflib.get_close_matches(base, sorted(known), n=3)
    return f"Did you mean {' or '.join(near)}?" if near else "tfds.list_builders() lists the known ones."


def _text_feature(tfds, builder, name, field):
    texts = [key for key, feature in builder.info.features.items() if isinstance(feature, tfds.features.Text)]
    if field in texts:
        return field
    if len(texts) != 1:
        raise ValueError(f"{name} has {len(texts)} text features, {texts}: name the one to read with field=.")
    return texts[0]
