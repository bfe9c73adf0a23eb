"""Documents beside what they would be with groups exchanged, so that a model reads of both alike.

Counterfactual data augmentation by Zhao et al. 2018 (https://arxiv.org/abs/1804.06876), with names as by Hall Maudslay
et al. 2019 (https://arxiv.org/abs/1909.00871). The words are in `word_pairs/`, where they can be read and copied.
"""

import functools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

_FOLDER = Path(__file__).with_name("word_pairs")
_LISTS = ("gender", "names")
_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")
_MARKS = ("determiner", "object", "pronoun", "name")


def counterfactual(
    documents: Iterable[str],
    pairs: str | os.PathLike | Sequence = _LISTS,
    *,
    substitute: bool = False,
    seed: int = 0,
) -> Iterator[str]:
    """Yields each document, and behind it what it would be if the groups in it were exchanged, where that is another.

    All words of a document are exchanged at once, so that it still speaks of one person by one gender. Capitals stay. A
    word with two counterparts, as "her" is "his" or "him", is told by what follows; that is right in most sentences
    ("her book", "saw her.") and wrong in some ("gave her books"). Facts become false where they hang on a group: names
    of known people, and who bears children.

    Args:
        documents: iterable of str.
        pairs: which words: "gender", "names" (first names, by how frequent they are), the path of a .tsv file as those
            in kerasllm/data/word_pairs, pairs of words [("king", "queen"), ...], or a list of any of the first three.
        substitute: bool. Yield one of the two, drawn with equal chances, so that there is no more to learn.
        seed: int, of that draw.

    Yields:
        str.

    Raises:
        TypeError: for a document that is no str.
        ValueError: for a list that there is not, or a line of one that is no pair.

    Example:
        >>> list(data.counterfactual(["He lost his keys."]))
        ['He lost his keys.', 'She lost her keys.']
    """
    exchange = exchanger(pairs)
    if isinstance(documents, str):
        raise TypeError("documents is an iterable of str, got one str: give [text], or data.read_text(path).")
    for number, document in enumerate(documents):
        if not isinstance(document, str):
            raise TypeError(f"Documents are str, got a {type(document).__name__}.")
        other = exchange(document)
        if substitute:
            yield other if np.random.default_rng([seed, number]).integers(2) else document
            continue
        yield document
        if other != document:
            yield other


def exchanger(pairs):
    """The function from a text to the same with groups exchanged. For `pairs` see `counterfactual`."""
    counterparts = {}
    for first, second, mark in _read_pairs(pairs):
        for word, other in ((first, second), (second, first)):
            counterparts.setdefault(word.lower(), {}).setdefault(mark, other)
    names = {word for word, others in counterparts.items() if set(others) == {"name"}}

    def exchange(text):
        def other(match):
            word = match[0]
            if word.lower() not in counterparts and "-" in word:
                return _WORD_PART.sub(other, word)
            others = counterparts.get(word.lower())
            if others is None or (word.lower() in names and word[0].islower()):
                return word
            return _in_case_of(word, _chosen(others, match))

        return _WORD.sub(other, text)

    return exchange


_WORD_PART = re.compile(r"[^\W_]+")


def _chosen(others, match):
    """The counterpart that a word has where it stands."""
    if "determiner" not in others:
        return next(iter(others.values()))
    behind = re.match(r"[ \n]+([^\W_]+)", match.string[match.end() : match.end() + 40])
    if behind and behind[1].lower() not in _not_after_determiners():
        return others["determiner"]
    return next((other for mark, other in others.items() if mark != "determiner"), others["determiner"])


def _in_case_of(word, other):
    if word.isupper() and len(word) > 1:
        return other.upper()
    return other[0].upper() + other[1:] if word[0].isupper() else other.lower()


@functools.cache
def _not_after_determiners():
    lines = (_FOLDER / "not_after_determiners.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


def _read_pairs(pairs):
    """Yields (word, counterpart, mark), of which the last is None where there is none."""
    if isinstance(pairs, str | os.PathLike):
        yield from _read_file(pairs)
        return
    for item in pairs:
        if isinstance(item, str | os.PathLike):
            yield from _read_file(item)
        elif isinstance(item, Sequence) and len(item) == 2 and all(isinstance(word, str) and word for word in item):
            yield *item, None
        else:
            raise ValueError(f"`pairs` are names of lists, files, or pairs of words, got {item!r:.80} among them.")


def _read_file(name):
    path = _FOLDER / f"{name}.tsv" if name in _LISTS else Path(name)
    if not path.is_file():
        raise ValueError(
            f"There is no list of words {str(name)!r}: give {', '.join(_LISTS)}, or the path of a .tsv file."
        )
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        first, *rest = line.split("\t")
        if not 1 <= len(rest) <= 2 or not all((first, *rest)):
            raise ValueError(f"Line {number} of {path} is no pair of words with a tab between: {line!r:.80}.")
        if rest[1:] and rest[1] not in _MARKS:
            raise ValueError(f"Line {number} of {path} ends with {rest[1]!r}; marks are {', '.join(_MARKS)}.")
        yield first, rest[0], rest[1] if rest[1:] else None
