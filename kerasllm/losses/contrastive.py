"""Losses over the vectors of texts that belong together."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("kerasllm")
class InfoNCE(keras.losses.Loss):
    """Each text is to be nearer to the one that it belongs to than to all others of the batch, which are its negatives.

    Rows stand one below the other, the first with the second, the third with the fourth: a question and its answer. The
    loss is the cross-entropy of the second of a pair among the seconds of all, by their cosines over the temperature.
    Larger batches have more negatives, and are worth their memory.

    Args:
        temperature: float. (sentence-transformers' `scale` is its inverse, 20.)
        symmetric: bool. Look from the seconds to the firsts too, and take the mean.
        name: str.

    Call arguments:
        y_true: int (B,), a number for each pair, on both of its rows. Pairs of one number are no negatives of each
            other, such as those with the same answer.
        y_pred: float (B, W), vectors of any length.

    Returns:
        float scalar, the mean over the pairs, in nats.

    Raises:
        ValueError: if the temperature is not above 0.

    Example:
        >>> loss = kerasllm.losses.InfoNCE(temperature=1.0)
        >>> float(loss(np.array([0, 0, 1, 1]), np.array([[1, 0], [1, 0], [0, 1], [0, 1]], "float32")))  # log(1 + 1 / e)
        0.31326162815093994

    Reference: van den Oord et al. 2018, https://arxiv.org/abs/1807.03748; Henderson et al. 2017, section 4.4,
    https://arxiv.org/abs/1705.00652
    """

    def __init__(self, temperature=0.05, symmetric=False, name="info_nce", **kwargs):
        super().__init__(name=name, **kwargs)
        if not temperature > 0:
            raise ValueError(f"`temperature` must be above 0, got {temperature!r}.")
        self.temperature = temperature
        self.symmetric = symmetric

    def call(self, y_true, y_pred):
        vectors = ops.normalize(ops.cast(y_pred, "float32"), axis=-1)
        scores = ops.matmul(vectors[0::2], ops.transpose(vectors[1::2])) / self.temperature
        number = ops.reshape(y_true, (-1,))[0::2]
        B = ops.shape(scores)[0]
        is_same = ops.logical_and(number[:, None] == number[None], ops.logical_not(ops.eye(B, dtype="bool")))
        scores = ops.where(is_same, -1e9, scores)
        losses = _of_diagonal(scores)
        return (losses + _of_diagonal(ops.transpose(scores))) / 2 if self.symmetric else losses

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature, "symmetric": self.symmetric}


def _of_diagonal(scores):
    """The cross-entropy of each row's own column, (B,)."""
    return ops.logsumexp(scores, axis=-1) - ops.diagonal(scores)
