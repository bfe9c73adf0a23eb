"""The loss by which a model learns how good texts are, from pairs of which one is preferred."""

import keras
from keras import ops

from kerasllm.losses.items import ItemLoss, Sums


@keras.saving.register_keras_serializable("kerasllm")
class BradleyTerry(ItemLoss):
    """The preferred text of a pair is to have the higher reward: -log sigmoid(r+ - r-).

    `fit` reports, as means over pairs: `reward_accuracy`, how often it has, and `reward_margin`, r+ - r-.

    Args:
        name: str.

    Call arguments:
        y_true: anything; nothing of it is read. Which text is preferred, its place says.
        y_pred: float (2 B, 1) or (2 B,), rewards; preferred texts in the first, third … row, the others below.
        sample_weight: float (2 B, T) or None. A pair counts as much as the weightiest of its tokens.

    Returns:
        float scalar, the mean over pairs.

    Example:
        >>> loss = kerasllm.losses.BradleyTerry()
        >>> float(loss(None, np.array([[1.0], [0.0]])))  # log(1 + 1 / e)
        0.31326165795326233

    Reference: Bradley and Terry 1952; Ouyang et al. 2022, section 3.5, https://arxiv.org/abs/2203.02155
    """

    mean_over = "pairs"
    nested = True
    measures = ("reward_accuracy", "reward_margin")

    def __init__(self, name="bradley_terry"):
        super().__init__(name)

    def __call__(self, y_true, y_pred, sample_weight=None):
        sums = self.sums(y_true, ops.convert_to_tensor(y_pred), sample_weight)
        return sums.total / ops.maximum(sums.count, 1e-9)

    def unnested(self, x, y_true, sample_weight, summed):
        if isinstance(y_true, dict) and "desired" in y_true:
            raise ValueError(
                "BradleyTerry learns from pairs of answers, {prompt, chosen, rejected}, and got single ones with "
                "labels."
            )
        return super().unnested(x, y_true, sample_weight, summed)

    def targets(self, y_true, sample_weight, outputs):
        """`y_true` as it is, and weights of texts, float32 (2 B, 1)."""
        if sample_weight is None:
            return y_true, ops.ones((ops.shape(outputs)[0], 1))
        weight = ops.cast(sample_weight, "float32")
        return y_true, ops.max(ops.reshape(weight, (ops.shape(weight)[0], -1)), axis=1, keepdims=True)

    def sums(self, y_true, y_pred, sample_weight=None):
        """`Sums` of a batch."""
        rewards = ops.reshape(ops.cast(y_pred, "float32"), (-1, 2))
        _, weight = self.targets(y_true, sample_weight, y_pred)
        item_weight, _ = self._by_item(weight)
        margin = rewards[:, 0] - rewards[:, 1]
        seen = ops.stop_gradient(margin)
        reported = self._summed(ops.softplus(-margin), (ops.cast(seen > 0, "float32"), seen), item_weight)
        return Sums(reported[0], reported, ops.sum(item_weight))

    def get_config(self):
        return {"name": self.name}
