"""What a loss is a mean over: tokens, texts or pairs of them, however a batch is cut.

Shapes: B batch, T time, M measures.
"""

from typing import NamedTuple

import keras
from keras import ops

_ROWS = {"tokens": 1, "sequences": 1, "pairs": 2}  # what a loss may be a mean over: rows that belong together


class Sums(NamedTuple):
    """What the mean of a loss is made of, in float32.

    Attributes:
        total: scalar, the weighted sum of the loss, of which the gradient is made.
        reported: the same without label smoothing, so that runs with more and less of it can be compared; of a loss
            that has `measures`, (1 + M,): this and their weighted sums.
        count: scalar, the sum of the weights.
    """

    total: object
    reported: object
    count: object


class ItemLoss(keras.losses.Loss):
    """A loss that says what it is a mean over, which our models then take in parts to the same update.

    Class attributes:
        mean_over: "tokens", "sequences" or "pairs", see `LogProbabilityLoss`.
        reports_perplexity: bool, whether the exponential of the loss is one.
        measures: tuple of str, what is reported beside the loss, means over the same.
        nested: bool. A row of a data set holds several texts, (B, N, T), which `unnested` brings into rows of a batch.
    """

    mean_over = "tokens"
    reports_perplexity = False
    measures = ()
    nested = False
    chunk_size = ignore_class = None

    def __init__(self, name=None):
        if self.mean_over not in _ROWS:
            raise ValueError(
                f"A loss is a mean over one of {', '.join(_ROWS)}, got mean_over={self.mean_over!r} in "
                f"{type(self).__name__}."
            )
        super().__init__(name=name, reduction="mean_with_sample_weight", dtype="float32")

    @property
    def rows_per_item(self):
        """Rows of a batch that belong together."""
        return _ROWS[self.mean_over]

    def unnested(self, x, y_true, sample_weight, summed):
        """A batch of a data set as rows of texts, neighbours those that belong together, with what else the loss reads
        of a whole batch.

        Args:
            x, y_true, sample_weight: what the data set gives, nested tensors of (B, N, …).
            summed: function (function, batch) -> float32 scalar, which adds up what the other one makes of (x, y_true,
                sample_weight), without a gradient: part by part, as the training step takes a batch.

        Returns:
            The same as (B N, …).
        """
        return keras.tree.map_structure(as_rows_of_texts, (x, y_true, sample_weight))

    def completed(self, model, x, y_true, sample_weight):
        """`y_true` with what the loss reads and no data set gives, such as what another model makes of `x`."""
        return y_true

    def count(self, weight):
        """What the mean is divided by, float32 scalar, for weights from `targets`."""
        return ops.sum(self._by_item(weight)[0])

    def _by_item(self, weight):
        """Weights of items, and of tokens (B, T) within them."""
        if self.mean_over == "tokens":
            return weight, ops.cast(weight != 0, "float32")
        n, shape = self.rows_per_item, ops.shape(weight)
        if isinstance(shape[0], int) and shape[0] % n:
            raise ValueError(
                f"{type(self).__name__} is a mean over pairs, rows that stand one below the other, and got a batch of "
                f"{shape[0]} rows: choose a batch size that is a multiple of {n}."
            )
        weight = ops.reshape(weight, (-1, n * shape[1]))
        item_weight = ops.max(weight, axis=1)
        # What does not count at all has weights of 1 inside, so that means over its tokens are numbers too.
        counts = (item_weight > 0)[:, None]
        weight = ops.where(counts, weight / ops.where(counts, item_weight[:, None], 1.0), 1.0)
        return item_weight, ops.reshape(weight, shape)

    def _summed(self, losses, measures, item_weight):
        """The weighted sum of losses of items, (items,) or (B, T), as `Sums.reported` has it."""
        if not self.measures:
            return ops.sum(losses * item_weight)
        return ops.stack([ops.sum(values * item_weight) for values in (losses, *measures)])


def as_rows_of_texts(tensor):
    """(B, N, …) -> (B N, …)."""
    shape = ops.shape(tensor)
    return ops.reshape(tensor, (-1, *shape[2:]))
