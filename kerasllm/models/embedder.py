"""A model that makes one vector of a text, near to those of texts that mean the same.

Shapes: B batch, T time, D d_model, W width of vectors.
"""

import keras
from keras import ops

from kerasllm.layers.dense import Dense
from kerasllm.layers.feed_forward import get_activation
from kerasllm.layers.options import check_choice
from kerasllm.losses import InfoNCE
from kerasllm.models.headless import POOLINGS, HeadlessModel, pooled
from kerasllm.models.language_model import as_dict


@keras.saving.register_keras_serializable("kerasllm")
class TextEmbedder(HeadlessModel):
    """Embeddings, a Transformer, and the mean of what it makes of the tokens, or another vector of these.

    Args:
        config: TransformerConfig.
        pooling: "mean" or "max" of all tokens, or the "first" or the "last" one, whichever are not padding.
        normalize: bool. Vectors have length 1, so that products are cosines.
        causal: bool. A token sees itself and earlier ones only, as in a `CausalLM`.
        width: int or None, W, of a dense layer behind the pooling; None for none, and then W = D.
        activation: str or None, of that layer.
        max_tokens: int or None, to how many tokens `embed` cuts texts; None means as many as the model takes.
        prompts: dict from names to str that `embed` can put before texts, such as "query: "; or None.

    Call arguments:
        inputs, padding_mask, position_ids: see `MaskedLM`; one text a row.

    Returns:
        float (B, W).

    `compile()` without a loss means `losses.InfoNCE`, for rows of pairs, as `data.pair_dataset` gives them.

    Example:
        >>> config = kerasllm.models.TransformerConfig.preset("bert-laptop", vocab_size=100, d_model=64, num_heads=2)
        >>> model = kerasllm.models.TextEmbedder(config)
        >>> model(np.ones((1, 10), "int32")).shape
        TensorShape([1, 64])

    Reference: Reimers and Gurevych 2019, Sentence-BERT, https://arxiv.org/abs/1908.10084
    """

    settings = (*HeadlessModel.settings, "pooling", "normalize", "width", "activation", "max_tokens", "prompts")
    _labels_are_of_tokens = False

    def __init__(
        self,
        config,
        *,
        pooling="mean",
        normalize=True,
        causal=False,
        width=None,
        activation=None,
        max_tokens=None,
        prompts=None,
        **kwargs,
    ):
        super().__init__(config, causal, **kwargs)
        check_choice("pooling", pooling, POOLINGS)
        self.pooling, self.normalize, self.width, self.activation = pooling, normalize, width, activation
        self.max_tokens = max_tokens and min(max_tokens, config.max_length)  # a tokenizer may name more
        self.prompts = dict(prompts or {})
        self.head_dense = None
        if width is not None:
            self.head_dense = Dense(width, kernel_initializer=self._normal(0.02), name="head_dense", dtype="float32")
        self.build((None, None))

    def build(self, _):
        self._build_body()
        if self.head_dense is not None:
            self.head_dense.build((None, self.config.d_model))

    def call(self, inputs, padding_mask=None, position_ids=None, training=None):
        inputs = as_dict(inputs)
        x = self._hidden_states(inputs, padding_mask, position_ids, training)
        x = ops.cast(x, "float32")  # whatever the model computes in: vectors are compared
        x = pooled(x, self.pooling, inputs, padding_mask)
        if self.head_dense is not None:
            x = get_activation(self.activation or "linear")(self.head_dense(x))
        return ops.normalize(x, axis=-1) if self.normalize else x

    def compile(self, optimizer="adam", loss=None, **kwargs):
        """As `keras.Model.compile`; without a loss, `losses.InfoNCE`."""
        super().compile(optimizer, InfoNCE() if loss is None else loss, **kwargs)

    def _labels(self, x, y, sample_weight):
        if y is None:
            raise ValueError(
                "A TextEmbedder learns from pairs, with a label for each row: see kerasllm.losses.InfoNCE."
            )
        return y, sample_weight
