"""Leaving out documents that stood before, word for word or nearly so."""

import functools
import hashlib
from array import array
from collections.abc import Iterable

import numpy as np

from kerasllm.data.filtering import FilteredDocuments, Outcome
from kerasllm.data.words import composed, find_words, mix, phrases, pieces

SHINGLE_LENGTH = 5
_SHINGLES_AT_ONCE = 1024  # their products fit into the cache
_BLOCK = 4096
_HIGHEST_PROPOSED = 0.95  # from which on there would be one band only


def deduplicate(
    documents: Iterable[str], *, threshold: float = 0.8, near: bool = True, num_perm: int = 128
) -> FilteredDocuments:
    """Leaves out documents that are like one that came before: the first of each is kept, in order.

    Exact duplicates have the same characters but for case and white space. Near-duplicates share at least `threshold`
    of their shingles (Jaccard similarity: those in both over those in either), which are runs of five words; in scripts
    without spaces, of five characters. The share is estimated by MinHash (Broder 1997) for the documents that
    locality-sensitive hashing proposes (Indyk and Motwani 1998): with the default settings it found all pairs whose
    similarity is 0.9, 94 % at 0.85, 46 % at 0.8, 8 % at 0.75 and none at 0.7. Texts of fewer than five words are only
    compared exactly.

    Nothing is kept of a document but hashes: for a million documents some 0.8 GB, and 0.9 GB while a table grows;
    0.1 GB with `near=False`.

    Args:
        documents: iterable of str. One that is no iterator can be iterated over again.
        threshold: float, above 0 and at most 1, from which likeness on a document is left out.
        near: bool, whether near-duplicates are looked for. Without, it takes a quarter of the time.
        num_perm: int, at least 16. More estimate the likeness better, and take time and memory in proportion.

    Returns:
        `FilteredDocuments`, an iterable of str whose `report` says how many were left out.

    Raises:
        TypeError: for documents that are not str.
        ValueError: for a threshold or num_perm out of these bounds.

    Example:

    >>> documents = deduplicate(["One fish.", "Two fish.", "one  FISH."])
    >>> list(documents)
    ['One fish.', 'Two fish.']
    >>> documents.report.removed
    {'exact_duplicate': 1, 'near_duplicate': 0}
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is a share of shingles, above 0 and at most 1; got {threshold}.")
    if num_perm < 16:
        raise ValueError(f"num_perm must be at least 16 to estimate a likeness, got {num_perm}.")
    rules = ("exact_duplicate", "near_duplicate") if near else ("exact_duplicate",)

    def new_filter():
        near_duplicates = NearDuplicates(threshold, num_perm) if near else None
        return functools.partial(_outcome, set(), MinHasher(threshold, num_perm), near_duplicates)

    return FilteredDocuments(documents, rules, new_filter)


def normal_form(document):
    """What exact duplicates have in common: the characters in NFC, without case, with single spaces."""
    return " ".join(composed(document).casefold().split())


def digest_of(normal):
    """16 bytes that are the same for the same normal form, and for no other."""
    return hashlib.blake2b(normal.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _outcome(digests, hasher, near_duplicates, document):
    normal = normal_form(document)
    digest = digest_of(normal)
    if digest in digests:
        return Outcome(None, removed_by="exact_duplicate")
    digests.add(digest)
    hashes = None if near_duplicates is None else hasher.hashes(normal)
    if hashes is not None and not near_duplicates.add(*hashes):
        return Outcome(None, removed_by="near_duplicate")
    return Outcome(document)


class MinHasher:
    """MinHash signatures of texts, and the keys of their bands. It remembers nothing.

    Args:
        threshold, num_perm: as in `deduplicate`.
    """

    def __init__(self, threshold=0.8, num_perm=128):
        (self._multipliers, self._offsets), self.bands = _permutations_and_bands(threshold, num_perm)
        self._rows = np.random.default_rng(0).integers(2**63, size=self.bands, dtype=np.uint64)
        self._products = np.empty((num_perm, _SHINGLES_AT_ONCE), np.uint32)

    def hashes(self, text):
        """The keys of the bands, (bands,) uint64, and the signature, (num_perm,) uint16; None without shingles."""
        signature = None
        for piece in pieces(text):
            shingles = (phrases(find_words(piece).hashes, SHINGLE_LENGTH) >> np.uint64(32)).astype(np.uint32)
            for begin in range(0, len(shingles), _SHINGLES_AT_ONCE):
                some = shingles[begin : begin + _SHINGLES_AT_ONCE]
                values = np.multiply(self._multipliers, some, out=self._products[:, : len(some)])
                values += self._offsets
                least = values.min(axis=1)  # of each permutation over all shingles
                signature = least if signature is None else np.minimum(signature, least)
        if signature is None:
            return None
        num_bands, num_rows = self.bands
        bands = signature[: num_bands * num_rows].reshape(self.bands)
        return mix((bands * self._rows).sum(axis=1, dtype=np.uint64)), signature.astype(np.uint16)


class NearDuplicates:
    """Which documents are like one that came before and stayed.

    A document is compared with the first that stayed of each of its bands. So its fate hangs on no documents but those
    that share a band with it, and with which those share one: others could as well not be there.

    Args:
        threshold, num_perm: as in `deduplicate`.
    """

    def __init__(self, threshold=0.8, num_perm=128):
        self._least = threshold * num_perm
        self._buckets, self._blocks, self._count = _Buckets(), [], 0

    def add(self, keys, signature):
        """Adds a document, of which `MinHasher.hashes` are given, unless it is like an earlier one; whether it did."""
        keys = keys.tolist()
        for number in {number for key in keys if (number := self._buckets.get(key))}:
            earlier = self._blocks[(number - 1) // _BLOCK][(number - 1) % _BLOCK]
            if np.count_nonzero(earlier == signature) >= self._least:
                return False
        if self._count % _BLOCK == 0:
            self._blocks.append(np.empty((_BLOCK, len(signature)), np.uint16))
        self._blocks[-1][self._count % _BLOCK] = signature
        self._count += 1
        for key in keys:
            self._buckets.add(key, self._count)
        return True


@functools.cache
def _permutations_and_bands(threshold, num_perm):
    """The multipliers and offsets of the permutations, and how many bands of how many rows to cut signatures into."""
    from datasketch import MinHash, MinHashLSH

    # What is proposed is compared: to propose too much costs only time, to propose too little misses duplicates.
    bands = MinHashLSH(min(threshold, _HIGHEST_PROPOSED), num_perm, weights=(0.1, 0.9))
    return MinHash(num_perm).permutations[:, :, None], (bands.b, bands.r)


class _Buckets:
    """A table from keys of 64 bits to the first document that had each, documents counting from 1.

    Open addressing in two arrays: 18 to 36 bytes a key, where a dict takes 100.
    """

    def __init__(self):
        self._new(2**12)
        self._used = 0

    def _new(self, size):
        self._keys, self._documents = array("Q", bytes(8 * size)), array("I", bytes(4 * size))

    def get(self, key):
        """The document of a key, 0 where there is none."""
        return self._documents[self._place(key)]

    def add(self, key, document):
        """Adds a key unless it is there."""
        place = self._place(key)
        if self._documents[place]:
            return
        self._keys[place], self._documents[place] = key, document
        self._used += 1
        if 3 * self._used > 2 * len(self._keys):
            keys, documents = self._keys, self._documents
            self._new(2 * len(keys))
            for key, document in zip(keys, documents, strict=True):
                if document:
                    place = self._place(key)
                    self._keys[place], self._documents[place] = key, document

    def _place(self, key):
        """Where a key is, or where it would go."""
        keys, documents, last = self._keys, self._documents, len(self._keys) - 1
        place = key & last
        while documents[place] and keys[place] != key:
            place = (place + 1) & last
        return place
