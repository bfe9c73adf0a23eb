"""Texts to ids, for each kind of vocabulary.

An encoder is a `tf.Module` with `longest_token` (see `InGraphTokenizer`), called with valid UTF-8 (B,) for a
RaggedTensor of int32 (B, None).
Shapes: B texts, C characters of all texts, N bytes of all texts.
"""

import numpy as np
import tensorflow as tf

from kerasllm.tokenizers import training
from kerasllm.tokenizers.in_graph.decoders import bytes_of
from kerasllm.tokenizers.in_graph.merging import Merges
from kerasllm.tokenizers.in_graph.refusal import refuse
from kerasllm.tokenizers.in_graph.splitting import PATTERNS, WordSplitter, cut
from kerasllm.tokenizers.patterns import GPT2


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
    if spec["normalizer"] is not None:
        refuse("normalizer", spec["normalizer"]["type"], "none for BPE")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "fuse_unk"):
        if model.get(name):
            refuse(f"BPE model's {name}", model[name], "no such option")
    if spec["pre_tokenizer"] is None and not model["merges"]:
        return CharacterEncoder(model)
    return ByteLevelEncoder(model, _word_steps(spec["pre_tokenizer"]))


def _word_steps(pre_tokenizer):
    """What a byte-level pre-tokenizer does to words: a list of ("split", pattern) and ("cut", length)."""
    steps = []
    known = "ByteLevel, alone or after Split with the package's, GPT-2's, Llama 3's or Qwen's pattern and FixedLength"
    *before, last = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer])
    if last is None or last["type"] != "ByteLevel":
        refuse("pre-tokenizer", last and last["type"], known)
    if last["add_prefix_space"]:
        refuse("pre-tokenizer", "ByteLevel with add_prefix_space", known)
    for step in before:
        if step["type"] == "FixedLength":
            steps.append(("cut", step["length"]))
        elif step["type"] != "Split" or step["behavior"] != "Isolated" or step["invert"]:
            refuse("pre-tokenizer", step["type"], known)
        elif step["pattern"].get("Regex") not in PATTERNS or steps:
            refuse("split pattern", *step["pattern"].values(), known)
        else:
            steps.append(("split", step["pattern"]["Regex"]))
    if last["use_regex"]:
        if steps:
            refuse("pre-tokenizer", "ByteLevel with a pattern of its own, after others", known)
        steps.append(("split", GPT2))
    return steps


class CharacterEncoder(tf.Module):
    """One id for each character, and one for all that are unknown."""

    longest_token = 4

    def __init__(self, model):
        super().__init__()
        codes = sorted(ord(token) for token in model["vocab"] if len(token) == 1)
        self._codes = tf.constant(codes, tf.int32)
        self._ids = tf.constant([model["vocab"][chr(code)] for code in codes], tf.int32)
        self._unknown = model["vocab"].get(model["unk_token"])
        if self._unknown is None:
            refuse("model", "a vocabulary of characters without an unknown token", "one with such a token")

    def __call__(self, texts):
        characters = tf.strings.unicode_decode(texts, "UTF-8")
        place = tf.minimum(tf.searchsorted(self._codes, characters.flat_values), tf.size(self._codes) - 1)
        known = tf.gather(self._codes, place) == characters.flat_values
        return characters.with_flat_values(tf.where(known, tf.gather(self._ids, place), self._unknown))


class ByteLevelEncoder(tf.Module):
    """Byte-level BPE; without merges, one id for each byte."""

    def __init__(self, model, word_steps):
        super().__init__()
        vocab = model["vocab"]
        alphabet = training.byte_characters()
        if missing := [byte for byte, character in enumerate(alphabet) if character not in vocab]:
            refuse("model", f"a vocabulary without the byte {missing[0]}", "those that have all bytes")
        self._bytes = tf.constant([vocab[character] for character in alphabet], tf.int32)
        lengths = np.zeros(1 + max(vocab.values()), "int32")
        for token, index in vocab.items():
            lengths[index] = len(token)
        self.longest_token = int(lengths.max())
        rules = [(vocab[left], vocab[right], vocab[left + right]) for left, right in model["merges"]]
        self._merges = Merges(rules, lengths)
        self._steps = [WordSplitter(what) if kind == "split" else what for kind, what in word_steps]
        self._whole_words = _whole_words(vocab) if model.get("ignore_merges") else None

    def __call__(self, texts):
        characters = tf.strings.unicode_decode(texts, "UTF-8")
        rows = characters.value_rowids()
        words = tf.cast(rows, tf.int32)
        for step in self._steps:
            words = step(characters) if isinstance(step, WordSplitter) else cut(words, step)
        row_of_word = tf.math.segment_min(rows, words)

        codes = characters.flat_values
        words = tf.repeat(words, 1 + sum(tf.cast(codes >= first, tf.int32) for first in (0x80, 0x800, 0x10000)))
        text = tf.strings.reduce_join(texts)
        tokens = tf.gather(self._bytes, tf.cast(tf.io.decode_raw(text, tf.uint8), tf.int32))
        if self._whole_words is not None:
            tokens, words = self._look_up(text, tokens, words)
        tokens, words = self._merges(tokens, words)
        return tf.RaggedTensor.from_value_rowids(tokens, tf.gather(row_of_word, words), nrows=characters.nrows())

    def _look_up(self, text, tokens, words):
        """Replaces the words that are tokens themselves, whatever merges would make of them."""
        count = tf.reduce_max(words, keepdims=True) + 1
        strings = tf.strings.unsorted_segment_join(tf.strings.bytes_split(text), words, tf.maximum(count[0], 0))
        found = tf.gather(self._whole_words.lookup(strings), words)
        begins = words != tf.concat([[-1], words[:-1]], axis=0)
        kept = begins | (found < 0)
        return tf.boolean_mask(tf.where(found < 0, tokens, found), kept), tf.boolean_mask(words, kept)


def _whole_words(vocab):
    """A table from the bytes of each token to its id; -1 for others."""
    ids = {word: index for token, index in vocab.items() if (word := bytes_of(token)) is not None}
    content = tf.lookup.KeyValueTensorInitializer(list(ids), list(ids.values()), tf.string, tf.int32)
    return tf.lookup.StaticHashTable(content, default_value=-1)
