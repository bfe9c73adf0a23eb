"""Steps that see no more of an example than a clipped gradient, as differential privacy asks for.

Shapes: B batch, T time.
"""

from keras import ops

from kerasllm import backend
from kerasllm.losses.items import ItemLoss
from kerasllm.training.scoring_model import ScoringModel


class ExampleModel(ScoringModel):
    """A model that takes examples, the rows of a batch, one by one where its optimizer asks for it.

    Subclasses have what `TokenModel` asks for.
    """

    @property
    def _learns_by_example(self):
        """Whether the optimizer is a `privacy.DPAdamW`, or like it: with `clip_norm` and `taking_clipped_sums`."""
        return hasattr(self.optimizer, "taking_clipped_sums")

    def _check_learns_by_example(self, metrics):
        """Refuses what would let an example act on more than its own clipped gradient."""
        if not self._learns_by_example:
            return
        kind, loss = type(self.optimizer).__name__, self.loss
        if not isinstance(loss, ItemLoss) or loss.nested or loss.rows_per_item > 1:
            raise ValueError(
                f"{kind} clips the gradients of single rows, and {type(loss).__name__} is none of the losses that are "
                "a mean over tokens or sequences, each by itself: take kerasllm.losses.TokenCrossentropy, or one of "
                "your own made from kerasllm.losses.LogProbabilityLoss."
            )
        if metrics:
            raise ValueError(f"{kind} takes examples one by one, and metrics need a whole batch: leave them out.")

    def _train_by_example(self, data):
        (x, y, weight), is_bad = self._unpacked(data, training=True)
        counts = ops.cast(weight != 0, "float32")
        rows = ops.shape(weight)[0]

        def loss_and_reported(example):
            *example, counts = example
            sums = self._sums(*example, training=True)
            items = ops.maximum(self.loss.count(counts), 1e-9)  # not weights, by which a rare label may count more
            return self._share_of_mean(sums, items, is_bad), sums.reported

        last = ops.max(ops.where(ops.any(counts > 0, axis=1), ops.arange(1, rows + 1), 0))
        how = self.optimizer.clip_norm, last, max(1, rows // self._micro_batches)
        variables, state = self.trainable_variables, self.non_trainable_variables
        reported, sums = backend.clipped_sums(loss_and_reported, variables, state, (x, y, weight, counts), *how)
        self._mean_loss.update_state(reported, self.loss.count(weight), skip_non_finite=True)
        with self.optimizer.taking_clipped_sums(rows):
            backend.apply_gradients(self.optimizer, sums, variables)
        return self.get_metrics_result()
