"""Ids to texts, for each kind of vocabulary."""

import tensorflow as tf

from kerasllm.tokenizers import training
from kerasllm.tokenizers.in_graph.refusal import refuse
from kerasllm.tokenizers.in_graph.splitting import numbered, previous
from kerasllm.tokenizers.spellings import KINDS, Spellings, spellings


def make_decoder(engine, spec, vocab_size):
    """The decoder for a tokenizer.

    Args:
        engine, spec, vocab_size: see `spellings`.
    """
    found = spellings(engine, spec, vocab_size)
    if not isinstance(found, Spellings):
        refuse("decoder", found, KINDS)
    return JoiningDecoder(found)


def first_of_row(ragged):
    """Which of all values of a RaggedTensor (B, None) are the first of their row, bool (N,)."""
    rows = ragged.value_rowids()
    return tf.concat([[True], rows[1:] != rows[:-1]], axis=0)[: tf.size(rows)]


class JoiningDecoder(tf.Module):
    """Puts the bytes of tokens together.

    Args:
        found: Spellings.
    """

    def __init__(self, found):
        super().__init__()
        self._strips = found.strips
        ids = range(len(found.later))
        self._is_byte = tf.constant([index in found.spelled for index in ids]) if found.spelled else None
        self._first, self._later = tf.constant(found.first), tf.constant(found.later)
        self._known = tf.constant([index in found.known for index in ids])

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
