"""A sequence-to-sequence model: it reads a source text and predicts each token of a target text from those before it.

Shapes: B batch, S source time, T target time, D d_model, V vocab.
"""

import dataclasses

import keras

from kerasllm.models.language_model import LanguageModel, as_dict, small_deviation


@keras.saving.register_keras_serializable("kerasllm")
class Seq2SeqLM(LanguageModel):
    """An encoder, and a decoder that attends to what it made of the source, as one `keras.Model`.

    The original Transformer, BART and T5 are settings of the config: see `models/presets.py`.

    Args:
        config: TransformerConfig. Without `num_encoder_layers`, the encoder has as many blocks as the decoder.

    Call arguments:
        inputs: a dict with "source_ids" int (B, S), "target_ids" int (B, T), and, where sources are padded,
            "source_mask" bool (B, S), False for padding. Padding behind a target needs no mask: no token sees it. In
            the place of ids it may have "source_embeddings" (B, S, D) and "target_embeddings" (B, T, D), such as
            `embed` makes of them.
        return_attention_scores: bool.
        return_hidden_states: bool.

    Returns:
        float (B, T, V), logits, or with `return_hidden_states` what the output layer makes them of, (B, T, D). With
        `return_attention_scores`, the pair (logits, scores): for each block of the decoder its attention probabilities
        over the target (B, H, T, T) and over the source (B, H, T, S).

    `compile()` without a loss means cross-entropy over the weighted tokens, as for `CausalLM`.

    Example:
        >>> config = kerasllm.models.TransformerConfig(vocab_size=100, num_layers=2, d_model=64, num_heads=4, dff=256)
        >>> model = kerasllm.models.Seq2SeqLM(config)
        >>> model({"source_ids": np.ones((1, 10), "int32"), "target_ids": np.ones((1, 8), "int32")}).shape
        TensorShape([1, 8, 100])

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762
    """

    has_encoder = True
    _main_ids = "target_ids"
    needed_inputs = ("source_ids", "target_ids")
    optional_inputs = ("source_mask",)
    _embeddings = {"source_embeddings": ("source_ids",), "target_embeddings": ("target_ids",)}

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        if config.num_encoder_layers is None:
            self.config = config = dataclasses.replace(config, num_encoder_layers=config.num_layers)
        self.source_embedding = self.token_embedding
        if config.source_vocab_size is not None:
            self.source_embedding = keras.layers.Embedding(
                config.source_vocab_size,
                config.d_model,
                embeddings_initializer=self._embedding_initializer(),
                name="source_embedding",
                dtype=self.dtype_policy,
            )
        deviation = small_deviation(config)
        self.encoder = self._transformer("encoder", config.num_encoder_layers, causal=False, deviation=deviation)
        self.decoder = self._transformer("decoder", config.num_layers, causal=True, deviation=deviation)
        self.build()

    def build(self, _=None):
        shape = (None, None, self.config.d_model)
        self.token_embedding.build((None, None))
        if self.source_embedding is not self.token_embedding:
            self.source_embedding.build((None, None))
        self.encoder.build(shape)
        self.decoder.build(shape, shape)
        if self.config.output_bias:
            self._build_output_bias()
        self.built = True

    def call(self, inputs, return_attention_scores=False, training=None, return_hidden_states=False):
        source_mask = inputs.get("source_mask")
        encoded = self.encode(inputs, source_mask, training=training)
        return self.decode(
            inputs,
            encoded,
            source_mask,
            return_attention_scores=return_attention_scores,
            training=training,
            return_hidden_states=return_hidden_states,
        )

    def embed(self, inputs, side="target"):
        """What the model makes of one side of its inputs before the first layer; positions join later.

        Args:
            inputs: int (B, T), ids of that side, or a dict of inputs, as in a call.
            side: "source" or "target".

        Returns:
            float (B, T, D). Changed or not, it may stand in the place of what it was made of: "source_embeddings" or
            "target_embeddings" of a call.
        """
        embedding = {"source": self.source_embedding, "target": self.token_embedding}[side]
        return self._embed_ids(as_dict(inputs, f"{side}_ids")[f"{side}_ids"], embedding)

    def _ids_of(self, x):
        config = self.config
        sizes = {"target_ids": config.vocab_size, "source_ids": config.source_vocab_size or config.vocab_size}
        return {name: (x[name], size) for name, size in sizes.items() if x.get(name) is not None}

    def _export_signature(self):
        names = ("source_ids", "target_ids")
        return {name: keras.InputSpec(shape=(None, None), dtype="int32", name=name) for name in names}

    def encode(self, source_ids, source_mask=None, training=None):
        """What the encoder makes of sources: int (B, S), or a dict of inputs as in a call -> float (B, S, D)."""
        inputs = as_dict(source_ids, "source_ids")
        x = self._embeddings_of(inputs, "source_embeddings", side="source")
        return self.encoder(x, mask=source_mask, training=training)

    def decode(self, target_ids, encoded, source_mask=None, training=None, return_hidden_states=False, **options):
        """Logits of the tokens that follow.

        Args:
            target_ids: int (B, T), or a dict of inputs as in a call.
            encoded: float (B, S, D) from `encode`; None with a cache, which holds what is needed of it.
            source_mask: bool (B, S) or None.
            return_hidden_states: bool, whether to leave out the output layer.
            **options: `cache`, `cache_index` or `return_attention_scores`, as for `layers.Transformer`.

        Returns:
            float (B, T, V), or hidden states (B, T, D); with one of the options a named pair, as `layers.Transformer`
            returns it.
        """
        x = self._embeddings_of(as_dict(target_ids, "target_ids"), "target_embeddings")
        x = self.decoder(x, context=encoded, context_mask=source_mask, training=training, **options)
        if return_hidden_states:
            return x
        if not isinstance(x, tuple):
            return self.logits(x)
        return x._replace(output=self.logits(x.output))

    def init_cache(self, encoded, length):
        """A cache for `length` target tokens, with the keys and values of what was encoded (B, S, D)."""
        return self.decoder.init_cache(encoded.shape[0] or keras.ops.shape(encoded)[0], length, encoded)
