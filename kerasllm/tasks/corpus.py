"""The text of a run, read anew in each pass and never held in memory, and what a pass over it tells."""

import hashlib
import zlib
from dataclasses import dataclass

import kerasllm


@dataclass(frozen=True)
class Corpus:
    """Documents that can be iterated over as often as needed.

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
        if self.part == "all":
            return iter(kerasllm.data.read_text(list(self.sources), field=self.field))
        parts = kerasllm.data.split_text(list(self.sources), field=self.field)
        return iter(parts[("train", "valid").index(self.part)])

    def measure(self):
        """Reads the text once and returns its counts and its fingerprint.

        Returns:
            A dict of `documents`, `bytes` (in UTF-8) and `sha256` (of the documents and their lengths).
        """
        documents = size = 0
        digest = hashlib.sha256()
        for text in map(_encoded, self):
            documents, size = documents + 1, size + len(text)
            digest.update(len(text).to_bytes(8, "little"))
            digest.update(text)
        return {"documents": documents, "bytes": size, "sha256": digest.hexdigest()}

    def gzip_bits_per_byte(self):
        """Bits of what `gzip -9` makes of the text, per byte of the text: a yardstick for a model's bits per byte."""
        gzip = zlib.compressobj(9, wbits=31)
        size = compressed = 0
        for text in map(_encoded, self):
            size, compressed = size + len(text), compressed + len(gzip.compress(text))
        return 8 * (compressed + len(gzip.flush())) / size


def _encoded(document):
    # A lone surrogate from a JSON file is the tokenizer's to refuse, with a sentence that says where it stands.
    return document.encode("utf-8", "surrogatepass")
