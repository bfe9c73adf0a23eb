"""Duplicates among documents that no process sees all of: what is hashed, exchanged, and decided where.

The same documents go as in `data.deduplicate`, by the same code. Exact duplicates meet in the partition of their
digest. Whether a document is a near-duplicate hangs on those alone that share a band of its signature, and on what
those hang on. So documents of one band are linked, the connected components of the links are found, and each is decided
in one place, in the order of the documents. Links are few, as most documents share no band with another: they are
joined in one process, with 16 bytes for each document that is linked.

What is exchanged are arrays as bytes, many documents at a time.
"""

import numpy as np

from kerasllm.data.deduplication import MinHasher, NearDuplicates, digest_of, normal_form
from kerasllm.preparation.chunks import chunks_of_documents, shard_of

MOST_PARTITIONS = 1024
_NUMBER = "<u8"
DIGESTS = np.dtype([("high", _NUMBER), ("low", _NUMBER), ("document", _NUMBER)])
BANDS = np.dtype([("key", _NUMBER), ("document", _NUMBER)])
LINKS = np.dtype([("first", _NUMBER), ("document", _NUMBER)])


class Hasher:
    """Makes of documents what their duplicates are found by."""

    def __init__(self):
        self._hasher = MinHasher()
        self.signatures = np.dtype(
            [("document", _NUMBER), ("keys", _NUMBER, self._hasher.bands[:1]), ("signature", "<u2", (128,))]
        )

    def hash(self, numbers, texts):
        """The digests, bands and signatures of texts, whose numbers are given: arrays of DIGESTS, BANDS, signatures."""
        normals = [normal_form(text) for text in texts]
        digests = np.empty(len(texts), DIGESTS)
        halves = np.frombuffer(b"".join(map(digest_of, normals)), _NUMBER).reshape(-1, 2)
        digests["high"], digests["low"], digests["document"] = halves[:, 0], halves[:, 1], numbers
        hashed = [(number, *found) for number, text in zip(numbers, normals, strict=True) if (found := self._of(text))]
        signatures = np.array(hashed, self.signatures)
        bands = np.empty(signatures["keys"].shape, BANDS)
        bands["key"], bands["document"] = signatures["keys"], signatures["document"][:, None]
        return digests, bands.ravel(), signatures

    def _of(self, text):
        return self._hasher.hashes(text)


def exact_duplicates(digests):
    """The documents of which another with the same digest comes first, uint64, ascending; of an array of DIGESTS."""
    ordered = np.sort(digests, order=["high", "low", "document"])
    same = (ordered["high"][1:] == ordered["high"][:-1]) & (ordered["low"][1:] == ordered["low"][:-1])
    return np.sort(ordered["document"][1:][same])


def links(bands):
    """LINKS from the first document of each band to the others; of an array of BANDS."""
    ordered = np.sort(bands, order=["key", "document"])
    new = np.append(True, ordered["key"][1:] != ordered["key"][:-1])
    first = np.repeat(ordered["document"][new], np.diff(np.flatnonzero(np.append(new, True))))
    found = np.empty(len(ordered), LINKS)
    found["first"], found["document"] = first, ordered["document"]
    return np.unique(found[found["first"] != found["document"]])


def joined(some):
    """The connected components of LINKS: links from the first document of each to all in it, itself too.

    What it returns may be joined with more.
    """
    if not len(some):
        return some
    documents, places = np.unique(np.stack([some["first"], some["document"]]), return_inverse=True)
    ends, label, last = places.reshape(2, -1), np.arange(len(documents)), None
    while last is None or (label != last).any():
        last = label
        roots = last[ends]
        label = last.copy()
        for end in roots:
            np.minimum.at(label, end, roots.min(axis=0))
        while (label[label] != label).any():
            label = label[label]
    components = np.empty(len(documents), LINKS)
    components["first"], components["document"] = documents[label], documents
    return components


def near_duplicates(signatures):
    """The documents that are like an earlier one that stays, uint64, ascending; of signatures of whole components."""
    earlier = NearDuplicates()
    removed = [
        one["document"]
        for one in np.sort(signatures, order="document")
        if not earlier.add(one["keys"], one["signature"])
    ]
    return np.array(removed, _NUMBER)


def by_partition(values, partitions):
    """Yields (partition, bytes of its values) of an array, as the int array `partitions` parts it."""
    order = np.argsort(partitions, kind="stable")
    values, partitions = values[order], partitions[order]
    begins = np.flatnonzero(np.append(True, partitions[1:] != partitions[:-1])) if len(values) else []
    for begin, part in zip(begins, np.split(values, begins[1:]), strict=True):
        yield int(partitions[begin]), part.tobytes()


def by_hash(values, hashes, num_partitions):
    """As `by_partition`, by hashes of 64 bits."""
    return by_partition(values, (hashes % np.uint64(num_partitions)).astype(np.int64))


def by_shard(values, documents, num_shards):
    """As `by_partition`, by the shards that documents go to."""
    return by_partition(values, shard_of(chunks_of_documents(documents), num_shards))


def whole(parts, dtype):
    """The array of bytes that came apart."""
    return np.frombuffer(b"".join(parts), dtype)
