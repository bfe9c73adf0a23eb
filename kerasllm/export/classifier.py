"""What the SavedModel of a `SequenceClassifier` answers: a text in, its label and the probability of that out.

Shapes: B batch, T time, L labels.
"""

import tensorflow as tf

from kerasllm.export.mask_filler import ServedIds
from kerasllm.generation.classifying import label_names_of
from kerasllm.tokenizers.in_graph import InGraphTokenizer


class ServedClassifier(ServedIds):
    """The functions of a SavedModel; `kerasllm.export.saved_model` says what they return.

    Args:
        model: a `SequenceClassifier`.
        tokenizer: its `Tokenizer`.
    """

    SIGNATURES = ("serving_default", *ServedIds.SIGNATURES)

    def __init__(self, model, tokenizer):
        super().__init__(model)
        self._in_graph = InGraphTokenizer(tokenizer)
        self._pad_id = tokenizer.pad_id or 0
        self._num_behind = self._in_graph.num_behind
        self._labels = tf.constant(label_names_of(model))
        self._problem = model.problem

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "text")], autograph=False)
    def serving_default(self, text):
        ids = self._cut(self._in_graph.encode(text))
        lengths = tf.maximum(ids.row_lengths(), 1)  # An empty text is one token of padding.
        rows = ids.to_tensor(self._pad_id)
        missing = tf.maximum(1 - tf.shape(rows)[1], 0)
        rows = tf.pad(rows, [[0, 0], [0, missing]], constant_values=self._pad_id)
        logits = tf.cast(self._call(rows, tf.sequence_mask(lengths, tf.shape(rows)[1])), tf.float32)
        if self._problem == "regression":
            return {"logits": logits}
        many = self._problem == "multi_label"
        probabilities = tf.nn.sigmoid(logits) if many else tf.nn.softmax(logits)
        return {
            "label": tf.gather(self._labels, tf.argmax(logits, axis=-1)),
            "probability": tf.reduce_max(probabilities, axis=-1),
            "labels": tf.repeat(self._labels[None], tf.shape(logits)[0], axis=0),
            "probabilities": probabilities,
            "logits": logits,
        }

    def _cut(self, ids):
        """Rows no longer than the model takes; what the tokenizer puts behind a text stays."""
        behind = self._num_behind
        kept = tf.minimum(ids.row_lengths(), self._max_length)
        columns = tf.ragged.range(kept)
        shift = (ids.row_lengths() - kept)[:, None] * tf.cast(columns >= (kept - behind)[:, None], tf.int64)
        return tf.gather(ids, columns + shift, batch_dims=1)
