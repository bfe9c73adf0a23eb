"""Cross-entropy that counts tokens."""

import keras
from keras import ops

from kerasllm.losses.base import LogProbabilityLoss, Sums
from kerasllm.losses.likelihood import chunked_weighted_sums
from kerasllm.losses.targets import labels_of
from kerasllm.vocabulary import within


@keras.saving.register_keras_serializable("kerasllm")
class TokenCrossentropy(LogProbabilityLoss):
    """The mean negative log-likelihood of the labels over the tokens that count, in nats.

    Keras' `SparseCategoricalCrossentropy` divides by B x T, padding included; this divides by the sum of the weights.

    Args:
        label_smoothing: float in [0, 1), the share of probability that the target gives to all tokens alike
            (https://arxiv.org/abs/1512.00567).
        chunk_size: int or None. Our models then make the logits of so many tokens at a time, with their gradient, and
            never hold those of all, which for a large vocabulary take most of the memory of training. The numbers are
            the same. Metrics that need logits cannot be compiled beside it.
        ignore_class: int or None, the label of tokens that nothing is to be learned of, besides those of weight 0.

    Call arguments:
        y_true: int (B, T) or (B, T, 1), labels.
        y_pred: float (B, T, V), logits.
        sample_weight: float (B, T), or (B,) for whole rows, or None; 0 where nothing is to be learned.

    Returns:
        float scalar.

    Raises:
        ValueError: if `label_smoothing`, `chunk_size` or `ignore_class` is out of range. Outside of a graph also for a
            label that is neither in the vocabulary nor ignored. Our models say in every mode which one it is; with
            another model TensorFlow's own error holds this sentence, or the loss is not a number where XLA compiles.

    Example:
        >>> loss = kerasllm.losses.TokenCrossentropy()
        >>> float(loss(np.array([[1, 0]]), np.zeros((1, 2, 4)), np.array([[1.0, 0.0]])))  # log(4), one token
        1.3862943649291992
    """

    reports_perplexity = True

    def __init__(self, label_smoothing=0.0, chunk_size=None, ignore_class=-100, name="token_crossentropy"):
        super().__init__(label_smoothing, chunk_size, ignore_class, name)

    def item_losses(self, log_probs, weight, y_true):
        return -log_probs

    def chunked_sums(self, y_true, hidden, output_layer, sample_weight=None, training=True):
        y_true, weight = self.targets(y_true, sample_weight, hidden)
        labels = within(labels_of(y_true), output_layer.weights.shape[0])
        sums = chunked_weighted_sums(
            labels, weight, hidden, output_layer, self.chunk_size, self.label_smoothing, training
        )
        return Sums(-sums[0], -sums[1], ops.sum(weight))
