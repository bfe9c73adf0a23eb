"""Words in a text, found where `tokenizers` finds them.

A step of splitting is called with the code points of all texts and the numbers of their words so far, int32 (N,) each,
ascending from 0, and gives the numbers after it.

TensorFlow's regular expressions (RE2) know another version of Unicode than those of `tokenizers`, and no look-ahead.
So each character is first replaced by a letter that says what it is to the pattern, as the engine of `tokenizers`
itself classifies it, and RE2 runs over these letters alone:

    L               a letter; those of contractions (s d m t l r e v) stand for themselves
    N   '   .       a number, an apostrophe, any other sign
    S   J   W       a space, a line break or other white space, before more white space or at the end of the text
    _   j   w       the same, before anything else: what a look-ahead `(?!\\S)` would tell apart
"""

import dataclasses
import functools
import sys

import numpy as np
import tensorflow as tf
import tokenizers

from kerasllm.tokenizers.patterns import GPT2, LLAMA3, QWEN2
from kerasllm.tokenizers.word_splitting import SPLIT_PATTERN

_CONTRACTIONS = "'(?:[sdmt]|ll|re|ve)|"
_LETTER = "[Lsdmtlrev]"
_LLAMA3_WORDS = _CONTRACTIONS + f"[^JjNLsdmtlrev]?{_LETTER}+|N{{1,3}}|_?['.]+[Jj]*|[SJW_jw]*[Jj]+|[SJW]+|[_jw]"


@dataclasses.dataclass(frozen=True)
class _Split:
    """A split pattern over the letters above, and what its classes hold as `tokenizers` writes it."""

    words: str
    letters: str = r"\p{L}"
    white_space: str = r"\s"
    contractions: str = "[sdmtlrev]"


PATTERNS = {
    SPLIT_PATTERN: _Split(
        words=_CONTRACTIONS + f"[S_]?{_LETTER}+|[S_]?N{{1,3}}|[S_]?['.]+|[S_]+|[JWjw]+",
        letters=r"[\p{L}\p{M}]",
        white_space=r"[\t-\r ]",
    ),
    GPT2: _Split(_CONTRACTIONS + f"_?{_LETTER}+|_?N+|_?['.]+|[SJW]+|[_jw]"),
    LLAMA3: _Split(_LLAMA3_WORDS, contractions="(?i:[sdmtlrev])"),
    QWEN2: _Split(_LLAMA3_WORDS.replace("N{1,3}", "N"), contractions="(?i:[sdmtlrev])"),
}


class WordSplitter:
    """Cuts by a pattern.

    Args:
        pattern: str, one of `PATTERNS`.
    """

    def __init__(self, pattern):
        split = PATTERNS[pattern]
        self._words = split.words
        kinds = _kinds(split)
        begins = np.flatnonzero(np.diff(kinds, prepend=0))
        self._begins = tf.constant(begins.astype("int32"))
        self._kinds = tf.constant(kinds[begins].astype("int32"))
        # What white space becomes before anything else; 0 for what is not white space.
        before_others = np.zeros(128, "int32")
        before_others[[ord(kind) for kind in "SJW"]] = [ord(kind) for kind in "_jw"]
        self._before_others = tf.constant(before_others)

    def __call__(self, codes, words):
        characters = tf.RaggedTensor.from_value_rowids(codes, tf.cast(words, tf.int64))
        kinds = tf.gather(self._kinds, tf.searchsorted(self._begins, characters.flat_values, side="right") - 1)
        before_others = tf.gather(self._before_others, kinds)
        is_space = characters.with_flat_values(before_others > 0)
        after_text = tf.fill([characters.nrows(), 1], True)
        space_follows = tf.concat([is_space, after_text], axis=1)[:, 1:].flat_values
        kinds = tf.where(space_follows | (before_others == 0), kinds, before_others)
        marked = tf.strings.regex_replace(
            tf.strings.unicode_encode(characters.with_flat_values(kinds), "UTF-8"), self._words, r"\0|"
        )
        marked = tf.strings.unicode_decode(marked, "UTF-8").flat_values
        ends = tf.cast(marked == ord("|"), tf.int32)
        return tf.boolean_mask(tf.cumsum(ends), ends == 0)


class DigitSplitter:
    """Cuts digits from all else, and from one another.

    Args:
        individual: bool. False leaves digits together that stand side by side.
    """

    def __init__(self, individual):
        self._individual = individual
        is_digit = np.zeros(sys.maxunicode + 1, bool)
        is_digit[_digits()] = True
        self._changes = tf.constant(np.flatnonzero(np.diff(is_digit, prepend=False)).astype("int32"))

    def __call__(self, codes, words):
        is_digit = tf.searchsorted(self._changes, codes, side="right") % 2 == 1
        begins = (is_digit != previous(is_digit, False)) | (is_digit & self._individual)
        return numbered(begins | (words != previous(words, -1)))


class Cutter:
    """Cuts words every `length` characters."""

    def __init__(self, length):
        self._length = length

    def __call__(self, codes, words):
        return cut(words, self._length)


def previous(x, first):
    """At each place (N,) what stands before it."""
    return tf.concat([[first], x[:-1]], axis=0)[: tf.size(x)]


def numbered(begins):
    """The number of the word of each character, from 0, by where words begin, bool (N,)."""
    return tf.cumsum(tf.cast(begins, tf.int32)) - 1


def cut(words, length):
    """Cuts words every `length` characters; takes and returns the numbers of words, int32 (N,)."""
    places = tf.range(tf.size(words))
    begins = tf.gather(tf.math.segment_min(places, words), words)
    return tf.cumsum(tf.cast((places - begins) % length == 0, tf.int32)) - 1


def _kinds(split):
    """The letter, as a byte, for each code point."""
    kinds = np.full(sys.maxunicode + 1, ord("."), "uint8")
    kinds[ord("'")] = ord("'")
    kinds[_members(split.letters)] = ord("L")
    kinds[_members(r"\p{N}")] = ord("N")
    kinds[_members(split.white_space)] = ord("W")
    kinds[[ord("\r"), ord("\n")]] = ord("J")
    kinds[ord(" ")] = ord("S")
    for code in _members(split.contractions):
        kinds[code] = ord(chr(code).casefold())
    return kinds


@functools.cache
def _digits():
    """The code points that are digits to `tokenizers`, asked of it; there are none past Unicode's first two planes."""
    codes = [code for code in range(0x20000) if not 0xD800 <= code < 0xE000]
    pieces = tokenizers.pre_tokenizers.Digits(individual_digits=True).pre_tokenize_str("a".join(map(chr, codes)))
    return [codes[begin // 2] for _, (begin, end) in pieces if end - begin == 1 and begin % 2 == 0]


@functools.cache
def _members(pattern):
    """The code points that a pattern of one character matches, asked of `tokenizers` itself; planes 4 to 13 are empty
    in Unicode, and what is left out above them is for private use, of no class."""
    codes = np.array([*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xF0000)])
    text = "".join(map(chr, codes))
    is_member = np.ones(len(codes), bool)
    splitter = tokenizers.pre_tokenizers.Split(tokenizers.Regex(f"(?:{pattern})+"), "removed")
    for _, (begin, end) in splitter.pre_tokenize_str(text):
        is_member[begin:end] = False
    return codes[is_member]
