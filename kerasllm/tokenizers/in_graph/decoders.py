"""Ids to texts, for each kind of vocabulary."""

import tensorflow as tf

from kerasllm.tokenizers import training
from kerasllm.tokenizers.in_graph.refusal import refuse
from kerasllm.tokenizers.in_graph.splitting import numbered, previous
from kerasllm.tokenizers.in_graph.whole_texts import META_SPACE

_BYTE_OF_CHARACTER = {character: byte for byte, character in enumerate(training.byte_characters())}


def make_decoder(engine, spec, vocab_size):
    """The decoder for a tokenizer.

    Args:
        engine: `tokenizers.Tokenizer`.
        spec: dict, the content of its tokenizer.json.
        vocab_size: int, one more than the largest id.
    """
    kind = spec["decoder"] and spec["decoder"]["type"]
    if kind == "ByteLevel":

        def in_bytes(token, before):
            return token.encode() if bytes_of(token) is None else bytes_of(token)

    elif kind in ("Fuse", "WordPiece", "Metaspace"):  # These look at one token, and whether it is the first.

        def in_bytes(token, before):
            return engine.decoder.decode([*before, token]).encode()

    elif kind == "Sequence" and (strips := _sentencepiece_strips(spec["decoder"]["decoders"])) is not None:

        def in_bytes(token, before):
            return token.replace(META_SPACE, " ").encode()

    else:
        refuse("decoder", kind, "ByteLevel, Fuse, WordPiece, Metaspace and SentencePiece's with bytes")
    later = [b""] * vocab_size  # so do ids without a token decode
    first = later.copy()
    known = set()
    for token, index in engine.get_vocab(with_added_tokens=True).items():
        later[index], first[index] = in_bytes(token, [""]), in_bytes(token, [])
        known.add(index)
    known -= {added["id"] for added in spec["added_tokens"] if added["special"]}
    if kind != "Sequence":
        return JoiningDecoder(first, later, known)
    spelled = {}
    for byte in range(256):
        index = engine.token_to_id(f"<0x{byte:02X}>")
        if index is not None:
            first[index] = later[index] = bytes([byte])
            spelled[index] = byte
    return JoiningDecoder(first, later, known, spelled, strips)


def _sentencepiece_strips(steps):
    """How many spaces SentencePiece's decoder takes from a text's beginning; None for any other decoder."""
    replace = {"type": "Replace", "pattern": {"String": META_SPACE}, "content": " "}
    if steps[:3] != [replace, {"type": "ByteFallback"}, {"type": "Fuse"}]:
        return None
    strip = steps[3] if len(steps) == 4 else {}
    if strip.get("type") == "Strip" and (strip["content"], strip["stop"]) == (" ", 0):
        return strip["start"]
    return None if steps[3:] else 0


def bytes_of(token):
    """The bytes that a byte-level token (str) stands for; None where not all of its characters stand for bytes."""
    if _BYTE_OF_CHARACTER.keys() >= set(token):
        return bytes(_BYTE_OF_CHARACTER[character] for character in token)
    return None


def first_of_row(ragged):
    """Which of all values of a RaggedTensor (B, None) are the first of their row, bool (N,)."""
    rows = ragged.value_rowids()
    return tf.concat([[True], rows[1:] != rows[:-1]], axis=0)[: tf.size(rows)]


class JoiningDecoder(tf.Module):
    """Puts the bytes of tokens together.

    Args:
        first, later: lists of bytes, by id: the token at the beginning of a text, and behind others.
        known: set of ids; others are left out before anything else.
        spelled: ids that stand for one byte, of which a run that is no UTF-8 becomes a U+FFFD for each.
        strips: int, how many spaces are taken from a text's beginning, at most.
    """

    def __init__(self, first, later, known, spelled=(), strips=0):
        super().__init__()
        self._strips = strips
        self._is_byte = tf.constant([index in spelled for index in range(len(later))]) if spelled else None
        self._first, self._later = (tf.constant(tokens) for tokens in (first, later))
        self._known = tf.constant([index in known for index in range(len(later))])

    def __call__(self, ids):
        """The texts of ids: RaggedTensor of int32 (B, None) -> string (B,)."""
        ids = tf.ragged.boolean_mask(ids, ids.with_flat_values(tf.gather(self._known, ids.flat_values)))
        texts = tf.where(
            first_of_row(ids), tf.gather(self._first, ids.flat_values), tf.gather(self._later, ids.flat_values)
        )
        if self._is_byte is not None:
            texts = self._without_broken_runs(texts, tf.gather(self._is_byte, ids.flat_values), ids.value_rowids())
        joined = tf.strings.reduce_join(ids.with_flat_values(texts).to_tensor(""), axis=1)
        joined = _valid(joined)
        return tf.strings.regex_replace(joined, f"^ {{1,{self._strips}}}", "") if self._strips else joined

    def _without_broken_runs(self, texts, is_byte, rows):
        continues = is_byte & previous(is_byte, False) & (rows == previous(rows, tf.constant(-1, rows.dtype)))
        runs = numbered(~continues)
        joined = tf.strings.unsorted_segment_join(texts, runs, tf.reduce_max(tf.concat([runs, [-1]], axis=0)) + 1)
        is_broken = tf.gather(joined != _valid(joined), runs)
        return tf.where(is_byte & is_broken, training.UNKNOWN, texts)


def _valid(texts):
    return tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")
