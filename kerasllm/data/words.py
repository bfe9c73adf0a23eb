"""The words of a text in any language, as arrays: what quality and likeness are counted in."""

import functools
import unicodedata
from typing import NamedTuple

import numpy as np

PIECE_LENGTH = 2**16
_MOST_MARKS = 30
# Scripts that put no spaces between words: each character there counts as a word, with the marks that belong to it.
_UNSPACED_SCRIPTS = (
    (0x0E00, 0x109F),  # Thai, Lao, Tibetan, Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # 々〆〇
    (0x3041, 0x30FF),  # kana
    (0x3400, 0x4DBF),  # Chinese characters
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),  # kana of half width
    (0x20000, 0x3347F),  # rare Chinese characters
)
_SEPARATOR, _LETTER, _DIGIT, _MARK, _UNSPACED = range(5)
_CLASSES = {"L": _LETTER, "N": _DIGIT, "M": _MARK}  # the first letter of Unicode's category
_MULTIPLIERS = np.array([0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53, 0x9E3779B97F4A7C15], np.uint64)


class Words(NamedTuple):
    """The words of a text: runs of letters, marks and digits, or single characters of scripts without spaces.

    Attributes:
        hashes: (N,) uint64, the same for the same word, in this process and any other. Case is ignored.
        lengths: (N,) int64, characters of each.
        letters: int, characters that are letters.
        marks: int, characters that are marks on letters, such as vowels of Hindi.
        unspaced: int, words of scripts without spaces.
    """

    hashes: np.ndarray
    lengths: np.ndarray
    letters: int
    marks: int
    unspaced: int


def find_words(text):
    """Finds the `Words` of a text.

    Example:

    >>> find_words("Das ist 書店!").lengths.tolist()
    [3, 3, 1, 1]
    """
    codes = _codes(text.lower())
    classes = _character_classes()[codes]
    inside = classes != _SEPARATOR
    starts = inside.copy()
    starts[1:] &= ~inside[:-1]
    unspaced = classes == _UNSPACED
    starts |= unspaced
    # What follows a character without spaces is another word, unless it is a mark on it.
    starts[1:] |= unspaced[:-1] & ((classes[1:] == _LETTER) | (classes[1:] == _DIGIT))
    starts, codes = starts[inside], codes[inside].astype(np.uint64)
    first = np.flatnonzero(starts)
    if not len(first):
        return Words(np.zeros(0, np.uint64), np.zeros(0, np.int64), 0, 0, 0)
    lengths = np.diff(first, append=len(codes))
    place = np.arange(len(codes)) - np.repeat(first, lengths)
    hashes = np.add.reduceat(codes * _powers(int(lengths.max()).bit_length())[place], first)
    _, letters, _, marks, unspaced = np.bincount(classes, minlength=5).tolist()
    return Words(mix(hashes), lengths, letters + unspaced, marks, unspaced)


def composed(text):
    """Unicode's normal form NFC, where of more than 30 marks on a letter the rest are left out.

    That many are no writing (UAX #15 has the same limit), and sorting them takes Python quadratic time.
    """
    if text.isascii():
        return text
    codes = _codes(text)
    marks = _character_classes()[codes] == _MARK
    if np.count_nonzero(marks) > _MOST_MARKS:
        place = np.arange(len(codes))
        run = place - np.maximum.accumulate(np.where(marks, 0, place))
        text = codes[run <= _MOST_MARKS].tobytes().decode("utf-32-le", "surrogatepass")
    return unicodedata.normalize("NFC", text)


def pieces(text):
    """Yields a text in pieces of at most 65,536 characters, so that the arrays of their words stay small."""
    for begin in range(0, len(text), PIECE_LENGTH):
        yield text[begin : begin + PIECE_LENGTH]


def phrases(hashes, length):
    """Hashes of all runs of `length` words, (N - length + 1,) uint64."""
    count = max(len(hashes) - length + 1, 0)
    combined = np.zeros(count, np.uint64)
    for place in range(length):
        combined = combined * _MULTIPLIERS[2] + hashes[place : place + count]
    return mix(combined)


def mix(hashes):
    """Spreads hashes over all 64 bits, one to one (the finalizer of MurmurHash3)."""
    for multiplier in _MULTIPLIERS[:2]:
        hashes = (hashes ^ (hashes >> np.uint64(33))) * multiplier
    return hashes ^ (hashes >> np.uint64(33))


def _codes(text):
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


@functools.cache
def _powers(bits):
    """The powers of an odd number, modulo 2 ** 64, from the first on."""
    return np.multiply.accumulate(np.full(2**bits, _MULTIPLIERS[2]))


@functools.cache
def _character_classes():
    assigned = _UNSPACED_SCRIPTS[-1][1] + 1  # no letter has a higher code
    classes = np.zeros(0x110000, "u1")
    classes[:assigned] = [_CLASSES.get(unicodedata.category(chr(code))[0], _SEPARATOR) for code in range(assigned)]
    for first, last in _UNSPACED_SCRIPTS:
        script = classes[first : last + 1]
        script[script == _LETTER] = _UNSPACED
    return classes
