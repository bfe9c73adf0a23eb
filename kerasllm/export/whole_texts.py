"""What SavedModels of models of whole texts answer: texts in, labels with probabilities or vectors out.

Shapes: B batch, T time, L labels, W width of vectors.
"""

import tensorflow as tf

from kerasllm.export.mask_filler import ServedIds
from kerasllm.generation.classifying import label_names_of
from kerasllm.tokenizers.in_graph import InGraphTokenizer

_TEXT = tf.TensorSpec((None,), tf.string, "text")


class _ServedTexts(ServedIds):
    """The functions of a SavedModel; `kerasllm.export.saved_model` says what they return.

    Args:
        model: a `SequenceClassifier` or a `TextEmbedder`.
        tokenizer: its `Tokenizer`.
    """

    SIGNATURES = ("serving_default", *ServedIds.SIGNATURES)

    def __init__(self, model, tokenizer):
        super().__init__(model)
        self._in_graph = InGraphTokenizer(tokenizer)
        self._pad_id = tokenizer.pad_id or 0
        self._longest = getattr(model, "max_tokens", None) or self._max_length

    def _answers(self, text):
        """What the model makes of texts, float32 (B, any)."""
        ids = self._cut(self._in_graph.encode(text))
        lengths = tf.maximum(ids.row_lengths(), 1)  # An empty text is one token of padding.
        rows = ids.to_tensor(self._pad_id)
        missing = tf.maximum(1 - tf.shape(rows)[1], 0)
        rows = tf.pad(rows, [[0, 0], [0, missing]], constant_values=self._pad_id)
        return tf.cast(self._call(rows, tf.sequence_mask(lengths, tf.shape(rows)[1])), tf.float32)

    def _cut(self, ids):
        """Rows no longer than the model takes; what the tokenizer puts behind a text stays."""
        kept = tf.minimum(ids.row_lengths(), self._longest)
        columns = tf.ragged.range(kept)
        is_behind = tf.cast(columns >= (kept - self._in_graph.num_behind)[:, None], tf.int64)
        return tf.gather(ids, columns + (ids.row_lengths() - kept)[:, None] * is_behind, batch_dims=1)


class ServedClassifier(_ServedTexts):
    """Those of a `SequenceClassifier`."""

    def __init__(self, model, tokenizer):
        super().__init__(model, tokenizer)
        self._labels = tf.constant(label_names_of(model))
        self._problem = model.problem

    @tf.function(input_signature=[_TEXT], autograph=False)
    def serving_default(self, text):
        logits = self._answers(text)
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


class ServedEmbedder(_ServedTexts):
    """Those of a `TextEmbedder`."""

    @tf.function(input_signature=[_TEXT], autograph=False)
    def serving_default(self, text):
        return {"vector": self._answers(text)}
