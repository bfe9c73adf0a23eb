"""Models that say of which kind a text is, or each of its tokens: a Transformer that was pretrained, and a new head.

Shapes: B batch, T time, S key time, D d_model, L labels.
"""

import keras
import numpy as np
from keras import ops

from kerasllm import backend
from kerasllm.layers.dense import Dense
from kerasllm.layers.dropout import Dropout
from kerasllm.layers.feed_forward import get_activation
from kerasllm.layers.normalization import make_norm
from kerasllm.layers.options import check_choice
from kerasllm.layers.taps import tap
from kerasllm.models.headless import POOLINGS, HeadlessModel, pooled
from kerasllm.models.language_model import as_dict

PROBLEMS = ("single_label", "multi_label", "regression")


class _Classifier(HeadlessModel):
    """What both have in common: labels, and the loss's word for them."""

    settings = (*HeadlessModel.settings, "num_labels", "labels", "head_activation", "head_norm")
    _label_name = "class"

    def __init__(self, config, num_labels, labels, causal, head_activation, head_norm, **kwargs):
        self.num_labels, self.labels = checked_labels(num_labels, labels)
        super().__init__(config, causal, **kwargs)
        if head_norm and not head_activation:
            raise ValueError(
                "`head_norm` normalises between the two layers of a head, which `head_activation` asks for: give both."
            )
        last = config.options_by_layer()[-1]
        self.head_dropout = Dropout(last.dropout, name="head_dropout", dtype=self.dtype_policy)
        self.head_activation, self.head_norm = head_activation, head_norm
        self.head_dense = self.head_normalization = None
        if head_activation:
            self.head_dense = self._head("head_dense", config.d_model, last.use_bias or not head_norm)
        if head_norm:
            self.head_normalization = make_norm(last, "head_norm", "float32")

    def _head(self, name, width, use_bias=True):
        """A layer in float32, whatever the model computes in: few numbers, and they are the answer."""
        return Dense(width, use_bias=use_bias, kernel_initializer=self._normal(0.02), name=name, dtype="float32")

    def _build_head(self, shape):
        for layer in (self.head_dense, self.head_normalization, self.head_output):
            if layer is not None:
                layer.build(shape)

    def _answer(self, x, training):
        """The head, on vectors (..., D)."""
        if self.head_dense is not None:
            x = get_activation(self.head_activation)(self.head_dense(x))
        if self.head_normalization is not None:
            x = self.head_normalization(x)
        return tap(self.head_output(self.head_dropout(x, training=training)), self, "logits")

    @property
    def _vocab_size(self):
        return self.num_labels  # of labels, as losses look at it

    def _labels(self, x, y, sample_weight):
        if y is None:
            raise ValueError(f"A {type(self).__name__} needs labels: fit(inputs, labels), or a dataset of such pairs.")
        return y, sample_weight


@keras.saving.register_keras_serializable("kerasllm")
class SequenceClassifier(_Classifier):
    """Says of which kind a text is, of what kinds, or how much of something it has.

    The first token stands for the text, which BERT's tokenizers begin with for that, or in causal models the last one,
    which alone has seen all: the right-most that is not padding.

    Args:
        config: TransformerConfig.
        num_labels: int, L; as many as there are `labels` when absent.
        problem: "single_label", one label of several; "multi_label", any number of them; "regression", numbers. None
            means "single_label", or "regression" with one label.
        labels: list of str, their names, or None.
        causal: bool. A token sees itself and earlier ones only, as in a `CausalLM`.
        head_activation: str or None, between the two layers of the head, "tanh" as in BERT or "relu" as in DistilBERT;
            None for one layer without biases, as on decoders. When absent, "tanh", or None if `causal`.
        head_norm: bool. Normalise behind that activation, as in ModernBERT; its layer then has biases only if those of
            the Transformer have.
        pooling: "first", "last", "mean" or "max", what stands for a text: see `TextEmbedder`. When absent, "first", or
            "last" if `causal`.

    Call arguments:
        inputs, padding_mask, position_ids: see `MaskedLM`; one text a row.

    Returns:
        float (B, L): logits, or in regression the numbers themselves.

    Raises:
        ValueError: if the numbers do not fit together.

    `compile()` without a loss means cross-entropy of one label, int (B,), with accuracy; that of several, 0 or 1 each,
    (B, L); or in regression the mean squared error of float (B,) or (B, L).

    Example:
        >>> config = kerasllm.models.TransformerConfig.preset("bert-laptop", vocab_size=100)
        >>> model = kerasllm.models.SequenceClassifier(config, labels=["good", "bad"])
        >>> model(np.ones((1, 10), "int32")).shape
        TensorShape([1, 2])
        >>> model.compile("adam")
        >>> history = model.fit(np.ones((8, 10), "int32"), np.ones(8, "int32"))

    Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805; on decoders, Radford et al. 2018, GPT.
    """

    settings = (*_Classifier.settings, "problem", "pooling")
    _labels_are_of_tokens = False

    def __init__(
        self,
        config,
        num_labels=None,
        problem=None,
        *,
        labels=None,
        causal=False,
        head_activation="default",
        head_norm=False,
        pooling=None,
        **kwargs,
    ):
        if head_activation == "default":
            head_activation = None if causal else "tanh"
        super().__init__(config, num_labels, labels, causal, head_activation, head_norm, **kwargs)
        self.pooling = pooling or ("last" if causal else "first")
        check_choice("pooling", self.pooling, POOLINGS)
        self.problem = problem or ("regression" if self.num_labels == 1 else "single_label")
        check_choice("problem", self.problem, PROBLEMS)
        if self.problem == "single_label" and self.num_labels < 2:
            raise ValueError("One label of several needs at least 2 of them, got num_labels=1.")
        self.head_output = self._head("head_output", self.num_labels, use_bias=bool(head_activation))
        self.build((None, None))

    def build(self, _):
        self._build_body()
        self._build_head((None, self.config.d_model))

    def call(self, inputs, padding_mask=None, position_ids=None, training=None):
        inputs = as_dict(inputs)
        x = self._hidden_states(inputs, padding_mask, position_ids, training)
        return self._answer(pooled(x, self.pooling, inputs, padding_mask), training)

    def compile(self, optimizer="adam", loss=None, *, metrics=None, **kwargs):
        """As `keras.Model.compile`; without a loss, that of the problem, with the accuracy."""
        if loss is None:
            loss, usual = {
                "single_label": (keras.losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"]),
                "multi_label": (
                    keras.losses.BinaryCrossentropy(from_logits=True),
                    [keras.metrics.BinaryAccuracy("accuracy", threshold=0.0)],
                ),
                "regression": (keras.losses.MeanSquaredError(), []),
            }[self.problem]
            metrics = usual if metrics is None else metrics
        super().compile(optimizer, loss, metrics=metrics, **kwargs)

    def _targets(self, x, y, outputs, sample_weight, training):
        if not self._labels_are_ids:
            return super()._targets(x, y, outputs, sample_weight, training)
        y, _ = self._labels(x, y, sample_weight)
        rows = ops.reshape(backend.as_integers(y), (-1, 1))
        rows, sample_weight, is_bad = super()._targets(x, rows, outputs[:, None], sample_weight, training)
        return rows[:, 0], None if sample_weight is None else ops.reshape(sample_weight, (-1,)), is_bad

    def _check_labels(self, labels, ids):
        if labels.shape not in {(len(ids),), (len(ids), 1)}:
            raise ValueError(f"A SequenceClassifier learns a label for each text, {len(ids)}, got {labels.shape}.")


@keras.saving.register_keras_serializable("kerasllm")
class TokenClassifier(_Classifier):
    """Says of which kind each token of a text is, such as a part of a name.

    Args:
        config: TransformerConfig.
        num_labels: int, L; as many as there are `labels` when absent.
        labels: list of str, their names, such as "O", "B-PER", "I-PER", or None.
        causal: bool. A token sees itself and earlier ones only, as in a `CausalLM`.
        head_activation: str or None, between the two layers of the head; None for one layer.
        head_norm: bool, see `SequenceClassifier`.

    Call arguments:
        inputs, padding_mask, position_ids: see `MaskedLM`.

    Returns:
        float (B, T, L), logits.

    `compile()` without a loss means cross-entropy over the weighted tokens, as for `CausalLM`, with labels int (B, T);
    of tokens with the label -100 nothing is learned.

    Example:
        >>> config = kerasllm.models.TransformerConfig.preset("bert-laptop", vocab_size=100)
        >>> model = kerasllm.models.TokenClassifier(config, labels=["O", "B-PER", "I-PER"])
        >>> model(np.ones((1, 10), "int32")).shape
        TensorShape([1, 10, 3])
    """

    def __init__(
        self, config, num_labels=None, *, labels=None, causal=False, head_activation=None, head_norm=False, **kwargs
    ):
        super().__init__(config, num_labels, labels, causal, head_activation, head_norm, **kwargs)
        self.head_output = self._head("head_output", self.num_labels)
        self.build((None, None))

    def build(self, _):
        self._build_body()
        self._build_head((None, None, self.config.d_model))

    def call(self, inputs, padding_mask=None, position_ids=None, training=None):
        return self._answer(self._hidden_states(as_dict(inputs), padding_mask, position_ids, training), training)


def checked_labels(num_labels, labels):
    """The number of labels and their names, a list or None."""
    labels = None if labels is None else [str(label) for label in labels]
    count = len(labels or ()) if num_labels is None else num_labels
    if not isinstance(count, int | np.integer) or count < 1:
        raise ValueError(f"A classifier needs `num_labels`, at least 1, or the names of its `labels`, got {count!r}.")
    if labels is not None and (len(labels) != count or len(set(labels)) != count):
        raise ValueError(f"`labels` are {count} different names, got {labels!r:.200}.")
    return int(count), labels
