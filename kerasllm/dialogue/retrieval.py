"""A tool that finds passages in a folder of the user's documents."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from kerasllm.data.sources import files_of, read_text
from kerasllm.extras import optional

_PASSAGE = 600  # characters, about


def documents(folder: str | os.PathLike, count: int = 3) -> Callable[[str], list[str]]:
    """A tool that finds passages which have the words of a query, by BM25 (the package bm25s).

    Files are read once, and cut into passages at empty lines.

    Args:
        folder: a folder of texts, or a file, or a glob, as `kerasllm.data.read_text` reads it.
        count: int, the most passages that a query finds.

    Returns:
        A function from a query (str) to a list of str: passages, the best first, each with its file in brackets behind.

    Raises:
        FileNotFoundError: if there is nothing there.
        ImportError: if bm25s is not installed.
        ValueError: if no file has a text.

    Example:
        >>> notes = kerasllm.dialogue.documents("notes")
        >>> notes("Who wrote Hamlet?")
        ['Hamlet was written by William Shakespeare around 1600. [plays.md]']
    """
    bm25s = optional("bm25s", "Documents are searched")
    root = Path(folder)
    passages = []
    for path in files_of(folder):
        name = str(Path(path).relative_to(root)) if root.is_dir() else Path(path).name
        passages += [(name, passage) for text in read_text(str(path)) for passage in _passages(text)]
    if not passages:
        raise ValueError(f"{folder!s} holds no text to find anything in.")
    index = bm25s.BM25()
    index.index(_words(bm25s, [text for _, text in passages]), show_progress=False)

    def found_in_documents(query):
        if not any(_words(bm25s, [query])):
            return []
        best, scores = index.retrieve(_words(bm25s, [query]), k=min(count, len(passages)), show_progress=False)
        pairs = zip(best[0].tolist(), scores[0].tolist(), strict=True)
        return [f"{passages[i][1]} [{passages[i][0]}]" for i, score in pairs if score > 0]

    return found_in_documents


def _words(bm25s, texts):
    return bm25s.tokenize(texts, stopwords="en", return_ids=False, show_progress=False)


def _passages(text):
    """Paragraphs, short ones together."""
    passage = ""
    for paragraph in filter(None, (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))):
        if passage and len(passage) + len(paragraph) > _PASSAGE:
            yield passage
            passage = ""
        passage = f"{passage} {paragraph}".strip()
    if passage:
        yield passage
