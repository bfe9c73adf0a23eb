"""The pieces in which a corpus goes through: chunks of documents that follow each other, numbered in their order.

A chunk is about a million characters as they are read. Its number has that of its group of files in the upper bits, so
that the order of all documents is known where only some are. The shard of a chunk follows from its number.
"""

import itertools
from typing import NamedTuple

import numpy as np

from kerasllm.data.sources import is_filled

_CHARACTERS = 2**20
_GROUP_BYTES = 2**22
_DOCUMENT_BITS, _CHUNK_BITS = 16, 24


class Chunk(NamedTuple):
    """Documents that follow each other.

    Attributes:
        number: int, below 2 ** 48, higher for later ones.
        documents: list of str.
    """

    number: int
    documents: list


def groups_of(parts):
    """Lists of `sources.Part`s that one worker reads: a file, or small ones that follow each other."""
    groups, room = [], 0
    for part in parts:
        if not part.size or part.size > room:
            groups.append([])
            room = _GROUP_BYTES
        groups[-1].append(part)
        room -= part.size or room
    return groups


def chunks_of(number, group):
    """Yields the `Chunk`s of a group, which is number `number`; the last may be empty."""
    documents, length, numbers = [], 0, itertools.count(number << _CHUNK_BITS)
    for document in itertools.chain.from_iterable(part.read() for part in group):
        if is_filled(document):
            documents.append(document)
            length += len(document)
            if length >= _CHARACTERS or len(documents) == 1 << _DOCUMENT_BITS:
                yield Chunk(next(numbers), documents)
                documents, length = [], 0
    yield Chunk(next(numbers), documents)  # an empty one too, as records without text are counted by chunks


def shard_of(chunk, num_shards):
    """The shard that a chunk goes to; int, or array for an array of chunks."""
    return ((chunk >> _CHUNK_BITS) + (chunk & ((1 << _CHUNK_BITS) - 1))) % num_shards


def document_numbers(chunk, places):
    """The numbers of documents of a chunk by their places in it, (N,) uint64: higher for later ones."""
    return np.array(places, np.uint64) + np.uint64(chunk << _DOCUMENT_BITS)


def chunks_of_documents(numbers):
    """The chunks that documents are in, by their numbers, (N,) int64."""
    return (numbers >> np.uint64(_DOCUMENT_BITS)).astype(np.int64)
