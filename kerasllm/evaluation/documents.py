"""The texts that a model is scored on, of what a user gives."""

import os
from collections.abc import Iterable
from numbers import Integral

from kerasllm.generation.prompts import as_text


def as_documents(documents):
    """An iterable of documents: what is given, or a list of the one text that is.

    Raises:
        TypeError: for what is neither a text nor an iterable.
        ValueError: for the name of a file, whose letters nobody wants to score.
    """
    one = as_text(documents)
    if one is None and (not isinstance(documents, Iterable) or hasattr(documents, "items")):
        raise TypeError(f"documents is of type {type(documents).__name__}; give a str or an iterable of str.")
    if one is not None and _is_file(one):
        raise ValueError(
            f"{one} is a file; kerasllm.data.read_text({one!r}) gives its text. To score the name itself, give a list."
        )
    return documents if one is None else [one]


def checked_document(document):
    """The str that a document is.

    Raises:
        TypeError: where it is none.
    """
    text = as_text(document)
    if text is None:
        advice = "; `score_tokens` scores ids" if isinstance(document, Integral) else ""
        raise TypeError(f"documents holds an item of type {type(document).__name__}; each document is a str{advice}.")
    return text


def _is_file(text):
    try:
        return "\n" not in text and os.path.isfile(text)
    except ValueError:  # A text may hold what no name can.
        return False
