"""A masked language model: it says which tokens were hidden, from what stands on both sides of them.

Shapes: B batch, T time, S key time, D d_model, V vocab.
"""

import keras

from kerasllm.layers.dense import Dense
from kerasllm.layers.feed_forward import get_activation
from kerasllm.layers.normalization import make_norm
from kerasllm.models.language_model import as_dict, small_deviation
from kerasllm.models.token_types import TypedModel


@keras.saving.register_keras_serializable("kerasllm")
class MaskedLM(TypedModel):
    """Embeddings, a Transformer that sees both ways, and a head that names the token at each place.

    BERT and RoBERTa are settings of the config: see `models/presets.py`.

    Args:
        config: TransformerConfig. `num_token_types` and `num_task_types` other than 0 add an embedding of them.

    Call arguments:
        inputs: int (B, T) token ids, or a dict with "token_ids" and, where needed, "token_type_ids" (B, T), such as 0
            for BERT's sentence A and 1 for B (all 0 when absent), "task_type_ids" (B, T) likewise, and "document_ids"
            (B, T): tokens see their own document only; 0 is padding. In the place of all ids but the last it may have
            "embeddings", float (B, T, D), such as `embed` makes of them.
        padding_mask: bool (B, S) or None. False hides a token from all others.
        position_ids: int (T,) or (B, T) or None; 0, 1, 2 … when absent.
        return_hidden_states: bool.

    Returns:
        float (B, T, V), logits of the token at each place itself, or with `return_hidden_states` what the output layer
        makes them of, (B, T, D), or as wide as embeddings are.

    Raises:
        ValueError: if token types are given to a model that has none.

    `compile()` without a loss means cross-entropy over the weighted tokens, as for `CausalLM`.

    Example:
        >>> config = kerasllm.models.TransformerConfig.preset("bert-laptop", vocab_size=100)
        >>> model = kerasllm.models.MaskedLM(config)
        >>> model(np.ones((1, 10), "int32")).shape
        TensorShape([1, 10, 100])

    Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805; Liu et al. 2019, RoBERTa,
    https://arxiv.org/abs/1907.11692
    """

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        self.transformer = self._transformer("transformer", config.num_layers, False, small_deviation(config))
        last = config.options_by_layer()[-1]
        self.head_dense = Dense(
            config.embedding_width,
            use_bias=last.use_bias,
            kernel_initializer=self._normal(0.02),
            name="head_dense",
            dtype=self.dtype_policy,
        )
        self.head_activation = get_activation(last.activation)
        self.head_norm = make_norm(last, "head_norm", self.dtype_policy)
        self.build((None, None))

    def build(self, _):
        embedded = (None, None, self.config.embedding_width)
        self._build_embeddings()
        self.transformer.build(embedded)
        self.head_dense.build((None, None, self.config.d_model))
        self.head_norm.build(embedded)
        if self.head_dense.use_bias or self.config.output_bias:
            self._build_output_bias()

    def call(self, inputs, padding_mask=None, position_ids=None, training=None, return_hidden_states=False):
        inputs = as_dict(inputs)
        x = self.transformer(
            self._embeddings_of(inputs),
            mask=padding_mask,
            document_ids=inputs.get("document_ids"),
            position_ids=position_ids,
            training=training,
        )
        x = self.head(x)
        return x if return_hidden_states else self.logits(x)

    def head(self, x):
        """What stands between the Transformer and the output layer: float (B, T, D) -> as wide as embeddings are."""
        return self.head_norm(self.head_activation(self.head_dense(x)))
