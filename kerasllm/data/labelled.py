"""Texts with labels, in files and as numbers."""

import itertools
import math
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from kerasllm.data.formats import TEXT, kind_of
from kerasllm.data.records import known_as, leaf_names, read_records, text_names, value_at
from kerasllm.data.sources import files_of
from kerasllm.data.tfds import PREFIX, open_tfds, text_features, text_of

LABEL_COLUMNS = ("label", "labels", "category", "class", "target")


def read_labelled(
    source: str | os.PathLike | Sequence[str | os.PathLike],
    text_column: str | Sequence[str] | None = None,
    label_column: str | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Reads texts with their labels, one after the other.

    Args:
        source: a file, a folder, a glob, or a list of those, as in `read_text`: .csv, .tsv, .jsonl, .json or .parquet,
            plain or compressed; or "tfds:NAME".
        text_column: str, the column or field of texts; None for "text", or else the only one with text besides the
            labels. Two of them, such as ["premise", "hypothesis"], are of pairs of texts, which have one label.
        label_column: str, that of labels; None for "label", "labels", "category", "class" or "target".

    Returns:
        An iterator of pairs (text, label): a text is a str, or a pair of them, and a label a str or a number, or a list
        of them. Names of labels that a
        data set of TFDS has stand for its numbers.

    Raises:
        FileNotFoundError: where a source does not exist.
        ValueError: for a file that is damaged, or that has no such columns, and for a text or a label that is missing;
            each with the file and the line.

    Example:

    >>> from pathlib import Path
    >>> _ = Path("reviews.csv").write_text("text,label\\nWhat a film!,good\\n")
    >>> next(read_labelled("reviews.csv"))
    ('What a film!', 'good')
    """
    sources = source if isinstance(source, list | tuple) else [source]
    columns = [text_column] if text_column is None or isinstance(text_column, str) else list(text_column)
    if len(columns) not in (1, 2):
        raise ValueError(f"Texts are in one column, or pairs of them in two, got {columns}.")
    for one in sources:
        if str(one).startswith(PREFIX):
            yield from _read_tfds(str(one), columns, label_column)
        else:
            for path in files_of(one):
                yield from _read_file(path, columns, label_column)


def _read_file(path, text_columns, label_column):
    kind = kind_of(path)
    if kind == TEXT:
        raise ValueError(f"{path} is plain text, which has no labels: give .csv, .tsv, .jsonl, .json or .parquet.")
    wanted = [*text_columns, label_column] if label_column else [*text_columns, *LABEL_COLUMNS]
    records = read_records(path, kind, [name for name in wanted if name])
    sample = list(itertools.islice(records, 100))
    columns = None
    for place, record in itertools.chain(sample, records):
        if not isinstance(record, dict):
            raise ValueError(f"{place} is no record with a text and a label: it is a {type(record).__name__}.")
        columns = columns or _columns(path, [record for _, record in sample], text_columns, label_column)
        *texts, label = (value_at(record, column, place) for column in columns)
        for text, column in zip(texts, columns, strict=False):
            if not isinstance(text, str):
                raise ValueError(f"{place} has no text in the column {column!r}: it has {text!r:.80}.")
        yield _one_or_pair(texts), _checked_label(label, f"{place}, column {columns[-1]!r}")


def _one_or_pair(texts):
    return texts[0] if len(texts) == 1 else tuple(texts)


def _checked_label(label, place):
    for one in label if isinstance(label, list) else [label]:
        if not isinstance(one, str | int | float | bool) or one == "" or one != one:
            raise ValueError(f"{place} has no label: it has {label!r:.80}. Leave such rows out.")
    return label


def _columns(path, records, text_columns, label_column):
    """The names of the columns of texts, and of that of labels, in the records of a file."""
    records = [record for record in records if isinstance(record, dict)]
    names = leaf_names(records)
    found = [known_as(label_column, names)] if label_column else [name for name in LABEL_COLUMNS if name in names]
    if not found or found[0] not in names:
        wanted = f"no column {label_column!r}" if label_column else "no column that is plainly of labels"
        raise ValueError(
            f"{path} has {wanted}, but {_listed(names)}: name it with label_column= (--label-column, and "
            "--field TEXT LABEL to `kerasllm evaluate`)."
        )
    label = found[0]
    if text_columns != [None]:
        found = [known_as(column, names) for column in text_columns]
        for column, text in zip(text_columns, found, strict=True):
            if text not in names:
                raise ValueError(
                    f"{path} has no column {column!r}, but {_listed(names)}: name that of the texts with text_column= "
                    "(--text-column)."
                )
        return *found, label
    texts = [name for name in text_names(records) if name != label]
    if "text" not in texts and len(texts) != 1:
        raise ValueError(
            f"{path} has {_listed(names)}, and which of them is the text is not plain: name it with text_column= "
            "(--text-column)."
        )
    return "text" if "text" in texts else texts[0], label


def _listed(names):
    return ", ".join(map(repr, names)) or "none"


def _read_tfds(source, text_columns, label_column):
    builder, examples = open_tfds(source, None)
    features, label = builder.info.features, label_column or "label"
    texts = text_features(builder)
    usual = "text" if "text" in texts or len(texts) != 1 else texts[0]
    found = [known_as(column, texts) if column else usual for column in text_columns]
    if not {*found} <= {*texts} or label not in features:
        raise ValueError(
            f"{source} has the texts {_listed(texts)} and the features {_listed(list(features))}: name them with "
            "text_column= and label_column=."
        )
    name_of = getattr(features[label], "int2str", lambda number: number)
    for number, example in enumerate(examples):
        value = operator.index(example[label]) if np.issubdtype(type(example[label]), np.integer) else example[label]
        yield _one_or_pair([text_of(example, text, f"Example {number} of {source}") for text in found]), name_of(value)


def label_names(labels: Iterable[Any]) -> list[str]:
    """The names of the labels that there are, in order: numbers by size, others by their letters.

    Args:
        labels: iterable of labels, or of lists of them, as `read_labelled` gives them.

    Example:

    >>> label_names(["b", ["a", "b"], "c"])
    ['a', 'b', 'c']
    """
    names = {_name(one) for label in labels for one in (label if isinstance(label, list) else [label])}
    return sorted(names, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))


def _name(label):
    if isinstance(label, bool):
        return str(label).lower()
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def are_quantities(labels: Iterable[Any]) -> bool:
    """Whether labels are numbers of which some are not whole: quantities, and no names."""
    found = False
    for label in labels:
        try:
            number = float("nan" if isinstance(label, bool | list) else label)
        except ValueError:
            return False
        if not math.isfinite(number):
            return False
        found = found or not number.is_integer()
    return found


def targets_of(labels: Sequence[Any], names: Sequence[str] | None, problem: str) -> np.ndarray:
    """Labels as a `SequenceClassifier` learns them.

    Args:
        labels: list of labels, as `read_labelled` gives them.
        names: list of str, those that the model knows, or None for numbers that are its own.
        problem: "single_label", "multi_label" or "regression".

    Returns:
        int32 (N,), float32 (N, L) of 0 and 1, or float32 (N,) or (N, L).

    Raises:
        ValueError: for a label that is not among the names, or no number where one is needed.
    """
    if problem == "regression":
        for label in labels:
            try:
                np.array(label, "float32")
            except ValueError as error:
                raise ValueError(f"Regression learns numbers, and a text has the label {label!r:.80}.") from error
        return np.array(labels, "float32")
    names = names or ()
    index = {name: number for number, name in enumerate(names)}

    def of(label):
        if (name := _name(label)) not in index:
            shown = ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
            if isinstance(label, list):
                raise ValueError(f"The model gives a text one label, and a text has {label!r:.80}.")
            raise ValueError(
                f"The model has no label {name!r}; it has {shown}. Leave such texts out, or train on some of them."
            )
        return index[name]

    if problem == "single_label":
        return np.array([of(label) for label in labels], "int32")
    rows = np.zeros((len(labels), len(names)), "float32")
    for row, label in zip(rows, labels, strict=True):
        row[[of(one) for one in (label if isinstance(label, list) else [label])]] = 1.0
    return rows
