"""Metrics that count tokens.

Shapes: B batch, T time, V vocab.
"""

import keras
from keras import ops

from kerasllm import backend
from kerasllm.losses.targets import targets
from kerasllm.vocabulary import check_ids, is_outside, within

__all__ = ["Perplexity", "TokenLoss"]


def __dir__():  # what completion shows
    return __all__


@keras.saving.register_keras_serializable("kerasllm")
class Perplexity(keras.metrics.Mean):
    """The exponential of the mean negative log-likelihood per token.

    Give it to `compile(weighted_metrics=[...])`: Keras ignores sample weights in `metrics=`.

    Args:
        ignore_class: int or None, the label of tokens that do not count.

    Call arguments of `update_state`:
        y_true: int (B, T) or (B, T, 1), labels.
        y_pred: float (B, T, V), logits.
        sample_weight: float (B, T), or (B,) for whole rows, or None; 0 for tokens that do not count.

    Example:
        >>> metric = kerasllm.metrics.Perplexity()
        >>> metric.update_state(np.array([[1, 0]]), np.zeros((1, 2, 4)))
        >>> round(float(metric.result()), 4)
        4.0
    """

    def __init__(self, name="perplexity", dtype=None, ignore_class=-100):
        super().__init__(name=name, dtype=dtype)
        self.ignore_class = ignore_class

    def update_state(self, y_true, y_pred, sample_weight=None):
        labels, weight = targets(y_true, sample_weight, y_pred, self.ignore_class)
        V = y_pred.shape[-1]
        check_ids(backend.known(labels), V, "label", self.ignore_class)
        nll = ops.sparse_categorical_crossentropy(within(labels, V), ops.cast(y_pred, "float32"), from_logits=True)
        return super().update_state(ops.where(is_outside(labels, V), float("nan"), nll), weight)

    def result(self):
        return ops.exp(super().result())

    def get_config(self):
        return {**super().get_config(), "ignore_class": self.ignore_class}


@keras.saving.register_keras_serializable("kerasllm")
class TokenLoss(keras.metrics.Metric):
    """What our models report: the mean loss per token of all batches, as "loss", and "perplexity"; per sequence or per
    pair, where the loss is a mean over those.

    Keras averages batch losses by rows, which weighs tokens unequally when batches hold different numbers of them.
    Label smoothing is left out, so that runs with more and less of it can be compared.

    Args:
        with_perplexity: bool. False reports the loss alone.

    Call arguments of `update_state`:
        total: float scalar, the sum of a batch's losses, such as negative log-likelihoods; with measures, see `report`,
            a vector (1 + M,) of it and their sums.
        weight: float scalar, the number of tokens, sequences or pairs in it.
        skip_non_finite: bool, whether to leave out a batch whose total is not finite, as the optimizer does. Where
            there is nothing else, the loss is not a number.
    """

    def __init__(self, name="token_loss", dtype=None, with_perplexity=True):
        super().__init__(name=name, dtype=dtype)
        self.with_perplexity = with_perplexity
        self.total = self.add_variable(shape=(), initializer="zeros", name="total")
        self.weight = self.add_variable(shape=(), initializer="zeros", name="weight")
        self.measures, self.measured = (), None

    def report(self, with_perplexity, measures=()):
        """Says what is to be reported beside the loss: its perplexity, and M means of that name over the same."""
        self.with_perplexity, self.measures = with_perplexity, tuple(measures)
        self.measured = self.add_variable((len(measures),), initializer="zeros", name="measured") if measures else None

    def update_state(self, total, weight, skip_non_finite=False):
        values = [(self.total, total), (self.weight, weight)]
        if self.measures:
            total, measured = total[0], total[1:]
            values = [(self.total, total), (self.weight, weight), (self.measured, measured)]
        if not skip_non_finite:
            for variable, value in values:
                variable.assign_add(value)
            return
        had_any = ops.isfinite(self.total) & (self.weight > 0)
        counts = ops.isfinite(total) | ops.logical_not(had_any)
        for variable, value in values:
            before = ops.where(had_any, variable.value, 0.0)
            variable.assign(before + ops.where(counts, value, 0.0))

    def result(self):
        loss = ops.divide_no_nan(ops.convert_to_tensor(self.total), ops.convert_to_tensor(self.weight))
        found = {"loss": loss, "perplexity": ops.exp(loss)} if self.with_perplexity else {"loss": loss}
        if self.measures:
            means = ops.divide_no_nan(ops.convert_to_tensor(self.measured), ops.convert_to_tensor(self.weight))
            found |= {name: means[i] for i, name in enumerate(self.measures)}
        return found

    def get_config(self):
        return {**super().get_config(), "with_perplexity": self.with_perplexity}
