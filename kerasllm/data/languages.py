"""Leaving out documents that are not in the languages that a corpus is to have."""

import functools
from collections.abc import Iterable

from kerasllm.data.filtering import FilteredDocuments, Outcome
from kerasllm.extras import optional

RULE = "other_language"
_LOOKED_AT = 4096  # characters, of which more change little


def keep_languages(documents: Iterable[str], languages: Iterable[str]) -> FilteredDocuments:
    """Leaves out documents in other languages, as py3langid tells them apart (`pip install py3langid`).

    The first 4,096 characters of a document decide. A word or two are often taken for another language, and code for
    any.

    Args:
        documents: iterable of str. One that is no iterator can be iterated over again.
        languages: iterable of str, ISO 639 codes such as "en" and "de".

    Returns:
        `FilteredDocuments`, an iterable of str whose `report` says how many were left out.

    Raises:
        TypeError: for documents that are not str.
        ValueError: where there are no languages, or one that is not known.
        ImportError: where py3langid is not installed.

    Example:

    >>> texts = ["The owl sees what the fox hears in the wood.", "Die Eule sieht, was der Fuchs im Wald hört."]
    >>> list(keep_languages(texts, ["de"]))
    ['Die Eule sieht, was der Fuchs im Wald hört.']

    Reference: Lui and Baldwin 2012, https://aclanthology.org/P12-3005
    """
    kept = frozenset([languages] if isinstance(languages, str) else languages)
    known = _identifier().labels
    unknown = sorted(kept.difference(known))
    if unknown or not kept:
        got = ", ".join(map(repr, unknown)) or "none"
        raise ValueError(f"`languages` are some of {', '.join(sorted(known))}; got {got}.")
    return FilteredDocuments(documents, (RULE,), lambda: functools.partial(_outcome, kept))


def _outcome(kept, document):
    language, _ = _identifier().classify(document[:_LOOKED_AT])
    return Outcome(document) if language in kept else Outcome(None, removed_by=RULE)


@functools.cache
def _identifier():
    langid = optional("py3langid.langid", "Languages are told apart").langid
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)
