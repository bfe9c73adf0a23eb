"""A model that says how good an answer is.

Shapes: B batch, T time.
"""

import keras

from kerasllm.losses import BradleyTerry
from kerasllm.models.classifiers import SequenceClassifier


@keras.saving.register_keras_serializable("kerasllm")
class RewardModel(SequenceClassifier):
    """One number for a text, its prompt and answer: the higher, the better.

    It is a `SequenceClassifier` with one label, as transformers' `AutoModelForSequenceClassification` with num_labels=1
    is, in whose format `kerasllm.huggingface.save` writes it. What is loaded from there is a classifier, of which
    `RewardModel.from_model` makes this, head and all.

    Args:
        config: TransformerConfig.
        causal: bool. A token sees itself and earlier ones only, as in a `CausalLM`.
        head_activation, head_norm, pooling: see `SequenceClassifier`.

    Call arguments:
        inputs, padding_mask, position_ids: see `MaskedLM`; one text a row. Where rows are padded, "document_ids" say
            where texts end.

    Returns:
        float32 (B, 1), rewards.

    `compile()` without a loss means `losses.BradleyTerry`, over `data.preference_dataset`.

    Example:
        >>> config = kerasllm.models.TransformerConfig.preset("llama", vocab_size=100, num_layers=2, d_model=64,
        ...     num_heads=4, num_kv_heads=4, dff=128)
        >>> model = kerasllm.models.RewardModel(config)
        >>> model(np.ones((1, 10), "int32")).shape
        TensorShape([1, 1])

    Reference: Ouyang et al. 2022, https://arxiv.org/abs/2203.02155
    """

    settings = ("causal", "head_activation", "head_norm", "pooling")

    def __init__(self, config, *, causal=True, head_activation="default", head_norm=False, pooling=None, **kwargs):
        options = {"causal": causal, "head_activation": head_activation, "head_norm": head_norm, "pooling": pooling}
        super().__init__(config, 1, "regression", **options, **kwargs)

    @classmethod
    def from_model(cls, model, *args, quantized=False, **options):
        """See `SequenceClassifier.from_model`; of a classifier with one label, its head too."""
        made = super().from_model(model, *args, quantized=quantized, **options)
        if isinstance(model, SequenceClassifier) and model.num_labels == 1:
            for name in ("head_dense", "head_normalization", "head_output"):
                if getattr(made, name) is not None:
                    getattr(made, name).set_weights(getattr(model, name).get_weights())
        return made

    def compile(self, optimizer="adam", loss=None, **kwargs):
        super().compile(optimizer, BradleyTerry() if loss is None else loss, **kwargs)

    def _targets(self, x, y, outputs, sample_weight, training):
        if not self._has_our_loss:
            return super()._targets(x, y, outputs, sample_weight, training)
        is_bad = self._screen.update_state(self._ids_of(x))
        return *self.loss.targets(y, sample_weight, outputs), is_bad
