"""Leaving out documents that hold pieces of texts that a model is to be measured on."""

import functools
from collections.abc import Iterable

import numpy as np

from kerasllm.data.filtering import FilteredDocuments, Outcome
from kerasllm.data.words import composed, find_words, phrases, pieces
from kerasllm.files import check_documents

RULE = "in_held_out"


def decontaminate(documents: Iterable[str], held_out: Iterable[str], *, num_words: int = 13) -> FilteredDocuments:
    """Leaves out documents that share a run of words with held-out texts, as for GPT-3 (Brown et al. 2020, appendix C).

    Case, punctuation and white space do not count; in scripts without spaces each character is a word. Held-out texts
    of fewer words are not looked for, as ordinary text has many of them by chance.

    Args:
        documents: iterable of str. One that is no iterator can be iterated over again.
        held_out: iterable of str, what the model will be measured on.
        num_words: int, at least 2, how long a run has to be.

    Returns:
        `FilteredDocuments`, an iterable of str whose `report` says how many were left out.

    Raises:
        TypeError: for documents that are not str.
        ValueError: where no held-out text has so many words.

    Example:

    >>> list(decontaminate(["Wall, O sweet WALL: it is.", "O wall!"], ["o sweet wall, it is"], num_words=4))
    ['O wall!']
    """
    check_documents("held_out", held_out)
    if num_words < 2:
        raise ValueError(f"num_words must be at least 2, got {num_words}.")
    known = np.unique(np.concatenate([np.zeros(0, np.uint64), *(_runs(text, num_words) for text in held_out)]))
    if not len(known):
        raise ValueError(f"No held-out text has {num_words} words, which is how long a run has to be: lower num_words.")
    return FilteredDocuments(documents, (RULE,), lambda: functools.partial(_outcome, known, num_words))


def _runs(text, num_words):
    """The hashes of all runs of words, uint64."""
    of_pieces = [phrases(find_words(piece).hashes, num_words) for piece in pieces(composed(text))]
    return np.concatenate([np.zeros(0, np.uint64), *of_pieces])


def _outcome(known, num_words, document):
    runs = _runs(document, num_words)
    found = known[np.minimum(np.searchsorted(known, runs), len(known) - 1)] == runs
    return Outcome(None, removed_by=RULE) if found.any() else Outcome(document)
