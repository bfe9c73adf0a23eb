"""Ids to texts, for each kind of vocabulary."""

import tensorflow as tf

from kerasllm.tokenizers import training
from kerasllm.tokenizers.in_graph.refusal import refuse

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

    else:
        refuse("decoder", kind, "ByteLevel, Fuse, WordPiece and Metaspace")
    later = [b""] * vocab_size  # so do ids without a token decode
    first = later.copy()
    known = set()
    for token, index in engine.get_vocab(with_added_tokens=True).items():
        later[index], first[index] = in_bytes(token, [""]), in_bytes(token, [])
        known.add(index)
    known -= {added["id"] for added in spec["added_tokens"] if added["special"]}
    return JoiningDecoder(first, later, known)


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
    """

    def __init__(self, first, later, known):
        super().__init__()
        self._first, self._later = (tf.constant(tokens) for tokens in (first, later))
        self._known = tf.constant([index in known for index in range(len(later))])

    def __call__(self, ids):
        """The texts of ids: RaggedTensor of int32 (B, None) -> string (B,)."""
        ids = tf.ragged.boolean_mask(ids, ids.with_flat_values(tf.gather(self._known, ids.flat_values)))
        texts = tf.where(
            first_of_row(ids), tf.gather(self._first, ids.flat_values), tf.gather(self._later, ids.flat_values)
        )
        joined = tf.strings.reduce_join(ids.with_flat_values(texts).to_tensor(""), axis=1)
        return tf.strings.unicode_transcode(joined, "UTF-8", "UTF-8", errors="replace")
