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

    Nothing is kept of a document but hashes: for a million documents 0.63 GB, and 0.70 GB while a table grows; 0.1 GB
    with `near=False`.

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
        return functools.partial(_outcome, set(), _Signatures(threshold, num_perm) if near else None)

    return FilteredDocuments(documents, rules, new_filter)


def _outcome(digests, earlier, document):
    normal = " ".join(composed(document).casefold().split())
    digest = hashlib.blake2b(normal.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    if digest in digests:
        return Outcome(None, removed_by="exact_duplicate")
    digests.add(digest)
    if earlier is not None and not earlier.add(normal):
        return Outcome(None, removed_by="near_duplicate")
    return Outcome(document)


class _Signatures:
    """MinHash signatures of documents, and tables that propose those which may be alike."""

    def __init__(self, threshold, num_perm):
        self._least = threshold * num_perm
        (self._multipliers, self._offsets), self._bands = _permutations_and_bands(threshold, num_perm)
        self._rows = np.random.default_rng(0).integers(2**63, size=self._bands, dtype=np.uint64)
        self._products = np.empty((num_perm, _SHINGLES_AT_ONCE), np.uint32)
        self._buckets, self._blocks, self._count = _Buckets(), [], 0

    def add(self, text):
        """Adds a text unless it is like one that was added before, and returns whether it did."""
        signature = self._signature(text)
        if signature is None:
            return True
        keys = self._keys(signature)
        short = signature.astype(np.uint16)
        for number in {number for key in keys if (number := self._buckets.get(key))}:
            earlier = self._blocks[(number - 1) // _BLOCK][(number - 1) % _BLOCK]
            if np.count_nonzero(earlier == short) >= self._least:
                return False
        if self._count % _BLOCK == 0:
            self._blocks.append(np.empty((_BLOCK, len(short)), np.uint16))
        self._blocks[-1][self._count % _BLOCK] = short
        self._count += 1
        for key in keys:
            self._buckets.add(key, self._count)
        return True

    def _signature(self, text):
        """The least value of each permutation over all shingles, uint32; None where there is no shingle."""
        signature = None
        for piece in pieces(text):
            shingles = (phrases(find_words(piece).hashes, SHINGLE_LENGTH) >> np.uint64(32)).astype(np.uint32)
            for begin in range(0, len(shingles), _SHINGLES_AT_ONCE):
                some = shingles[begin : begin + _SHINGLES_AT_ONCE]
                values = np.multiply(self._multipliers, some, out=self._products[:, : len(some)])
                values += self._offsets
                least = values.min(axis=1)
                signature = least if signature is None else np.minimum(signature, least)
        return signature

    def _keys(self, signature):
        """A number of 32 bits for each band of the signature."""
        num_bands, num_rows = self._bands
        bands = signature[: num_bands * num_rows].reshape(self._bands)
        return (mix((bands * self._rows).sum(axis=1, dtype=np.uint64)) >> np.uint64(32)).tolist()


@functools.cache
def _permutations_and_bands(threshold, num_perm):
    """The multipliers and offsets of the permutations, and how many bands of how many rows to cut signatures into."""
    from datasketch import MinHash, MinHashLSH

    # What is proposed is compared: to propose too much costs only time, to propose too little misses duplicates.
    bands = MinHashLSH(min(threshold, _HIGHEST_PROPOSED), num_perm, weights=(0.1, 0.9))
    return MinHash(num_perm).permutations[:, :, None], (bands.b, bands.r)


class _Buckets:
    """A table from 32-bit keys to the first document that had each, documents counting from 1.

    Open addressing in one array of 64-bit entries, key and document: 12 to 24 bytes an entry, where a dict takes 100.
    """

    def __init__(self):
        self._entries, self._used = array("Q", bytes(8 * 2**12)), 0

    def get(self, key):
        """The document of a key, 0 where there is none."""
        return self._entries[self._place(key)] & 0xFFFFFFFF

    def add(self, key, document):
        """Adds a key unless it is there."""
        place = self._place(key)
        if self._entries[place]:
            return
        self._entries[place] = key << 32 | document
        self._used += 1
        if 3 * self._used > 2 * len(self._entries):
            earlier, self._entries = self._entries, array("Q", bytes(16 * len(self._entries)))
            for entry in earlier:
                if entry:
                    self._entries[self._place(entry >> 32)] = entry

    def _place(self, key):
        """Where a key is, or where it would go."""
        entries, last = self._entries, len(self._entries) - 1
        place = key & last
        while (entry := entries[place]) and entry >> 32 != key:
            place = (place + 1) & last
        return place
