"""Cross-entropy that counts tokens.

Shapes: B batch, T time, V vocab.
"""

import keras
from keras import ops

from kerasllm import backend


@keras.saving.register_keras_serializable("kerasllm")
class TokenCrossentropy(keras.losses.Loss):
    """The mean negative log-likelihood of the labels over the tokens that count, in nats.

    Keras' `SparseCategoricalCrossentropy` divides by B x T, padding included; this divides by the sum of the weights.

    Args:
        label_smoothing: float in [0, 1), the share of probability that the target gives to all tokens alike
            (https://arxiv.org/abs/1512.00567).

    Call arguments:
        y_true: int (B, T), labels.
        y_pred: float (B, T, V), logits.
        sample_weight: float (B, T) or None, 0 where nothing is to be learned.

    Returns:
        float scalar.

    Example:
        >>> loss = kerasllm.losses.TokenCrossentropy()
        >>> float(loss(np.array([[1, 0]]), np.zeros((1, 2, 4)), np.array([[1.0, 0.0]])))  # log(4), one token
        1.3862943649291992
    """

    def __init__(self, label_smoothing=0.0, name="token_crossentropy"):
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"`label_smoothing` must be at least 0 and less than 1, got {label_smoothing}.")
        super().__init__(name=name, reduction="mean_with_sample_weight", dtype="float32")
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        return _nll(ops.cast(y_true, "int32"), y_pred, self.label_smoothing)

    def sum_and_weight(self, y_true, y_pred, sample_weight=None):
        """The loss before the division: its weighted sum over tokens, and the sum of the weights."""
        nll = self.call(y_true, y_pred)
        weight = ops.ones_like(nll) if sample_weight is None else ops.cast(sample_weight, "float32")
        weight = ops.broadcast_to(weight if len(weight.shape) == 2 else weight[:, None], ops.shape(nll))
        return ops.sum(nll * weight), ops.sum(weight)

    def get_config(self):
        return {"name": self.name, "label_smoothing": self.label_smoothing}


def _nll(labels, logits, smoothing):
    """Negative log-likelihood of each token, (B, T) float32.

    The gradient is the softmax less the target, made of the exponentials that the forward pass needed anyway: a third
    of the passes over (B, T, V) that differentiating step by step takes.
    """

    @ops.custom_gradient
    def nll_of(logits):
        shifted = ops.cast(logits, "float32")
        shifted = shifted - ops.max(shifted, axis=-1, keepdims=True)
        exponentials = ops.exp(shifted)
        total = ops.sum(exponentials, axis=-1)
        of_label = ops.take_along_axis(shifted, labels[..., None], axis=-1)[..., 0]
        nll = ops.log(total) - (1 - smoothing) * of_label
        if smoothing:
            nll = nll - smoothing * ops.mean(shifted, axis=-1)

        def gradient(upstream):
            result = exponentials * (upstream / total)[..., None]
            if smoothing:
                result = result - (smoothing / logits.shape[-1] * upstream)[..., None]
            result = backend.add_at(result, labels, (smoothing - 1) * upstream)
            return ops.cast(result, logits.dtype)

        return nll, gradient

    return nll_of(logits)
