"""How fast web pages are cleaned and deduplicated, in how much memory, and whether what was hidden in them is found."""

import random
import time
from collections import Counter

import numpy as np
from rich.console import Console
from rich.table import Table

from kerasllm.benchmark.corpus import peak_mb

_SHARES = {"prose": 0.35, "page": 0.3, "chinese": 0.1, "mojibake": 0.08, "junk": 0.05, "copy": 0.05, "near_copy": 0.07}
_REMEMBERED = 1000
_HEAD = """<!DOCTYPE html>
<html><head><title>Manual</title><style>body {margin: 0}</style>
<script>if (a < 1 && b > 2) document.write("<p>never text</p>");</script></head>
<body class="page"><nav><ul><li><a href="/">Home</a></li><li><a href="/about">About us</a></li></ul></nav>
<div id="banner">This website uses cookies. <button>Accept</button></div>"""
_FOOT = """<ul><li><a href="/next">Read more</a></li></ul>
<footer>&copy; 2024 Example Ltd. All rights reserved. <a href="/terms">Terms of use</a></footer></body></html>"""


def web_documents(num_bytes, seed=0):
    """Yields (kind, document), `num_bytes` in UTF-8 and part of a document more.

    Most documents are paragraphs of Python's manual, drawn at random. A kind is "prose", "page" (HTML), "chinese"
    (made-up sentences), "mojibake", "junk" (a template), "copy" (of one of a thousand earlier documents) or "near_copy"
    (with one word in a hundred replaced).
    """
    rng = random.Random(seed)
    paragraphs, characters = _paragraphs(), [chr(code) for code in range(0x4E00, 0x5A00)]
    weights = [1 / rank for rank in range(1, len(characters) + 1)]
    remembered, made = [], 0
    while made < num_bytes:
        (kind,) = rng.choices(list(_SHARES), _SHARES.values())
        some = rng.sample(paragraphs, 14)
        if "copy" in kind and remembered:
            document = rng.choice(remembered)
            if kind == "near_copy":
                document = _nearly(document, rng)
        elif kind == "page":
            lines = (f"<p>{text.replace('&', '&amp;').replace('<', '&lt;')}&nbsp;<br></p>" for text in some)
            document = "\n".join([_HEAD, *lines, _FOOT])
        elif kind == "chinese":
            drawn = "".join(rng.choices(characters, weights, k=1500))
            document = "".join(drawn[i : i + 16] + rng.choice("，，。？\n") for i in range(0, len(drawn), 16))
        elif kind == "mojibake":
            document = "\n".join(f"“{text}” – déjà vu" for text in some).encode().decode("cp1252", "replace")
        elif kind == "junk":
            document = f"{some[0][:30]}\nAdd this offer to your cart now.\nIn stock, delivered tomorrow.\n" * 40
        else:
            kind, document = "prose", "\n\n".join(some).replace("'", "’")
        if len(remembered) < _REMEMBERED:
            remembered.append(document)
        elif kind in ("prose", "page", "mojibake"):
            remembered[rng.randrange(_REMEMBERED)] = document
        made += len(document.encode())
        yield kind, document


def cleaning_speed(num_bytes=2 * 10**8):
    """Takes synthetic web documents through `clean`, then through `deduplicate`, and prints speed and peak memory.

    Args:
        num_bytes: Size of the text.

    Returns:
        list of dict: stage, megabytes, seconds and cpu_seconds (less those that making the documents took; they differ
        where other programs run), mb_per_second, documents, kept, above_start_mb (highest resident memory so far, less
        that at the start), kinds, report.

    Example:

    >>> kerasllm.benchmark.cleaning.cleaning_speed(num_bytes=10**6)
    """
    from kerasllm.data import clean, deduplicate

    for warm in (clean, deduplicate):
        list(warm(document for _, document in web_documents(10**5)))
    results, start = [], peak_mb()
    for name, function in (("clean", clean), ("deduplicate", deduplicate)):
        source = _Timed(web_documents(num_bytes))
        began = _clocks()
        filtered = function(source)
        kept = sum(1 for _ in filtered)
        seconds, cpu_seconds = _clocks() - began - source.seconds
        results.append(
            {
                "stage": name,
                "megabytes": source.num_bytes / 1e6,
                "seconds": seconds,
                "cpu_seconds": cpu_seconds,
                "mb_per_second": source.num_bytes / 1e6 / seconds,
                "documents": filtered.report.seen,
                "kept": kept,
                "above_start_mb": peak_mb() - start,
                "kinds": dict(source.kinds),
                "report": filtered.report.to_dict(),
            }
        )
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(source.kinds.items()))
        Console().print(f"{name}: {kinds}\n{filtered.report}\n", highlight=False, soft_wrap=True)
    _print(results)
    return results


class _Timed:
    """The documents of `web_documents`, counted, and how long they took to make."""

    def __init__(self, documents):
        self._documents, self.seconds, self.num_bytes, self.kinds = documents, np.zeros(2), 0, Counter()

    def __iter__(self):
        return self

    def __next__(self):
        began = _clocks()
        try:
            kind, document = next(self._documents)
            self.kinds[kind] += 1
            self.num_bytes += len(document.encode())
            return document
        finally:
            self.seconds += _clocks() - began


def _clocks():
    return np.array([time.perf_counter(), time.process_time()])


def _paragraphs():
    from kerasllm.data import read_text

    every = (" ".join(text.split()) for document in read_text("python_docs") for text in document.split("\n\n"))
    return [text for text in every if len(text) > 100 and sum(map(str.isalpha, text)) > 0.7 * len(text)]


def _nearly(document, rng):
    words = document.split(" ")
    for place in rng.sample(range(len(words)), len(words) // 100):
        words[place] = f"changed{rng.randrange(10**6)}"
    return " ".join(words)


def _print(results):
    table = Table(title="Cleaning and deduplication")
    table.add_column("stage")
    for column in ("MB", "seconds", "of CPU", "MB/s", "documents", "kept", "MB above start"):
        table.add_column(column, justify="right")
    for row in results:
        figures = (row[name] for name in ("megabytes", "seconds", "cpu_seconds", "mb_per_second"))
        counts = (f"{row[name]:,}" for name in ("documents", "kept"))
        table.add_row(row["stage"], *(f"{x:,.1f}" for x in figures), *counts, f"{row['above_start_mb']:,.1f}")
    Console().print(table)
