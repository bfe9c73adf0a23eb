"""Packing: which pieces of which documents share a window.

For a causal model, a document of n tokens has n - 1 places: pairs of a token and the one that follows it. No pair
reaches from one document into the next, so every place of a packed window has something to learn, but for the padding
at its end. For a masked model the label of a place is the token itself, and such a document has n places.
"""

from bisect import bisect_left, insort
from typing import NamedTuple

import numpy as np

_BLOCK = 2**16


class Plan(NamedTuple):
    """Windows made of pieces: window i has the pieces first[i] … first[i + 1] - 1.

    Attributes:
        first: (windows + 1,) int64.
        begin: (pieces,) int64, where the piece's first input token is in the token stream.
        length: (pieces,) int32, its number of places.
    """

    first: np.ndarray
    begin: np.ndarray
    length: np.ndarray

    @property
    def num_windows(self):
        return len(self.first) - 1


def plan_windows(document_ends, seq_len, ahead=1):
    """Packs documents into windows of seq_len places, documents whole where they fit.

    Long documents fill windows of their own; their remainders and all shorter documents are packed longest first, each
    into the fullest window that still has space: best-fit packing (Ding et al. 2024, "Fewer Truncations Improve
    Language Modeling", arXiv:2404.10830), in blocks of 65,536 documents, so that neighbours stay near and time stays
    linear.

    Args:
        document_ends: (documents,) int array, one past the last token of each.
        seq_len: int, places in a window.
        ahead: int, how far ahead of its place a label is: 1 for the next token, 0 for the token itself. The last
            `ahead` tokens of a document have no place.

    Returns:
        A `Plan`. It depends on the arguments alone.

    Example: documents of 6, 3 and 2 tokens in windows of 4 pairs. The first one's 5 pairs are cut into 4 and 1.

    >>> plan = plan_windows(np.array([6, 9, 11]), 4)
    >>> plan.first.tolist(), plan.begin.tolist(), plan.length.tolist()
    ([0, 1, 4], [0, 6, 4, 9], [4, 2, 1, 1])
    """
    blocks = [
        _pack(*_pieces(document_ends, index, index + _BLOCK, seq_len, ahead), seq_len)
        for index in range(0, len(document_ends), _BLOCK)
    ]
    begin, length, counts = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return Plan(np.concatenate([[0], np.cumsum(counts)]), begin, length)


def lay_out(tokens, row, begin, length, shape, pad_id=0):
    """Lays pieces of a token stream into rows, one after the other.

    Args:
        tokens: (N,) int array, read as a ring: the first token follows the last.
        row: (pieces,) int, ascending: which row each piece goes to.
        begin, length: (pieces,) int, as in `Plan`.
        shape: (rows, columns).
        pad_id: int, fills what is left over.

    Returns:
        Three int32 arrays of `shape`: the tokens, the tokens that follow them, and which piece of its row each place
        belongs to, counted from 1; 0 is padding.

    Example:

    >>> lay_out(np.arange(10, 20), np.array([0, 0]), np.array([0, 6]), np.array([2, 1]), (1, 4))[0].tolist()
    [[10, 11, 16, 0]]
    """
    piece = np.repeat(np.arange(len(row)), length)
    position = np.arange(len(piece))
    start = np.cumsum(length) - length  # of each piece, were all rows one
    first = np.searchsorted(row, row)  # each piece's row begins with this piece
    source = begin[piece] + position - start[piece]
    place = row[piece], position - start[first[piece]]
    filled = np.full((3, *shape), pad_id, np.int32)
    filled[2] = 0
    filled[0][place] = np.take(tokens, source, mode="wrap")
    filled[1][place] = np.take(tokens, source + 1, mode="wrap")
    filled[2][place] = piece - first[piece] + 1
    return tuple(filled)


def _pieces(document_ends, first, last, seq_len, ahead):
    """Where the pieces of some documents begin, and their lengths, at most seq_len."""
    ends = np.asarray(document_ends[first:last], np.int64)
    begins = np.concatenate([document_ends[first - 1 : first] if first else [0], ends[:-1]]).astype(np.int64)
    places = np.maximum(ends - begins - ahead, 0)
    counts = -(-places // seq_len)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    begin = np.repeat(begins, counts) + within * seq_len
    return begin, np.minimum(seq_len, np.repeat(places, counts) - within * seq_len).astype(np.int32)


def _pack(begin, length, seq_len):
    """Best fit, longest first: pieces in the order of their windows, and the number of pieces in each window."""
    order = np.argsort(-length, kind="stable")
    window = np.empty(len(order), np.int64)
    waiting = [[] for _ in range(seq_len)]  # windows by the space they have left
    spaces = []  # the spaces that occur, ascending
    windows = 0
    for position, size in enumerate(length[order].tolist()):
        fit = bisect_left(spaces, size)
        if fit == len(spaces):
            number, space = windows, seq_len
            windows += 1
        else:
            space = spaces[fit]
            number = waiting[space].pop()
            if not waiting[space]:
                del spaces[fit]
        window[position] = number
        left = space - size
        if left:
            if not waiting[left]:
                insort(spaces, left)
            waiting[left].append(number)
    by_window = order[np.argsort(window, kind="stable")]
    return begin[by_window], length[by_window], np.bincount(window, minlength=windows)
