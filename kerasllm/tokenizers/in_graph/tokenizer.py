"""A tokenizer inside the graph: the same ids and the same text as `kerasllm.tokenizers.Tokenizer`."""

import json

import tensorflow as tf

from kerasllm.tokenizers.in_graph.added_tokens import AddedTokenReader
from kerasllm.tokenizers.in_graph.decoders import make_decoder
from kerasllm.tokenizers.in_graph.encoders import make_encoder
from kerasllm.tokenizers.in_graph.refusal import refuse


class InGraphTokenizer(tf.Module):
    """Encodes and decodes batches of text as TensorFlow ops.

    Ids and texts are those of the Python tokenizer. Time is linear in the length of the text, and nothing is kept from
    one call to the next. Bytes that are no UTF-8 become U+FFFD; special tokens in a text are text.

    Args:
        tokenizer: `kerasllm.tokenizers.Tokenizer`.

    Attributes:
        longest_token: int, the most bytes of text that one token may stand for; None where there is no limit.
        num_behind: int, how many special tokens the tokenizer puts behind every text.

    Raises:
        ValueError: for a tokenizer that the graph cannot reproduce; the message names the part.

    Example:

    >>> tokenizer = kerasllm.tokenizers.Tokenizer.train(["the cat", "the dog"], vocab_size=300, progress=False)
    >>> in_graph = InGraphTokenizer(tokenizer)
    >>> in_graph.decode(in_graph.encode(["the cat's hat"])).numpy()
    array([b"the cat's hat"], dtype=object)
    """

    def __init__(self, tokenizer):
        super().__init__()
        spec = json.loads(tokenizer.engine.to_str())
        with tf.init_scope():
            self._encode = make_encoder(tokenizer.engine, spec)
            self._decode = make_decoder(tokenizer.engine, spec, tokenizer.vocab_size)
            self.longest_token = self._encode.longest_token
            if not all(added["special"] for added in spec["added_tokens"]):
                self._encode = AddedTokenReader(self._encode, spec)
                self.longest_token = self.longest_token and max(self.longest_token, self._encode.longest)
        self._before, self._after = _surrounding_ids(tokenizer.engine, spec)
        self.num_behind = len(self._after)

    def encode(self, texts, bare=False):
        """The ids of texts.

        Args:
            texts: string (B,).
            bare: bool. Leave out the special tokens that the tokenizer puts around every text.

        Returns:
            RaggedTensor of int32 (B, None).
        """
        valid = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")
        ids = self._encode(valid)
        return ids if bare else self.surround(ids)

    def surround(self, ids):
        """Ids (B, None) with the special tokens that the tokenizer puts around every text."""
        if not (self._before or self._after):
            return ids
        before, after = (tf.tile([side], [ids.nrows(tf.int32), 1]) for side in (self._before, self._after))
        return tf.concat([tf.cast(before, tf.int32), ids, tf.cast(after, tf.int32)], axis=1)

    def decode(self, ids):
        """The texts of ids, without special tokens.

        Args:
            ids: RaggedTensor of int32 (B, None).

        Returns:
            string (B,).
        """
        return self._decode(ids)

    def continuation(self, prompt_ids, new_ids):
        """The texts of new ids where they stand, behind a prompt: some decoders treat a text's beginning otherwise.

        Args:
            prompt_ids, new_ids: RaggedTensors of int32 (B, None).

        Returns:
            string (B,).
        """
        before = self.decode(prompt_ids)
        whole = self.decode(tf.concat([prompt_ids, new_ids], axis=1))
        size = tf.strings.length(whole)
        begin = tf.minimum(tf.strings.length(before), size)
        continues = tf.strings.substr(whole, tf.zeros_like(begin), begin) == before
        rest = tf.strings.substr(whole, begin, size - begin)
        return tf.where(continues, rest, self.decode(new_ids))


def _surrounding_ids(engine, spec):
    """The special tokens that the post-processor puts before and after every text."""
    bare, full, around = engine.encode("a", add_special_tokens=False).ids, engine.encode("a").ids, engine.encode("").ids
    for count in range(len(around) + 1):
        before, after = around[:count], around[count:]
        if before + bare + after == full:
            return before, after
    refuse("post-processor", spec["post_processor"]["type"], "those that put the same tokens around every text")
