"""Parallel text, for models that translate: pairs of a source sentence and its target.

`read_pairs` finds them where `kerasllm.data.read_text` finds documents; `remove_overlap` keeps held-out sentences out
of the training pairs.
"""

import collections
import itertools
import os
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence

from kerasllm.data.formats import TEXT, TSV, decode, kind_of, read_lines
from kerasllm.data.records import known_as, read_tabs, read_text_pairs
from kerasllm.data.sources import path_of
from kerasllm.data.tfds import PREFIX, is_version_folder, open_tfds, text_features, text_of


def read_pairs(
    source: str | os.PathLike,
    target: str | os.PathLike | None = None,
    *,
    columns: Sequence[int] | Sequence[str] | None = None,
    data_dir: str | os.PathLike | None = None,
) -> Iterator[tuple[str, str]]:
    """Reads pairs of sentences, one after the other.

    White space around a sentence is dropped. A pair of which both sides are blank is left out. One of which a single
    side is blank is left out too and counted: a warning at the end says how many there were, and where the first was.

    Args:
        source: one of these:

            - a text file, one sentence a line; line n of `target` translates its line n.
            - a file of columns with a tab in between, such as .tsv. Cells may be in quotes in a .tsv file, as
              spreadsheets write them, where that reads all of it as rows of one length; else a quote is a quote.
            - a file of records, as in `read_text`: .csv, .jsonl, .json or .parquet.
            - `"tfds:NAME[/CONFIG][:SPLIT]"`, as in `read_text`: a data set of TensorFlow Datasets that has translations
              or at least two texts.

            Compression and encoding are as in `read_text`.
        target: the text file of the other side. None for the other kinds of source.
        columns: which two to read, the source's and the target's. In a file with tabs their numbers, by default (0, 1),
            the first two; or, in a .tsv file whose first line names them, their names. In records their names, such as
            ("en", "de") or ("translation.en", "translation.de"); by default the only two with text. In a data set their
            names too; by default the pair that it was made for, its `supervised_keys`, or else its only two texts.
        data_dir: the folder of TensorFlow Datasets, as in `read_text`.

    Returns:
        An iterator of (str, str).

    Raises:
        FileNotFoundError: where a file does not exist.
        ValueError: for a file that is damaged, not what its name says or short of columns, with the place; for an
            unknown data set, split or column, and, at the end, for files of unequal length and for sources that hold no
            pair.

    Example:

    >>> pairs = read_pairs("train.de.gz", "train.en.gz")
    >>> swapped = read_pairs("deu.tsv", columns=(1, 0))
    >>> portuguese_to_english = read_pairs("tfds:ted_hrlr_translate/pt_to_en:validation")
    """
    if columns is not None and (isinstance(columns, str) or len(columns) != 2):
        raise ValueError(f"columns={columns!r} is not possible; name two: the source's and the target's.")
    if str(source).startswith(PREFIX) or is_version_folder(path_of(source)):
        if target is not None:
            raise ValueError(
                f"{source} holds both sides already; choose them with columns= in place of target={target}."
            )
        return _whole_pairs(_read_tfds(str(source), columns, data_dir), source)
    if target is None:
        return _whole_pairs(_read_columns(_file(source), columns), source)
    if columns is not None:
        raise ValueError(f"columns={columns} needs one file of columns; with two files, their order is the direction.")
    return _whole_pairs(_read_two_files(_file(source), _file(target)), f"{source} and {target}")


def remove_overlap(
    pairs: Iterable[tuple[str, str]], held_out: Mapping[str, Iterable[tuple[str, str]]]
) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """Removes the pairs of which a side also occurs in held-out pairs.

    Sentences are compared without regard to case, punctuation, white space and Unicode's compatibility forms (NFKC). A
    pair goes when its source or its target equals either side of a held-out pair.

    Args:
        pairs: iterable of (source, target): what a model is to be trained on.
        held_out: dict of name to iterable of (source, target), such as {"val": ..., "test": ...}.

    Returns:
        A list of the pairs that stay, and a dict of name to the number of pairs that this set removed. A pair that
        occurs in several sets counts in each.

    Example:

    >>> train = [("Ein Hund.", "A dog."), ("Eine Katze.", "A cat.")]
    >>> remove_overlap(train, {"val": [("EIN HUND", "One dog!")]})
    ([('Eine Katze.', 'A cat.')], {'val': 1})
    """
    sentences = {name: {_normal(side) for pair in others for side in pair} for name, others in held_out.items()}
    kept, removed = [], dict.fromkeys(held_out, 0)
    for pair in pairs:
        sides = {_normal(side) for side in pair}
        found_in = [name for name, known in sentences.items() if not known.isdisjoint(sides)]
        for name in found_in:
            removed[name] += 1
        if not found_in:
            kept.append(pair)
    return kept, removed


class _Separators(dict):
    """A table for `str.translate` that turns punctuation into spaces and learns its characters as they come."""

    def __missing__(self, code):
        self[code] = " " if unicodedata.category(chr(code)).startswith("P") else chr(code)
        return self[code]


_SEPARATORS = _Separators()


def _normal(sentence):
    folded = unicodedata.normalize("NFKC", sentence).casefold()
    return " ".join(folded.translate(_SEPARATORS).split()) or sentence  # "?!" is not the same as "..."


def _whole_pairs(pairs, source):
    """Drops the pairs with a blank side, and warns of those that lose a sentence by that."""
    kept, half = 0, []
    for number, (one, other) in enumerate(pairs, start=1):
        one, other = one.strip(), other.strip()
        if one and other:
            kept += 1
            yield one, other
        elif one or other:
            half.append(number)
    if not kept:
        raise ValueError(f"{source} holds no pair: at least one sentence with its translation is needed.")
    if half:
        message = f"{len(half)} of {kept + len(half)} pairs of {source} were left out, as one side is blank; the first"
        warnings.warn(f"{message} is number {half[0]}.", stacklevel=2)


def _file(source):
    path = path_of(source)
    if not path.is_file():
        raise FileNotFoundError(
            f"No file at {source}: give two text files, one file of columns with tabs in between, one of records "
            '(.csv, .jsonl, .json, .parquet), or "tfds:NAME".'
        )
    return path


def _read_two_files(source, target):
    counts = [0, 0]
    for sides in itertools.zip_longest(read_lines(source), read_lines(target)):
        counts = [count + (side is not None) for count, side in zip(counts, sides, strict=True)]
        if None not in sides:
            yield sides
    if counts[0] != counts[1]:
        raise ValueError(
            f"{source} has {counts[0]} lines and {target} has {counts[1]}, so they do not translate each other line by "
            "line: give two files of the same set, or put back the missing lines, empty where there is no sentence."
        )


def _read_columns(path, columns):
    kind, indices = kind_of(path), _indices(columns or (0, 1))
    if kind not in (TEXT, TSV) or (kind == TSV and indices is None):
        return read_text_pairs(path, kind, columns)
    if indices is None:
        raise ValueError(f"columns={columns!r} is not possible for {path}: number its columns from 0, such as (0, 1).")
    return _read_numbered(path, kind, indices)


def _indices(columns):
    """Columns counted from 0, given as (0, 1) or ("0", "1"); None where they are names."""
    indices = [int(column) if str(column).isdecimal() else None for column in columns]
    return None if None in indices else indices


def _read_numbered(path, kind, columns):
    for number, cells in read_tabs(path, kind):
        if len(cells) <= max(columns):
            raise ValueError(
                f"{path}, line {number} has {len(cells)} columns with tabs in between, and columns {tuple(columns)}, "
                "counted from 0, were asked for; for two files of one sentence a line, give the other one as target."
            )
        yield tuple(cells[column] for column in columns)


def _read_tfds(source, columns, data_dir):
    import tensorflow_datasets as tfds

    builder, examples = open_tfds(source, data_dir)
    for name, feature in builder.info.features.items():
        if isinstance(feature, tfds.features.TranslationVariableLanguages):
            yield from _read_languages(source, examples, name, feature.languages, columns)
            return
    yield from _read_texts(source, examples, builder, columns)


def _read_languages(source, examples, name, languages, columns):
    """Pairs of examples that have any number of texts in each of any number of languages: all their combinations."""
    if not columns or not set(columns) <= set(languages or columns):
        known = f"of {languages} " if languages else ""
        raise ValueError(f"{source} has many languages: name two {known}with columns=, the source's and the target's.")
    for number, example in enumerate(examples):
        texts = collections.defaultdict(list)
        for language, text in zip(example[name]["language"], example[name]["translation"], strict=True):
            texts[language.decode()].append(decode(text, f"Example {number} of {source}")[0])
        yield from itertools.product(*(texts[language] or [""] for language in columns))


def _read_texts(source, examples, builder, columns):
    """Pairs of examples that have each side in a feature of its own."""
    texts, keys = text_features(builder), builder.info.supervised_keys or ()
    supervised = keys if len(keys) == 2 and set(keys) <= set(texts) else texts
    chosen = [known_as(column, texts) for column in columns] if columns else supervised
    if len(chosen) != 2 or not set(chosen) <= set(texts):
        asked = f"no {columns}" if columns else "no pair by itself"
        raise ValueError(f"{source} has {asked}, its texts are {texts}: name two of them with columns=.")
    for number, example in enumerate(examples):
        yield tuple(text_of(example, name, f"Example {number} of {source}") for name in chosen)
