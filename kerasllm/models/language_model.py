"""What all our language models share: a config, and a loss that counts tokens."""

import contextlib
import contextvars

import keras
from keras import ops

from kerasllm.layers.transformer import Transformer
from kerasllm.losses import OutputLayer, TokenCrossentropy
from kerasllm.metrics import TokenLoss
from kerasllm.models.config import TransformerConfig

# The model whose loss makes the logits itself, chunk by chunk, in the step that is under way.
_chunking_model = contextvars.ContextVar("chunking_model", default=None)


def embedding_initializer(config):
    """Normal; what `scale_embeddings` multiplies then has the variance 1."""
    return keras.initializers.RandomNormal(stddev=config.d_model**-0.5 if config.scale_embeddings else 0.02)


def small_deviation(config):
    """The standard deviation of kernels by Nguyen and Salazar 2019, https://arxiv.org/abs/1910.05895: GPT-2's 0.02 near
    its width, and more for narrower models, which learn where to look sooner."""
    return (2 / (5 * config.d_model)) ** 0.5


class LanguageModel(keras.Model):
    """A `keras.Model` made from a `TransformerConfig`.

    Keras averages a batch's loss over B x T and the batches by rows. This averages over the tokens whose weight is not
    zero, in training and in what `fit` and `evaluate` report, so that padding and uneven batches change nothing.

    Args:
        config: TransformerConfig.
        **kwargs: `name` and `dtype`, as for any Keras layer.
    """

    has_encoder = False

    def __init__(self, config, **kwargs):
        if not isinstance(config, TransformerConfig):
            raise TypeError(f"{type(self).__name__} needs a TransformerConfig, got {type(config).__name__}.")
        if config.num_encoder_layers and not self.has_encoder:
            raise ValueError(
                f"A {type(self).__name__} has no encoder, got num_encoder_layers={config.num_encoder_layers}: that is "
                "for a Seq2SeqLM."
            )
        super().__init__(**kwargs)
        self.config = config
        self._token_loss = TokenLoss()
        self.token_embedding = self._embedding_layer()

    def _embedding_layer(self):
        """The embedding of token ids, which is the output layer too. With `scale_embeddings` it starts small, as it is
        multiplied later."""
        config = self.config
        layer = keras.layers.ReversibleEmbedding(
            config.vocab_size,
            config.d_model,
            tie_weights=config.tie_embeddings,
            embeddings_initializer=embedding_initializer(config),
            reverse_dtype=self.compute_dtype,  # Keras' own choice is float32, in mixed precision too.
            logit_soft_cap=config.logit_soft_cap,
            name="token_embedding",
            dtype=self.dtype_policy,
        )
        layer.supports_masking = True  # It ignores masks; without this Keras warns that it does.
        return layer

    def _transformer(self, name, num_layers, causal, deviation=0.02):
        """A stack of the config's blocks, with kernels of that standard deviation."""
        config = self.config
        return Transformer(
            num_layers,
            config.d_model,
            config.num_heads,
            config.dff,
            causal=causal,
            kernel_initializer=keras.initializers.RandomNormal(stddev=deviation),
            # GPT-2's rule: the residual stream keeps its size, however many layers add to it.
            residual_initializer=keras.initializers.RandomNormal(stddev=deviation * (2 * num_layers) ** -0.5),
            name=name,
            dtype=self.dtype_policy,
            **config.block_options(),
        )

    def _embed(self, token_ids, embedding=None):
        x = (embedding or self.token_embedding)(token_ids)
        return x * self.config.d_model**0.5 if self.config.scale_embeddings else x

    def _head(self, x):
        """Logits of hidden states (B, T, D), or those themselves for a loss that makes the logits chunk by chunk."""
        return x if _chunking_model.get() is self else self._logits(x)

    def _logits(self, x):
        return self.token_embedding(x, reverse=True)

    def _output_layer(self):
        """What `_logits` does, for a loss that does it itself."""
        embedding = self.token_embedding
        weights = embedding.embeddings if embedding.tie_weights else ops.transpose(embedding.reverse_embeddings)
        return OutputLayer(ops.convert_to_tensor(weights), soft_cap=self.config.logit_soft_cap)

    def compile(self, optimizer="adam", loss=None, **kwargs):
        """As `keras.Model.compile`; without a loss, cross-entropy over the weighted tokens."""
        loss = TokenCrossentropy() if loss is None else loss
        if getattr(loss, "chunk_size", None) and (kwargs.get("metrics") or kwargs.get("weighted_metrics")):
            raise ValueError(
                "Metrics need the logits of a whole batch, which a loss with a chunk_size never makes. Leave the "
                "metrics out (the loss and the perplexity are reported anyway), or set chunk_size=None."
            )
        super().compile(optimizer=optimizer, loss=loss, **kwargs)

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if not self._counts_tokens:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        if _chunking_model.get() is self:  # y_pred is what the output layer reads
            sums = self.loss.chunked_sums(y, y_pred, self._output_layer(), sample_weight, training)
        else:
            sums = self.loss.sums(y, y_pred, sample_weight)
        total, nll, weight = sums
        self._token_loss.update_state(nll, weight)
        return sum(self.losses, start=total / ops.maximum(weight, 1e-9))

    def train_step(self, *args):
        with self._chunking():
            return super().train_step(*args)

    def test_step(self, *args):
        with self._chunking():
            return super().test_step(*args)

    @contextlib.contextmanager
    def _chunking(self):
        token = _chunking_model.set(self if self._counts_tokens and self.loss.chunk_size else None)
        try:
            yield
        finally:
            _chunking_model.reset(token)

    @property
    def metrics(self):
        """Keras' metrics; the loss over tokens takes the place of its mean over rows when our loss is used."""
        return [metric for metric in super().metrics if metric is not self._token_loss or self._counts_tokens]

    @property
    def _counts_tokens(self):
        return self.compiled and isinstance(self.loss, TokenCrossentropy)

    def get_config(self):
        dtype = keras.dtype_policies.serialize(self.dtype_policy)
        return {"name": self.name, "dtype": dtype, "config": self.config.to_dict()}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        return cls(TransformerConfig.from_dict(config.pop("config")), **config)
