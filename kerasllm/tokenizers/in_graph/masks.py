"""Texts with masks, for masked language models."""

import json

import tensorflow as tf

from kerasllm.tokenizers.in_graph.added_tokens import escaped
from kerasllm.tokenizers.in_graph.refusal import refuse
from kerasllm.tokenizers.masks import require_mask, words_take_spaces


class MaskReader:
    """Does in a graph what `Tokenizer.encode_masked` does: the mask token is read where a text has it.

    Args:
        tokenizer: `kerasllm.tokenizers.Tokenizer`.
        in_graph: its `InGraphTokenizer`.

    Raises:
        ValueError: for a tokenizer without a mask token, or whose texts behind a mask the graph cannot reproduce.
    """

    def __init__(self, tokenizer, in_graph):
        self._mask_id = require_mask(tokenizer)
        spec = json.loads(tokenizer.engine.to_str())
        self._mask = tokenizer.special_tokens["mask"]
        if spec["model"]["type"] == "Unigram":
            refuse("model", "Unigram, with masks", "BPE and WordPiece with masks")
        for added in spec["added_tokens"]:
            flags = [name for name in ("single_word", "lstrip", "rstrip", "normalized") if added[name]]
            if added["content"] == self._mask and flags:
                refuse("mask token", flags, "one that leaves what stands around it alone")
        self._takes_space = words_take_spaces(tokenizer.engine)
        self._in_graph = in_graph

    def __call__(self, texts):
        """The ids of texts, valid UTF-8 (B,): RaggedTensor of int32 (B, None)."""
        if self._takes_space:
            texts = tf.strings.regex_replace(texts, " " + escaped(self._mask), self._mask.replace("\\", "\\\\"))
        pieces = tf.strings.split(texts, self._mask)
        ids = self._in_graph.encode(pieces.flat_values, bare=True)
        rows = pieces.value_rowids()
        is_last = tf.concat([rows[1:] != rows[:-1], [True]], axis=0)[: tf.size(rows)]
        masks = tf.fill([tf.math.count_nonzero(~is_last)], self._mask_id)
        masks = tf.RaggedTensor.from_row_lengths(masks, tf.cast(~is_last, tf.int64))
        with_masks = tf.concat([ids, masks], axis=1)
        rows = tf.gather(rows, with_masks.value_rowids())
        whole = tf.RaggedTensor.from_value_rowids(with_masks.flat_values, rows, nrows=pieces.nrows())
        return self._in_graph.surround(whole)
