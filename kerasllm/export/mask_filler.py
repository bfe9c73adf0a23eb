"""What the SavedModel of a `MaskedLM` answers: a text with masks in, the text with its masks filled out.

Shapes: B batch, T time, M masks of all texts, k candidates, V vocab.
"""

import tensorflow as tf

from kerasllm.export.checks import check, fitting, traced_once
from kerasllm.tokenizers.in_graph import InGraphTokenizer
from kerasllm.tokenizers.in_graph.masks import MaskReader
from kerasllm.tokenizers.masks import ordinary_ids

_TEXT = tf.TensorSpec((None,), tf.string, "text")


class ServedIds(tf.Module):
    """The function of a SavedModel that takes token ids; `kerasllm.export.saved_model` says what it returns.

    Args:
        model: a `MaskedLM`.
    """

    SIGNATURES: tuple[str, ...] = ("forward",)

    def __init__(self, model):
        super().__init__()
        self.variables_of_model = [variable.value for variable in model.variables]
        self._call = lambda ids, mask: model(ids, padding_mask=mask, training=False)
        self._max_length = model.config.max_length
        self._vocab_size = model.config.vocab_size

    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.int32, "token_ids")], autograph=False)
    def forward(self, token_ids):
        size = self._vocab_size
        known = (token_ids >= 0) & (token_ids < size)
        checks = [
            check(known, f"token_ids must be at least 0 and less than {size}, the size of the vocabulary"),
            check(tf.shape(token_ids)[1] <= self._max_length, self._too_long),
        ]
        with tf.control_dependencies(checks):
            return {"logits": tf.cast(self._call(tf.identity(token_ids), None), tf.float32)}

    @property
    def _too_long(self):
        return f"the text would be longer than the {self._max_length} tokens that the model takes"


class ServedMaskFiller(ServedIds):
    """This, and the functions that take text.

    Args:
        model: a `MaskedLM`.
        tokenizer: its `Tokenizer`, with a mask token.
    """

    SIGNATURES = ("serving_default", "fill_mask", *ServedIds.SIGNATURES)

    def __init__(self, model, tokenizer):
        super().__init__(model)
        self._in_graph = InGraphTokenizer(tokenizer)
        self._read = MaskReader(tokenizer, self._in_graph)
        self._mask_id = tokenizer.mask_id
        self._pad_id = tokenizer.pad_id or 0
        is_ordinary = ordinary_ids(tokenizer).tolist()
        self._num_candidates = sum(is_ordinary)
        self._masks = traced_once(self._read_masks, _TEXT)
        self._is_ordinary = tf.constant(is_ordinary + [False] * (self._vocab_size - len(is_ordinary)))

    @tf.function(input_signature=[_TEXT], autograph=False)
    def serving_default(self, text):
        ids, probabilities, places = self._masks(text)
        best = tf.argmax(probabilities, axis=-1, output_type=tf.int32)
        flat = tf.tensor_scatter_nd_update(ids.flat_values, places[:, None], best)
        return {"text": self._in_graph.decode(ids.with_flat_values(flat))}

    @tf.function(input_signature=[_TEXT, tf.TensorSpec((), tf.int32, "top_k")], autograph=False)
    def fill_mask(self, text, top_k):
        possible = (top_k >= 1) & (top_k <= self._num_candidates)
        with tf.control_dependencies([check(possible, f"top_k must be between 1 and {self._num_candidates}")]):
            text = tf.identity(text)
        ids, probabilities, places = self._masks(text)
        probabilities, tokens = tf.math.top_k(probabilities, top_k)
        rows = tf.gather(ids.value_rowids(), places)
        # What stands before each mask, once for each of its candidates: some tokenizers spell a token by its place.
        before = tf.RaggedTensor.from_row_splits(ids.flat_values, ids.row_splits)
        before = tf.gather(before, tf.repeat(rows, top_k))
        lengths = tf.repeat(tf.cast(places, tf.int64) - tf.gather(ids.row_starts(), rows), top_k)
        kept = tf.ragged.range(before.row_lengths()) < lengths[:, None]
        before = tf.ragged.boolean_mask(before, kept)
        one_each = tf.RaggedTensor.from_tensor(tf.reshape(tokens, (-1, 1)))
        spelled = self._in_graph.continuation(before, one_each)
        return {
            "row": tf.cast(rows, tf.int32),
            "token": tf.reshape(spelled, tf.shape(tokens)),
            "probability": probabilities,
        }

    def _read_masks(self, text):
        """Ids, RaggedTensor of int32 (B, None), and what `_probabilities` gives of them."""
        ids = self._encode(text)
        return ids, *self._probabilities(ids)

    def _encode(self, text):
        """Ids of texts with their masks, RaggedTensor of int32 (B, None)."""
        text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
        ids = self._read(fitting(text, self._in_graph.longest_token, self._max_length, self._too_long))
        with tf.control_dependencies([check(ids.row_lengths() <= self._max_length, self._too_long)]):
            return tf.identity(ids)

    def _probabilities(self, ids):
        """Of each token for each mask, float32 (M, V), and where the masks stand among all ids, int32 (M,)."""
        lengths = ids.row_lengths()
        T = tf.reduce_max(tf.concat([lengths, [1]], axis=0))
        mask = tf.sequence_mask(lengths, T)
        logits = self._call(ids.to_tensor(self._pad_id, shape=(None, None)), mask)
        logits = tf.boolean_mask(logits, mask[:, : tf.shape(logits)[1]])
        places = tf.cast(tf.where(ids.flat_values == self._mask_id)[:, 0], tf.int32)
        probabilities = tf.nn.softmax(tf.cast(tf.gather(logits, places), tf.float32))
        return tf.where(self._is_ordinary, probabilities, -1.0), places
