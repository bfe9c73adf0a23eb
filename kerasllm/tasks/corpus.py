"""The text of a run, and what is measured of it while it passes by on its one way to where it is needed."""

import collections
import hashlib
import zlib
from dataclasses import dataclass

import kerasllm


@dataclass(frozen=True)
class Corpus:
    """Documents that can be iterated over as often as needed, and are read anew each time.

    Args:
        sources: tuple of what `kerasllm.data.read_text` takes.
        part: "all", or one side of `kerasllm.data.split_text`: "train", the first nine tenths of the characters, or
            "valid", the last tenth.
        field: str or None, as in `kerasllm.data.read_text`.
    """

    sources: tuple[str, ...]
    part: str = "all"
    field: str | None = None

    def __iter__(self):
        documents = kerasllm.data.read_text(list(self.sources), field=self.field)
        if self.part == "all":
            return documents
        from kerasllm.data.splitting import split_once

        training, held_out = split_once(documents)
        if self.part == "train":
            return training
        collections.deque(training, maxlen=0)
        return iter(held_out)


class _Passing:
    """Documents that are looked at as they pass, once.

    Args:
        documents: iterable of str.
    """

    def __init__(self, documents):
        self._documents = iter(documents)
        self._bytes = 0

    def __iter__(self):
        return self

    def __next__(self):
        document = next(self._documents)
        text = _encoded(document)
        self._bytes += len(text)
        self._look(text)
        return document


class Measured(_Passing):
    """Documents as they pass, counted, and hashed with their lengths."""

    def __init__(self, documents):
        super().__init__(documents)
        self._count, self._digest = 0, hashlib.sha256()

    def _look(self, text):
        self._count += 1
        self._digest.update(len(text).to_bytes(8, "little"))
        self._digest.update(text)

    def measures(self):
        """Reads what is left; returns a dict of `documents`, `bytes` (in UTF-8) and `sha256`."""
        collections.deque(self, maxlen=0)
        return {"documents": self._count, "bytes": self._bytes, "sha256": self._digest.hexdigest()}


class Zipped(_Passing):
    """Documents as they pass, compressed by `gzip -9`: a yardstick for a model's bits per byte."""

    def __init__(self, documents):
        super().__init__(documents)
        self._gzip, self._zipped = zlib.compressobj(9, wbits=31), 0

    def _look(self, text):
        self._zipped += len(self._gzip.compress(text))

    def bits_per_byte(self):
        """Bits of what was made of the documents, per byte of them. There is no going on after it."""
        return 8 * (self._zipped + len(self._gzip.flush())) / self._bytes


def _encoded(document):
    # A lone surrogate from a JSON file is the tokenizer's to refuse, with a sentence that says where it stands.
    return document.encode("utf-8", "surrogatepass")
