"""The items of tests, from files that are perhaps compressed, and some of them by chance."""

import gzip
import json
from pathlib import Path

import numpy as np


def drawn_items(items, limit, seed):
    """Some of a list, in their order; all where `limit` is None.

    Raises:
        ValueError: for no item, or a limit below 1.
    """
    if not items:
        raise ValueError("There is no item in this test.")
    if limit is None or limit >= len(items):
        return items
    if limit < 1:
        raise ValueError(f"`limit` must be at least 1, got {limit}.")
    return [items[i] for i in np.sort(np.random.default_rng(seed).permutation(len(items))[:limit])]


def read_lines(path):
    """The lines of a text file, .gz or not, that are not empty: list of str.

    Raises:
        ValueError: for what is no text.
    """
    content = Path(path).read_bytes()
    try:
        text = (gzip.decompress(content) if Path(path).suffix == ".gz" else content).decode("utf-8")
        return [line.strip() for line in text.split("\n") if line.strip()]
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path} is no text in UTF-8.") from error


def read_json_lines(path):
    """The objects of a .jsonl file, .gz or not: list of dicts.

    Raises:
        ValueError: for a line that is none.
    """
    found = []
    for number, line in enumerate(read_lines(path), 1):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"Line {number} of {path} is no JSON.") from error
        if not isinstance(found[-1], dict):
            raise ValueError(f"Line {number} of {path} is no JSON object.")
    return found
