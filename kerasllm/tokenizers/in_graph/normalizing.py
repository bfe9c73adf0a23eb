"""What a normalizer does to each code point, asked of `tokenizers` itself."""

import sys

import numpy as np
import tensorflow as tf

_BETWEEN = "\N{SNOWMAN}"  # stays what it is, and keeps its neighbours apart


def code_points(codes):
    """Those of a range that characters have, and that `normalized` takes."""
    return [code for code in codes if not 0xD800 <= code < 0xE000 and code != ord(_BETWEEN)]


def normalized(normalizer, texts):
    """What becomes of many short texts, in one call."""
    return normalizer.normalize_str(_BETWEEN.join(texts)).split(_BETWEEN)


class CodePointNormalizer:
    """A normalizer that does the same to a character whatever stands around it: BERT's, or lower case.

    Args:
        normalizer: of `tokenizers`.
        codes: the code points that it may change; None means all.
    """

    def __init__(self, normalizer, codes=None):
        codes = code_points(range(sys.maxunicode + 1)) if codes is None else codes
        results = normalized(normalizer, map(chr, codes))
        changed = [(code, result) for code, result in zip(codes, results, strict=True) if result != chr(code)]
        self._codes = tf.constant([code for code, _ in changed], tf.int32)
        self._lengths = tf.constant([len(result) for _, result in changed], tf.int32)
        self._begins = tf.cumsum(self._lengths, exclusive=True)
        self._results = tf.constant(np.array([*map(ord, "".join(result for _, result in changed)), 0]), tf.int32)

    def __call__(self, characters):
        """What becomes of code points: RaggedTensor of int32 (B, None) -> the same."""
        codes = characters.flat_values
        place = tf.minimum(tf.searchsorted(self._codes, codes), tf.size(self._codes) - 1)
        is_changed = tf.gather(self._codes, place) == codes
        lengths = tf.where(is_changed, tf.gather(self._lengths, place), 1)
        source = tf.repeat(tf.range(tf.size(codes)), lengths)  # for each new character, where it comes from
        number = tf.range(tf.size(source)) - tf.gather(tf.cumsum(lengths, exclusive=True), source)
        result = tf.gather(
            self._results, tf.gather(tf.where(is_changed, tf.gather(self._begins, place), 0), source) + number
        )
        new = tf.where(tf.gather(is_changed, source), result, tf.gather(codes, source))
        rows = tf.gather(characters.value_rowids(), source)
        return tf.RaggedTensor.from_value_rowids(new, rows, nrows=characters.nrows())
