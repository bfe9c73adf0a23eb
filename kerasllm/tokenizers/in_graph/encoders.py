"""Texts to ids, for each kind of vocabulary.

An encoder is a `tf.Module` with `longest_token` (see `InGraphTokenizer`), called with valid UTF-8 (B,) for a
RaggedTensor of int32 (B, None).
Shapes: B texts, C characters of all texts, N bytes of all texts.
"""

import numpy as np
import tensorflow as tf

from kerasllm.tokenizers import training
from kerasllm.tokenizers.in_graph.merging import Merges
from kerasllm.tokenizers.in_graph.refusal import refuse
from kerasllm.tokenizers.in_graph.splitting import PATTERNS, Cutter, DigitSplitter, WordSplitter, numbered, previous
from kerasllm.tokenizers.in_graph.whole_texts import META_SPACE, meta_space_steps, whole_text_steps
from kerasllm.tokenizers.patterns import GPT2
from kerasllm.tokenizers.spellings import bytes_of


def make_encoder(engine, spec):
    """The encoder for a tokenizer.

    Args:
        engine: `tokenizers.Tokenizer`.
        spec: dict, the content of its tokenizer.json.
    """
    model = spec["model"]
    if model["type"] in ("WordPiece", "Unigram"):
        # Only these need tensorflow_text.
        from kerasllm.tokenizers.in_graph.subwords import UnigramEncoder, WordPieceEncoder

        return WordPieceEncoder(engine, spec) if model["type"] == "WordPiece" else UnigramEncoder(spec)
    if model["type"] != "BPE":
        refuse("model", model["type"], "BPE, WordPiece and Unigram")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            refuse(f"BPE model's {name}", model[name], "no such option")
    normalizer, steps = _flat(spec["normalizer"], "normalizers"), _flat(spec["pre_tokenizer"], "pretokenizers")
    if steps and steps[-1]["type"] == "ByteLevel":
        return ByteLevelEncoder(model, normalizer, steps)
    if not (steps or normalizer or model["merges"] or model["byte_fallback"]):
        return CharacterEncoder(model)
    has_added_tokens = not all(token["special"] for token in spec["added_tokens"])
    return SentencePieceEncoder(model, normalizer, steps, has_added_tokens)


def _flat(part, name):
    """The steps of a part of a tokenizer, of which a Sequence has several: a list of dicts."""
    if part is None:
        return []
    return [step for inner in part[name] for step in _flat(inner, name)] if part["type"] == "Sequence" else [part]


def _word_steps(pre_tokenizers):
    """What a byte-level pre-tokenizer does to words: a list of steps, see splitting.py."""
    steps = []
    known = (
        "ByteLevel, alone or after Digits, FixedLength and Split with the pattern of the package, GPT-2, Llama 3 or "
        "Qwen"
    )
    *before, last = pre_tokenizers
    for step in before:
        if step["type"] == "FixedLength":
            steps.append(Cutter(step["length"]))
        elif step["type"] == "Digits":
            steps.append(DigitSplitter(step["individual_digits"]))
        elif step["type"] != "Split" or step["behavior"] != "Isolated" or step["invert"]:
            refuse("pre-tokenizer", step["type"], known)
        elif step["pattern"].get("Regex") not in PATTERNS:
            refuse("split pattern", *step["pattern"].values(), known)
        else:
            steps.append(WordSplitter(step["pattern"]["Regex"]))
    if last["add_prefix_space"] and before:
        refuse("pre-tokenizer", "ByteLevel with add_prefix_space, after others", known)
    return steps + ([WordSplitter(GPT2)] if last["use_regex"] else [])


class CharacterEncoder(tf.Module):
    """One id for each character, and one for all that are unknown."""

    longest_token = 4

    def __init__(self, model):
        super().__init__()
        self._characters = _Characters(model)
        self._unknown = model["vocab"].get(model["unk_token"])
        if self._unknown is None:
            refuse("model", "a vocabulary of characters without an unknown token", "one with such a token")

    def __call__(self, texts):
        characters = tf.strings.unicode_decode(texts, "UTF-8")
        ids = self._characters(characters.flat_values)
        return characters.with_flat_values(tf.where(ids < 0, self._unknown, ids))


class _Characters:
    """A table from code points to ids; -1 for those without one."""

    def __init__(self, model):
        codes = sorted(ord(token) for token in model["vocab"] if len(token) == 1)
        self._codes = tf.constant(codes or [-1], tf.int32)
        self._ids = tf.constant([model["vocab"][chr(code)] for code in codes] or [-1], tf.int32)

    def __call__(self, codes):
        place = tf.minimum(tf.searchsorted(self._codes, codes), tf.size(self._codes) - 1)
        return tf.where(tf.gather(self._codes, place) == codes, tf.gather(self._ids, place), -1)


class _Pairs:
    """What a BPE model does with the first symbols of words.

    Args:
        model: dict, from tokenizer.json.
    """

    def __init__(self, model):
        vocab = model["vocab"]
        lengths = np.zeros(1 + max(vocab.values()), "int32")
        for token, index in vocab.items():
            lengths[index] = len(token)
        rules = [(vocab[left], vocab[right], vocab[left + right]) for left, right in model["merges"]]
        self._merges = Merges(rules, lengths)
        self._unknown = vocab.get(model["unk_token"])
        self._fuses = model["fuse_unk"]
        self.leaves_out = self._unknown is None or self._fuses

    def __call__(self, symbols, words):
        """Tokens and their words: of symbols, int32 (N,), -1 for those that the vocabulary lacks: they are left out, or
        one unknown token each or together."""
        known = symbols >= 0
        if self._unknown is not None:
            again = ~known & ~previous(known, True) & (words == previous(words, -1)) & self._fuses
            symbols, known = tf.where(known, symbols, self._unknown), ~again
        return self._merges(tf.boolean_mask(symbols, known), tf.boolean_mask(words, known))


class ByteLevelEncoder(tf.Module):
    """Byte-level BPE; without merges, one id for each byte."""

    def __init__(self, model, normalizer, pre_tokenizers):
        super().__init__()
        vocab = model["vocab"]
        self._whole_text_steps, shrinking = whole_text_steps(normalizer)
        self._begins_with_space = pre_tokenizers[-1]["add_prefix_space"]
        self._steps = _word_steps(pre_tokenizers)
        self._bytes = tf.constant([vocab.get(character, -1) for character in training.byte_characters()], tf.int32)
        self._pairs = _Pairs(model)
        self._whole_words = _whole_words(vocab) if model.get("ignore_merges") else None
        loses = self._pairs.leaves_out and bool(tf.reduce_any(self._bytes < 0))
        self.longest_token = None if loses else shrinking * max(map(len, vocab))

    def __call__(self, texts):
        for step in self._whole_text_steps:
            texts = step(texts)
        if self._begins_with_space:
            texts = tf.strings.regex_replace(texts, "^([^ ])", r" \1")
        characters = tf.strings.unicode_decode(texts, "UTF-8")
        rows, codes = characters.value_rowids(), characters.flat_values
        words = tf.cast(rows, tf.int32)
        for step in self._steps:
            words = step(codes, words)
        row_of_word = tf.math.segment_min(rows, words)

        words = tf.repeat(words, utf8_lengths(codes))
        text = tf.strings.reduce_join(texts)
        symbols = tf.gather(self._bytes, tf.cast(tf.io.decode_raw(text, tf.uint8), tf.int32))
        if self._whole_words is not None:
            symbols, words = self._look_up(text, symbols, words)
        tokens, words = self._pairs(symbols, words)
        return tf.RaggedTensor.from_value_rowids(tokens, tf.gather(row_of_word, words), nrows=characters.nrows())

    def _look_up(self, text, symbols, words):
        """Replaces the words that are tokens themselves, whatever merges would make of them."""
        count = tf.reduce_max(words, keepdims=True) + 1
        strings = tf.strings.unsorted_segment_join(tf.strings.bytes_split(text), words, tf.maximum(count[0], 0))
        found = tf.gather(self._whole_words.lookup(strings), words)
        kept = (words != previous(words, -1)) | (found < 0)
        return tf.boolean_mask(tf.where(found < 0, symbols, found), kept), tf.boolean_mask(words, kept)


class SentencePieceEncoder(tf.Module):
    """BPE over characters, as SentencePiece has it: what the vocabulary lacks is spelled in bytes, or unknown."""

    def __init__(self, model, normalizer, pre_tokenizers, has_added_tokens):
        super().__init__()
        vocab = model["vocab"]
        if model.get("ignore_merges"):
            refuse("BPE model's ignore_merges", True, "it with ByteLevel only")
        before, shrinking = whole_text_steps(normalizer)
        after, self._splits = meta_space_steps(pre_tokenizers, normalizer, has_added_tokens)
        self._whole_text_steps = before + after
        self._characters = _Characters(model)
        bytes_ = [vocab.get(f"<0x{byte:02X}>", -1) for byte in range(256)]
        self._spells = bool(model["byte_fallback"])
        if self._spells and min(bytes_) < 0:
            refuse("BPE model", "one with tokens for some bytes only", "those with all bytes, or none")
        self._bytes = tf.constant(bytes_, tf.int32)
        self._pairs = _Pairs(model)
        loses = self._pairs.leaves_out and not self._spells
        self.longest_token = None if loses else shrinking * max(len(token.encode()) for token in vocab)

    def __call__(self, texts):
        for step in self._whole_text_steps:
            texts = step(texts)
        characters = tf.strings.unicode_decode(texts, "UTF-8")
        rows, codes = characters.value_rowids(), characters.flat_values
        words, symbols = tf.cast(rows, tf.int32), self._characters(codes)
        if self._splits:
            words = numbered((codes == ord(META_SPACE)) | (words != previous(words, -1)))
        row_of_word = tf.math.segment_min(rows, words)
        if self._spells:
            lengths = utf8_lengths(codes)
            in_bytes = tf.cast(tf.io.decode_raw(tf.strings.reduce_join(texts), tf.uint8), tf.int32)
            spelled = tf.repeat(symbols < 0, lengths)
            first = tf.cumsum(lengths, exclusive=True)
            is_first = tf.scatter_nd(first[:, None], tf.ones_like(first), [tf.size(in_bytes)]) > 0
            symbols = tf.where(spelled, tf.gather(self._bytes, in_bytes), tf.repeat(symbols, lengths))
            kept = spelled | is_first
            symbols, words = tf.boolean_mask(symbols, kept), tf.boolean_mask(tf.repeat(words, lengths), kept)
        tokens, words = self._pairs(symbols, words)
        return tf.RaggedTensor.from_value_rowids(tokens, tf.gather(row_of_word, words), nrows=characters.nrows())


def utf8_lengths(codes):
    """How many bytes each code point takes."""
    return 1 + sum(tf.cast(codes >= first, tf.int32) for first in (0x80, 0x800, 0x10000))


def _whole_words(vocab):
    """A table from the bytes of each token to its id; -1 for others."""
    ids = {word: index for token, index in vocab.items() if (word := bytes_of(token)) is not None}
    content = tf.lookup.KeyValueTensorInitializer(list(ids), list(ids.values()), tf.string, tf.int32)
    return tf.lookup.StaticHashTable(content, default_value=-1)
