"""Where documents come from: files, folders, globs, JSON lines, gzip, TensorFlow Datasets and Python's own manual.

A document is a str. Sources are read as they are consumed, in bounded memory, and always in the same order.
"""

import codecs
import contextlib
import difflib
import functools
import glob
import gzip
import itertools
import json
import operator
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
            - "tfds:NAME[/CONFIG][:SPLIT]", a data set of TensorFlow Datasets; the split is "train" by default. What
              `data_dir` holds, in any version, is used before anything is fetched. "tfds:translate_folder" is its
              TranslateFolder: the files LANGUAGE.SPLIT.txt of `data_dir`.
            - "python_docs": Python's language reference, which every Python brings along (0.46 MB of English).
        field: str, where the text is in a JSON object, or in an example of a data set that has several texts; for one
            inside another feature "OUTER/INNER".
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
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        return _read_json_lines(path, field)
    return _read_plain(path)


@contextlib.contextmanager
def _opened(path):
    opened = gzip.open if path.name.endswith(".gz") else open
    try:
        with opened(path, "rb") as file:
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file: {error}.") from error


def _read_plain(path):
    with _opened(path) as file:
        text, pending = "", file.read(3).removeprefix(codecs.BOM_UTF8)
        offset = file.tell() - len(pending)  # where `pending`, the bytes not yet decoded, begins in the file
        while chunk := file.read(_CHUNK_BYTES):
            data = pending + chunk
            decoded, pending = decode(data, path, offset, final=False)
            offset += len(data) - len(pending)
            text += decoded
            while len(text) > MAX_DOCUMENT:
                cut = text.rfind("\n", 0, MAX_DOCUMENT) + 1 or MAX_DOCUMENT
                yield text[:cut]
                text = text[cut:]
        yield text + decode(pending, path, offset)[0]


def read_lines(path):
    """The lines of a UTF-8 file, plain or .gz, without their line feeds; nothing else ends a line."""
    offset = 0
    with _opened(path) as file:
        for raw in file:
            line, _ = decode(raw, path, offset)
            yield (line if offset else line.removeprefix("\ufeff")).removesuffix("\n")
            offset += len(raw)


def _read_json_lines(path, field):
    for number, line in enumerate(read_lines(path), start=1):
        if not line or line.isspace():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where} is not JSON: {error}.") from error
        if not isinstance(record, dict) or not isinstance(record.get(field), str):
            found = f"the fields {sorted(record)}" if isinstance(record, dict) else f"a {type(record).__name__}"
            raise ValueError(f"{where} has no text in a field {field!r}: it has {found}. Name the field with field=.")
        yield record[field]


def decode(data, path, offset=0, final=True):
    """Decodes UTF-8 that begins at byte `offset` of `path`: (text, bytes of an unfinished character at the end)."""
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
    builder, examples = open_tfds(source, data_dir)
    column = _text_feature(builder, field)
    for number, example in enumerate(examples):
        yield text_of(example, column, f"Example {number} of {source}")


def open_tfds(source, data_dir):
    """Opens "tfds:NAME[/CONFIG][:SPLIT]": (the builder, an iterable of its examples in NumPy)."""
    import tensorflow_datasets as tfds

    name, _, split = source.removeprefix("tfds:").partition(":")
    builder = _translate_folder(tfds, data_dir) if name == "translate_folder" else _builder(tfds, name, data_dir)
    try:
        dataset = builder.as_dataset(split=split or "train", shuffle_files=False)
    except ValueError as error:
        splits = ", ".join(builder.info.splits)
        raise ValueError(f"{name} has no split {split or 'train'!r}: it has {splits}.") from error
    return builder, tfds.as_numpy(dataset)


def _builder(tfds, name, data_dir):
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        if not builder.is_prepared():
            builder = tfds.builder(f"{name}:*.*.*", data_dir=data_dir)  # whatever version there is on disk
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise ValueError(f"TensorFlow Datasets has no {name!r}. {_what_there_is(tfds, name, data_dir)}") from error
    try:
        builder.download_and_prepare()
    except Exception as error:  # whatever a download can raise
        raise OSError(
            f"TensorFlow Datasets could not fetch {name!r}: {error}. Without a network, give the folder of a data set "
            "that was fetched before as data_dir."
        ) from error
    return builder


def _translate_folder(tfds, data_dir):
    if data_dir is None or not Path(data_dir).expanduser().is_dir():
        raise FileNotFoundError(
            f"tfds:translate_folder reads files named LANGUAGE.SPLIT.txt, and data_dir={data_dir} is no folder: give "
            "the one that holds them."
        )
    try:
        return tfds.TranslateFolder(str(data_dir))
    except ValueError as error:
        raise ValueError(
            f"{data_dir} must hold files named LANGUAGE.SPLIT.txt with equally many lines, and no others: {error}."
        ) from error


def _what_there_is(tfds, name, data_dir):
    base, known = name.partition("/")[0], set(tfds.list_builders())
    if base in known:
        return f"The configs of {base} are {sorted(tfds.builder_cls(base).builder_configs)}."
    folder = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser() / base
    if folder.is_dir():
        return f"{folder} has {sorted(path.name for path in folder.iterdir() if path.name[0] != '.')}: name a config."
    near = difflib.get_close_matches(base, sorted(known), n=3)
    return f"Did you mean {' or '.join(near)}?" if near else "tfds.list_builders() lists the known ones."


def _text_feature(builder, field):
    texts = text_features(builder.info.features)
    if field in texts:
        return field
    if len(texts) != 1:
        raise ValueError(f"{builder.name} has {len(texts)} text features, {texts}: name the one to read with field=.")
    return texts[0]


def text_features(features):
    """The names of the texts in a data set's features; "OUTER/INNER" for one inside another feature."""
    import tensorflow_datasets as tfds

    names = []
    for name, feature in features.items():
        if isinstance(feature, tfds.features.Text):
            names.append(name)
        elif isinstance(feature, tfds.features.FeaturesDict):
            names += [f"{name}/{inner}" for inner in text_features(feature)]
    return names


def text_of(example, name, place):
    """The text of that name, as `text_features` writes it, in an example; `place` is where it came from."""
    return decode(functools.reduce(operator.getitem, name.split("/"), example), place)[0]
