"""Unicode's normalization forms in TensorFlow ops, by the tables of `tokenizers`.

ICU's, which TensorFlow has, are of another version of Unicode. So what a character decomposes to, what pairs compose,
and in which order marks stand is asked of `tokenizers` itself.
Shapes: N characters of all texts.

Reference: Unicode Standard Annex 15, https://www.unicode.org/reports/tr15
"""

import functools
import unicodedata

import numpy as np
import tensorflow as tf
from tokenizers import normalizers

from kerasllm.tokenizers.in_graph.normalizing import CodePointNormalizer, code_points, normalized
from kerasllm.tokenizers.in_graph.splitting import previous

FORMS = ("NFC", "NFD", "NFKC", "NFKD")
LONGEST_SHRINKING = 12  # A byte stands for at most so many: four of a compatible character, three such of a composed.
# Where Unicode has letters and marks: its other planes are empty, or for private use.
_CODES = code_points([*range(0x80, 0x32400), *range(0xE0000, 0xE0200)])
_LAST_MARK = "\u0345"  # of the highest combining class there is
_WIDTH = 2**21  # code points


class UnicodeForm:
    """A normalization form.

    Args:
        form: str, one of `FORMS`.
    """

    def __init__(self, form):
        self._decompose = CodePointNormalizer(getattr(normalizers, form.replace("C", "D"))(), _CODES)
        self._composes = form.endswith("C")
        self._first_changed = 0x300 if form == "NFC" else 0x80  # Texts below are what they were.
        codes, classes = _combining_classes()
        self._marks, self._classes = tf.constant(codes, tf.int32), tf.constant(classes, tf.int32)
        keys, composed = _pairs()
        self._keys, self._composed = tf.constant(keys, tf.int64), tf.constant(composed, tf.int32)

    def __call__(self, texts):
        """Texts in this form: valid UTF-8 (B,) -> string (B,)."""
        characters = tf.strings.unicode_decode(texts, "UTF-8")
        highest = tf.reduce_max(tf.concat([characters.flat_values, [0]], axis=0))
        return tf.cond(highest < self._first_changed, lambda: texts, lambda: self._normalized(characters))

    def _normalized(self, characters):
        characters = self._decompose(characters)
        codes, rows = characters.flat_values, characters.value_rowids()
        classes = self._class(codes)
        order = tf.argsort(
            tf.cumsum(tf.cast(_begins(classes, rows), tf.int64)) * 256 + tf.cast(classes, tf.int64), stable=True
        )
        codes = tf.gather(codes, order)
        if self._composes:
            codes, rows = self._compose(codes, rows)
        whole = tf.RaggedTensor.from_value_rowids(codes, rows, nrows=characters.nrows())
        return tf.strings.unicode_encode(whole, "UTF-8")

    def _class(self, codes):
        """Combining classes: 0 of letters, and the numbers by which marks are ordered."""
        return _looked_up(self._marks, self._classes, codes, 0)

    def _compose(self, codes, rows):
        """Letters with their marks as one character, wherever there is one: codes and rows of what is left.

        A letter takes up its marks one after the other. Here all letters do so at once, one mark a round.
        """

        def is_unfinished(codes, rows, passed, more):
            return more

        def take_up(codes, rows, passed, more):
            places = tf.range(tf.size(codes))
            classes = self._class(codes)
            begins = _begins(classes, rows)
            letters = tf.cumsum(tf.cast(begins, tf.int32)) - 1  # for each character the number of its letter
            after_letter, before = previous(begins, False), previous(classes, 0)
            # A letter may be taken up by the one right before it, if it takes up none itself: vowels of Hangul.
            is_letter = classes == 0
            taker = tf.where(is_letter, letters - 1, letters)
            first_of_row = rows != previous(rows, tf.constant(-1, rows.dtype))
            free = after_letter | (~is_letter & (before < classes))
            letter_codes = tf.boolean_mask(codes, begins)
            taker = tf.maximum(taker, 0)
            key = tf.cast(tf.gather(letter_codes, taker), tf.int64) * _WIDTH + tf.cast(codes, tf.int64)
            composed = _looked_up(self._keys, self._composed, key, -1)
            fits = (composed >= 0) & free & ~passed & ~first_of_row
            count = tf.size(letter_codes)
            first = tf.math.unsorted_segment_min(tf.where(fits, places, tf.int32.max), taker, count)
            wants = first < tf.int32.max
            taken = fits & (places == tf.gather(first, taker)) & tf.gather(wants, taker)
            new = tf.math.unsorted_segment_max(tf.where(taken, composed, -1), taker, count)
            codes = tf.where(begins & tf.gather(wants, letters), tf.gather(new, letters), codes)
            passed |= tf.gather(wants, taker) & (places < tf.gather(first, taker)) & ~begins
            kept = ~taken
            codes, rows, passed = (tf.boolean_mask(x, kept) for x in (codes, rows, passed))
            return codes, rows, passed, tf.reduce_any(taken)

        shapes = (*[tf.TensorShape([None])] * 3, tf.TensorShape([]))
        state = codes, rows, tf.zeros_like(codes, tf.bool), tf.constant(True)
        codes, rows, _, _ = tf.while_loop(is_unfinished, take_up, state, shape_invariants=shapes)
        return codes, rows


def _begins(classes, rows):
    """Where a letter stands, or a text begins: bool (N,)."""
    return (classes == 0) | (rows != previous(rows, tf.constant(-1, rows.dtype)))


def _looked_up(keys, values, wanted, otherwise):
    place = tf.minimum(tf.searchsorted(keys, wanted), tf.size(keys) - 1)
    return tf.where(tf.gather(keys, place) == wanted, tf.gather(values, place), otherwise)


@functools.cache
def _combining_classes():
    """The marks, ascending, and the combining class of each."""
    form = normalizers.NFD()
    moved = normalized(form, [_LAST_MARK + chr(code) for code in _CODES])
    marks = [code for code, pair in zip(_CODES, moved, strict=True) if pair[0] == chr(code) != _LAST_MARK]
    # Python knows a mark of each class, though not every mark.
    of_class = {}
    for code in marks:
        of_class.setdefault(unicodedata.combining(chr(code)), chr(code))
    of_class.pop(0, None)
    order = sorted(of_class)
    pairs = normalized(form, [of_class[number] + chr(code) for code in marks for number in order])
    stays = np.array([pair[0] for pair in pairs]).reshape(len(marks), len(order)) == [of_class[n] for n in order]
    # A mark stays behind those of its own class and of lower ones.
    classes = [order[row.sum() - 1] for row in stays]
    found = sorted([*zip(marks, classes, strict=True), (ord(_LAST_MARK), 240)])
    return [code for code, _ in found], [number for _, number in found]


@functools.cache
def _pairs():
    """Pairs of code points that compose, as one number each, ascending; and what they make."""
    apart, together = normalizers.NFD(), normalizers.NFC()
    texts = list(map(chr, _CODES))
    parts = zip(texts, normalized(apart, texts), normalized(together, texts), strict=True)
    parts = [(text, whole) for text, whole, back in parts if whole != text == back]
    firsts = normalized(together, [whole[:-1] for _, whole in parts])
    found = sorted(
        (ord(first) * _WIDTH + ord(whole[-1]), ord(text))
        for (text, whole), first in zip(parts, firsts, strict=True)
        if len(first) == 1
    )
    return tuple(zip(*found, strict=True))
