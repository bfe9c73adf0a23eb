"""A tokenizer beside itself in a graph."""

import itertools

import tensorflow as tf

from kerasllm.tokenizers.in_graph import InGraphTokenizer


def ragged(rows):
    """A RaggedTensor; `tf.ragged.constant` takes minutes for as many rows as here."""
    flat = tf.constant(list(itertools.chain.from_iterable(rows)), tf.int32)
    return tf.RaggedTensor.from_row_lengths(flat, tf.constant([len(row) for row in rows], tf.int64))


class Both:
    """A tokenizer in Python and in a graph."""

    def __init__(self, python):
        self.python = python
        in_graph = InGraphTokenizer(python)
        self._encode = tf.function(in_graph.encode, input_signature=[tf.TensorSpec([None], tf.string)])
        ids = tf.RaggedTensorSpec([None, None], tf.int32)
        self._decode = tf.function(in_graph.decode, input_signature=[ids])
        self._continuation = tf.function(in_graph.continuation, input_signature=[ids, ids])

    def encode(self, texts):
        return self._encode(tf.constant([text.encode() for text in texts], tf.string)).to_list()

    def decode(self, rows):
        return [text.decode() for text in self._decode(ragged(rows)).numpy()]

    def check(self, texts):
        ids = self.python.encode_batch(texts)
        for text, expected, found in zip(texts, ids, self.encode(texts), strict=True):
            assert found == expected, repr(text)
        self.check_ids(ids)

    def check_ids(self, rows):
        assert self.decode(rows) == [self.python.decode(row) for row in rows]
