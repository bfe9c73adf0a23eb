"""Losses over the vectors of texts, or of pictures and texts, that belong together."""

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


class _Matching(keras.losses.Loss):
    """A loss over how well each picture of a batch goes with each text."""

    def call(self, y_true, y_pred):
        logits, number = ops.cast(y_pred, "float32"), ops.reshape(y_true, (-1,))
        return self._losses(logits, number[:, None] == number[None])


@keras.saving.register_keras_serializable("kerasllm")
class MatchingSoftmax(_Matching):
    """CLIP's loss: of all texts of the batch that of a picture is to be the likeliest, and of all pictures a text's.

    Args:
        name: str.

    Call arguments:
        y_true: int (B,), a number for each pair. Those of one number are no negatives of each other, such as pictures
            of the same name.
        y_pred: float (B, B), how well pictures, the rows, go with texts: logits, as a `ContrastiveModel` gives.

    Returns:
        float scalar, the mean over pairs, in nats.

    Example:
        >>> loss = kerasllm.losses.MatchingSoftmax()
        >>> float(loss(np.array([0, 1]), np.array([[1.0, 0.0], [0.0, 1.0]])))  # log(1 + 1 / e)
        0.31326162815093994

    Reference: Radford et al. 2021, https://arxiv.org/abs/2103.00020
    """

    def __init__(self, name="matching_softmax", **kwargs):
        super().__init__(name=name, **kwargs)

    def _losses(self, logits, are_same):
        own = ops.eye(ops.shape(logits)[0], dtype="bool")
        logits = ops.where(ops.logical_and(are_same, ops.logical_not(own)), -1e9, logits)
        return (_of_diagonal(logits) + _of_diagonal(ops.transpose(logits))) / 2


@keras.saving.register_keras_serializable("kerasllm")
class MatchingSigmoid(_Matching):
    """SigLIP's loss: each picture and each text of the batch belong together, or do not, whatever the others are.

    Args:
        name: str.

    Call arguments:
        y_true, y_pred: see `MatchingSoftmax`; all pairs of one number belong together.

    Returns:
        float scalar: the sum over the texts of the batch, and the mean over its pictures, in nats.

    Example:
        >>> loss = kerasllm.losses.MatchingSigmoid()
        >>> float(loss(np.array([0, 1]), np.zeros((2, 2))))  # 2 log 2
        1.3862943649291992

    Reference: Zhai et al. 2023, https://arxiv.org/abs/2303.15343
    """

    def __init__(self, name="matching_sigmoid", **kwargs):
        super().__init__(name=name, **kwargs)

    def _losses(self, logits, are_same):
        return -ops.sum(ops.log_sigmoid(ops.where(are_same, logits, -logits)), axis=-1)
