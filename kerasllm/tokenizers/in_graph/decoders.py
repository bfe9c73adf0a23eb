"""Ids to texts, for each kind of vocabulary."""

import tensorflow as tf

from kerasllm.tokenizers import training
from kerasllm.tokenizers.in_graph.refusal import refuse

_BYTE_OF_CHARACTER = {character: byte for byte, character in enumerate(training.byte_characters())}


def make_decoder(spec, vocab_size):
    """The decoder for a tokenizer.

    Args:
        spec: dict, the content of a tokenizer.json.
        vocab_size: int, one more than the largest id.
    """
    kind = spec["decoder"] and spec["decoder"]["type"]
    if kind == "ByteLevel":

        def in_bytes(token):
            return token.encode() if bytes_of(token) is None else bytes_of(token)

    elif kind == "Fuse":
        in_bytes = str.encode
    else:
        refuse("decoder", kind, "ByteLevel and Fuse")
    tokens = [b""] * vocab_size  # so do ids without a token decode
    for token, index in spec["model"]["vocab"].items():
        tokens[index] = in_bytes(token)
    for added in spec["added_tokens"]:
        tokens[added["id"]] = b"" if added["special"] else in_bytes(added["content"])
    return JoiningDecoder(tokens)


def bytes_of(token):
    """The bytes that a byte-level token (str) stands for; None where not all of its characters stand for bytes."""
    if _BYTE_OF_CHARACTER.keys() >= set(token):
        return bytes(_BYTE_OF_CHARACTER[character] for character in token)
    return None


class JoiningDecoder(tf.Module):
    """Puts the bytes of tokens together.

    Args:
        tokens: list of bytes, by id; empty for what is left out.
    """

    def __init__(self, tokens):
        super().__init__()
        self._tokens = tf.constant(tokens)

    def __call__(self, ids):
        """The texts of ids: RaggedTensor of int32 (B, None) -> string (B,)."""
        parts = ids.with_flat_values(tf.gather(self._tokens, ids.flat_values)).to_tensor("")
        joined = tf.strings.reduce_join(parts, axis=1)
        return tf.strings.unicode_transcode(joined, "UTF-8", "UTF-8", errors="replace")
