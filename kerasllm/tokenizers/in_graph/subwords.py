"""WordPiece and unigram vocabularies: the package finds the words, tensorflow_text's ops cut them into tokens.

Shapes: B texts, C characters of all texts, W words of all texts.
"""

import struct
import sys

import numpy as np
import tensorflow as tf
import tensorflow_text

from kerasllm.tokenizers.in_graph.decoders import first_of_row
from kerasllm.tokenizers.in_graph.normalizing import CodePointNormalizer
from kerasllm.tokenizers.in_graph.refusal import refuse
from kerasllm.tokenizers.in_graph.splitting import cut
from kerasllm.tokenizers.in_graph.whole_texts import META_SPACE
from kerasllm.tokenizers.training import SCORE_STEP
from kerasllm.tokenizers.word_splitting import MAX_UNIGRAM_WORD_LENGTH

_ORDINARY, _WHITE_SPACE, _SIGN = range(3)


class WordPieceEncoder(tf.Module):
    """BERT's tokenizer: words between white space and signs, cut into the longest tokens from the left."""

    longest_token = None  # A word of any length may be one unknown token.

    def __init__(self, engine, spec):
        super().__init__()
        model, pre_tokenizer = spec["model"], spec["pre_tokenizer"]
        if spec["normalizer"] and spec["normalizer"]["type"] not in ("BertNormalizer", "Lowercase"):
            refuse("normalizer", spec["normalizer"]["type"], "BertNormalizer, Lowercase and none for WordPiece")
        if not pre_tokenizer or pre_tokenizer["type"] != "BertPreTokenizer":
            refuse("pre-tokenizer", pre_tokenizer and pre_tokenizer["type"], "BertPreTokenizer for WordPiece")
        tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
        if max(model["vocab"].values()) >= len(tokens):
            refuse("model", "a vocabulary with holes between its ids", "those without")
        self._normalize = CodePointNormalizer(engine.normalizer) if spec["normalizer"] else tf.identity
        self._kinds = tf.constant(_kinds_of_code_points(engine.pre_tokenizer))
        self._longest_word = model["max_input_chars_per_word"]
        self._unknown = model["vocab"][model["unk_token"]]
        self._tokenizer = tensorflow_text.FastWordpieceTokenizer(
            vocab=tokens,
            suffix_indicator=model["continuing_subword_prefix"],
            unknown_token=model["unk_token"],
            max_bytes_per_word=4 * self._longest_word,
            token_out_type=tf.int32,
            no_pretokenization=True,
        )

    def __call__(self, texts):
        characters = self._normalize(tf.strings.unicode_decode(texts, "UTF-8"))
        kinds = tf.gather(self._kinds, characters.flat_values)
        after_other = tf.concat([[True], kinds[:-1] != _ORDINARY], axis=0)
        begins = (kinds == _SIGN) | after_other[: tf.size(kinds)] | first_of_row(characters)
        kept = kinds != _WHITE_SPACE
        word_ids = tf.cumsum(tf.cast(tf.boolean_mask(begins, kept), tf.int32)) - 1
        codes, rows = (tf.boolean_mask(x, kept) for x in (characters.flat_values, characters.value_rowids()))
        words, rows = _words(codes, rows, word_ids)
        too_long = words.row_lengths() > self._longest_word
        strings = tf.where(too_long, "", tf.strings.unicode_encode(words, "UTF-8"))
        unknown = tf.fill([tf.math.count_nonzero(too_long)], self._unknown)
        unknown = tf.RaggedTensor.from_row_lengths(unknown, tf.cast(too_long, tf.int64))
        ids = tf.concat([self._tokenizer.tokenize(strings), unknown], axis=1)
        return _texts_of_words(ids, rows, characters.nrows())


class UnigramEncoder(tf.Module):
    """SentencePiece's unigram tokenizer: words that begin with a space, cut into the likeliest pieces."""

    longest_token = None  # Any number of unknown characters may be one token.

    def __init__(self, spec):
        super().__init__()
        model = spec["model"]
        if spec["normalizer"]:
            refuse("normalizer", spec["normalizer"]["type"], "none for unigram models")
        if model["byte_fallback"] or model["unk_id"] is None:
            refuse("unigram model", "one with bytes for unknown characters, or none", "those with an unknown token")
        if any(score % SCORE_STEP for _, score in model["vocab"]):
            refuse("unigram model", "one with scores whose sums are rounded", f"multiples of {SCORE_STEP}")
        self._begins_with_space, self._longest_word = _space_and_length(spec["pre_tokenizer"])
        special = {token["id"] for token in spec["added_tokens"] if token["special"]}
        self._tokenizer = tensorflow_text.FastSentencepieceTokenizer(_sentencepiece_model(model, special))

    def __call__(self, texts):
        texts = tf.strings.regex_replace(texts, " ", META_SPACE)
        if self._begins_with_space:
            texts = tf.strings.regex_replace(texts, f"^([^{META_SPACE}])", META_SPACE + r"\1")
        characters = tf.strings.unicode_decode(texts, "UTF-8")
        begins = (characters.flat_values == ord(META_SPACE)) | first_of_row(characters)
        word_ids = cut(tf.cumsum(tf.cast(begins, tf.int32)) - 1, self._longest_word)
        words, rows = _words(characters.flat_values, characters.value_rowids(), word_ids)
        ids = self._tokenizer.tokenize(tf.strings.unicode_encode(words, "UTF-8"))
        return _texts_of_words(ids, rows, characters.nrows())


def _words(codes, rows, word_ids):
    """The code points of each word, RaggedTensor (W, None), and the text of each, int64 (W,).

    Args:
        codes, rows, word_ids: (C,), the code points, their texts, and the indices of their words, ascending from 0.
    """
    words = tf.RaggedTensor.from_value_rowids(codes, tf.cast(word_ids, tf.int64))
    return words, tf.math.segment_min(rows, word_ids)


def _texts_of_words(ids, rows, count):
    """The ids of texts from those of their words, whose texts are `rows`."""
    return tf.RaggedTensor.from_value_rowids(ids.flat_values, tf.gather(rows, ids.value_rowids()), nrows=count)


def _kinds_of_code_points(pre_tokenizer):
    """Whether a code point is ordinary, white space or a sign to BERT's pre-tokenizer, asked of it."""
    codes = np.array([code for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000])
    kinds = np.full(sys.maxunicode + 1, _WHITE_SPACE, "uint8")
    for _, (begin, end) in pre_tokenizer.pre_tokenize_str("a" + "a".join(map(chr, codes)) + "a"):
        if end - begin == 1:
            kinds[codes[begin // 2]] = _SIGN if begin % 2 else kinds[codes[begin // 2]]
        else:
            kinds[codes[begin // 2 : end // 2]] = _ORDINARY
    return kinds.astype("int32")


def _space_and_length(pre_tokenizer):
    """Whether a text gets a space before it, and the most characters of a word, from a unigram pre-tokenizer."""
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer])
    known = (
        f"Metaspace with {META_SPACE} and split, then FixedLength of at most {MAX_UNIGRAM_WORD_LENGTH}, for unigram "
        f"models"
    )
    if [step and step["type"] for step in steps] != ["Metaspace", "FixedLength"]:
        refuse("pre-tokenizer", [step and step["type"] for step in steps], known)
    space, length = steps
    if space["replacement"] != META_SPACE or not space["split"] or length["length"] > MAX_UNIGRAM_WORD_LENGTH:
        refuse("pre-tokenizer", steps, known)
    return space["prepend_scheme"] != "never", length["length"]


def _sentencepiece_model(model, special):
    """A unigram vocabulary as SentencePiece's ops take it: a ModelProto that changes nothing in a word.

    Source: `sentencepiece_model.proto` of SentencePiece, whose field numbers these are.
    """
    pieces = []
    for index, (piece, score) in enumerate(model["vocab"]):
        kind = 2 if index == model["unk_id"] else 3 if index in special else 1  # unknown, control, normal
        content = _field(1, piece.encode()) + b"\x15" + struct.pack("<f", score) + _field(3, kind)
        pieces.append(_field(1, content))
    trainer = _field(3, 1) + _field(40, model["unk_id"])  # a unigram model
    trainer += b"".join(_field(number, -1) for number in (41, 42, 43))  # no start, end and padding of its own
    normalizer = _field(3, 0) + _field(4, 0) + _field(5, 0)  # add no space, remove none, replace none
    return b"".join(pieces) + _field(2, trainer) + _field(3, normalizer)


def _field(number, value):
    """A field of a protocol buffer: a number, or bytes with their length."""
    if isinstance(value, bytes):
        return _varint(number << 3 | 2) + _varint(len(value)) + value
    return _varint(number << 3) + _varint(value)


def _varint(value):
    value %= 2**64
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
