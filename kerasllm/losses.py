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
        return self._loss_and_nll(y_true, y_pred)[0]

    def sums(self, y_true, y_pred, sample_weight=None):
        """What the mean is made of: the weighted sum of the loss, that of the negative log-likelihood (the same without
        label smoothing), and the sum of the weights."""
        loss, nll = self._loss_and_nll(y_true, y_pred)
        weight = ops.ones_like(nll) if sample_weight is None else ops.cast(sample_weight, "float32")
        weight = ops.broadcast_to(weight if len(weight.shape) == 2 else weight[:, None], ops.shape(nll))
        return ops.sum(loss * weight), ops.sum(nll * weight), ops.sum(weight)

    def _loss_and_nll(self, y_true, y_pred):
        smoothing = self.label_smoothing
        losses = _crossentropies(ops.cast(y_true, "int32"), y_pred, with_uniform=smoothing > 0)
        if not smoothing:
            return losses[0], losses[0]
        return (1 - smoothing) * losses[0] + smoothing * losses[1], losses[0]

    def get_config(self):
        return {"name": self.name, "label_smoothing": self.label_smoothing}


def _crossentropies(labels, logits, with_uniform):
    """The cross-entropy of each token with its label and, where asked, with all tokens alike: float32 (1 or 2, B, T).

    The gradient is the softmax less the target, made of the exponentials that the forward pass needed anyway: a third
    of the passes over (B, T, V) that differentiating step by step takes.
    """

    @ops.custom_gradient
    def crossentropies(logits):
        shifted = ops.cast(logits, "float32")
        shifted = shifted - ops.max(shifted, axis=-1, keepdims=True)
        exponentials = ops.exp(shifted)
        total = ops.sum(exponentials, axis=-1)
        targets = [ops.take_along_axis(shifted, labels[..., None], axis=-1)[..., 0]]
        if with_uniform:
            targets.append(ops.mean(shifted, axis=-1))

        def gradient(upstream):
            result = exponentials * (ops.sum(upstream, axis=0) / total)[..., None]
            if with_uniform:
                result = result - (upstream[1] / logits.shape[-1])[..., None]
            return ops.cast(backend.add_at(result, labels, -upstream[0]), logits.dtype)

        return ops.log(total)[None] - ops.stack(targets), gradient

    return crossentropies(logits)
