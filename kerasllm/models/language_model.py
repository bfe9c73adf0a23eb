"""What all our language models share: a config, and a loss that counts tokens."""

import keras
from keras import ops

from kerasllm.losses import TokenCrossentropy
from kerasllm.metrics import TokenLoss
from kerasllm.models.config import TransformerConfig


class LanguageModel(keras.Model):
    """A `keras.Model` made from a `TransformerConfig`.

    Keras averages a batch's loss over B x T and the batches by rows. This averages over the tokens whose weight is not
    zero, in training and in what `fit` and `evaluate` report, so that padding and uneven batches change nothing.

    Args:
        config: TransformerConfig.
        **kwargs: `name` and `dtype`, as for any Keras layer.
    """

    def __init__(self, config, **kwargs):
        if not isinstance(config, TransformerConfig):
            raise TypeError(f"{type(self).__name__} needs a TransformerConfig, got {type(config).__name__}.")
        super().__init__(**kwargs)
        self.config = config
        self._token_loss = TokenLoss()

    def compile(self, optimizer="adam", loss=None, **kwargs):
        """As `keras.Model.compile`; without a loss, cross-entropy over the weighted tokens."""
        super().compile(optimizer=optimizer, loss=TokenCrossentropy() if loss is None else loss, **kwargs)

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if not self._counts_tokens:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        total, weight = self.loss.sum_and_weight(y, y_pred, sample_weight)
        self._token_loss.update_state(total, weight)
        return sum(self.losses, start=total / ops.maximum(weight, 1e-9))

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
