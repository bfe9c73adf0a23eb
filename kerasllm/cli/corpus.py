"""A corpus read in passes, never held in memory: its size, its fingerprint, its cut into training and validation."""

import hashlib
import zlib
from dataclasses import dataclass

from kerasllm.data import read_text

VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class Corpus:
    """Text sources, and which of their characters count. Iterating reads them anew, document by document.

    Args:
        sources: tuple of what `kerasllm.data.read_text` takes.
        start, stop: first character and the one behind the last, counted over all documents; None is the end. A
            document on the border is cut there.
    """

    sources: tuple[str, ...]
    start: int = 0
    stop: int | None = None

    def __iter__(self):
        position = 0
        for source in self.sources:
            for document in read_text(source):
                begin = max(self.start - position, 0)
                end = len(document) if self.stop is None else min(self.stop - position, len(document))
                if begin < end:
                    yield document[begin:end]
                position += len(document)
                if self.stop is not None and position >= self.stop:
                    return

    def measure(self):
        """Reads the corpus once and returns its counts and its fingerprint.

        Returns:
            A dict of `documents`, `characters`, `bytes` (in UTF-8) and `sha256` (of the documents and their lengths).
        """
        documents = characters = size = 0
        digest = hashlib.sha256()
        for document in self:
            text = document.encode("utf-8", "surrogatepass")
            documents, characters, size = documents + 1, characters + len(document), size + len(text)
            digest.update(len(text).to_bytes(8, "little"))
            digest.update(text)
        return {"documents": documents, "characters": characters, "bytes": size, "sha256": digest.hexdigest()}

    def gzip_bits_per_byte(self):
        """Bits of what `gzip -9` makes of the text, per byte of the text: a yardstick for a model's bits per byte."""
        gzip = zlib.compressobj(9, wbits=31)
        size = compressed = 0
        for document in self:
            text = document.encode("utf-8", "surrogatepass")
            size, compressed = size + len(text), compressed + len(gzip.compress(text))
        return 8 * (compressed + len(gzip.flush())) / size

    def split(self, characters):
        """Cuts off the last tenth of the corpus.

        Args:
            characters: int, the corpus's length as `measure` counts it.

        Returns:
            The pair (training corpus, validation corpus).
        """
        border = int(characters * (1 - VALIDATION_SHARE))
        return Corpus(self.sources, stop=border), Corpus(self.sources, start=border)
