"""A causal language model: it predicts each token from those before it.

Shapes: B batch, T time, D d_model, V vocab.
"""

import keras

from kerasllm.models.language_model import LanguageModel, as_dict


@keras.saving.register_keras_serializable("kerasllm")
class CausalLM(LanguageModel):
    """Embedding, Transformer and output layer, as one `keras.Model`.

    Args:
        config: TransformerConfig.

    Call arguments:
        inputs: int (B, T) token ids, or a dict with "token_ids" and, for packed documents, "document_ids" (B, T):
            tokens see their own document only; 0 is padding. In the place of "token_ids" it may have "embeddings",
            float (B, T, D), such as `embed` makes of them.
        padding_mask: bool (B, S) or None. False hides a token from all others.
        position_ids: int (T,) or (B, T) or None; 0, 1, 2 … when absent.
        cache: from `init_cache`, for decoding: keys and values of earlier tokens.
        cache_index: int scalar, how many tokens the cache holds.
        return_hidden_states: bool.

    Returns:
        float (B, T, V), logits, or with `return_hidden_states` what the output layer makes them of, (B, T, D); with a
        cache the pair (this, updated cache).

    `compile()` without a loss means cross-entropy over the weighted tokens; "loss" and "perplexity" in `fit` and
    `evaluate` are then means over all tokens. Any other loss gets plain logits, as Keras promises.

    Example:
        >>> config = kerasllm.models.TransformerConfig(vocab_size=100, num_layers=2, d_model=64, num_heads=4, dff=256)
        >>> model = kerasllm.models.CausalLM(config)
        >>> model(np.ones((1, 10), "int32")).shape
        TensorShape([1, 10, 100])
        >>> model.compile()
        >>> ids = np.ones((8, 11), "int32")
        >>> history = model.fit(ids[:, :-1], ids[:, 1:])

    Reference: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
    """

    _kernel_deviation = 0.02  # GPT-2's, at any width
    sees_prompts_whole = False  # tokens of a prompt see each other both ways, and none behind it do

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        self.transformer = self._transformer("transformer", config.num_layers, True, self._kernel_deviation)
        self.build((None, None))

    def build(self, _):
        self.token_embedding.build((None, None))
        self.transformer.build((None, None, self.config.d_model))
        if self.config.output_bias:
            self._build_output_bias()

    def call(
        self,
        inputs,
        padding_mask=None,
        position_ids=None,
        cache=None,
        cache_index=0,
        training=None,
        return_hidden_states=False,
    ):
        x = self.hidden_states(inputs, padding_mask, position_ids, cache, cache_index, training=training)
        if return_hidden_states:
            return x
        if cache is None:
            return self.logits(x)
        x, cache = x
        return self.logits(x), cache

    def hidden_states(
        self, inputs, padding_mask=None, position_ids=None, cache=None, cache_index=0, training=None, last_only=False
    ):
        """What the output layer reads, float (B, T, D), or with `last_only` that of the last token, (B, 1, D); with a
        cache the pair (this, updated cache). Other arguments as in a call; `logits` makes logits of any part of it."""
        inputs = as_dict(inputs)
        return self.transformer(
            self._embeddings_of(inputs),
            mask=padding_mask,
            document_ids=inputs.get("document_ids"),
            position_ids=position_ids,
            span_ids=self._spans(inputs, cache, cache_index),
            cache=cache,
            cache_index=cache_index,
            last_only=last_only,
            training=training,
        )

    def _spans(self, inputs, cache, cache_index):
        """Numbers of tokens that see each other whichever comes first, int (B, T); None where none do."""

    def init_cache(self, batch_size, length, full=False):
        """An empty cache for `length` tokens, a list of a `BlockCache` for each block.

        Args:
            batch_size, length: int.
            full: bool. Keep all tokens, in place of those alone that windows leave to be seen.
        """
        return self.transformer.init_cache(batch_size, length, full=full)
