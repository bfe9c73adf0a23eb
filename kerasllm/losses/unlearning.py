"""A loss over documents that are to be forgotten, each beside one that is to be kept.

A row of a data set holds both, (B, 2, T), so that nothing parts them: `kerasllm.data.unlearning_dataset`.

Shapes: B pairs in a batch, T time. Within a step the two texts of a pair stand one below the other, (2 B, T).
"""

import keras
from keras import ops

from kerasllm.losses.preferences import PreferenceLoss, deltas_of, means_of_texts, sums_of_texts


@keras.saving.register_keras_serializable("kerasllm")
class Unlearning(PreferenceLoss):
    """Forgetting: documents become unlikely, while others are learned on.

    By "npo", negative preference optimisation, which is `DPO` with nothing preferred, the loss of a document that is to
    be forgotten is -(2 / beta) log sigmoid(-beta d), where d is its log-probability less that which the reference gives
    it, summed over its tokens: what is forgotten is no longer pushed away. By "gradient_difference" it is the mean
    log-probability of its tokens, which falls without end, so that few steps and a low rate are needed. To either the
    cross-entropy of the document that is to be kept is added, the mean over its tokens.

    `fit` reports `forget_loss` and `retain_loss`, cross-entropies in nats per token. Once the first is that of text
    that the model never read, it should go no further: text that is less likely than any other tells that it was there.

    The reference is the model as it was, whose log-probabilities come with the data
    (`unlearning_dataset(reference=model)`), or of a model with adapters from itself, with its adapters off.

    Args:
        beta: float, of "npo". As it goes to 0, documents are pushed away without end.
        variant: "npo" or "gradient_difference".
        retain_weight: float, at least 0, what the documents that are to be kept count.
        chunk_size, name: see `DPO`.

    Call arguments:
        y_true: dict of "labels", int (2 B, T), and by "npo" "reference_log_probs", float (2 B, T); documents that are
            to be kept in the first, third … row, those to be forgotten below. Data sets give (B, 2, T).
        y_pred: float (2 B, T, V), logits.
        sample_weight: float (2 B, T), 1 on the tokens of documents.

    Returns:
        float scalar, the mean over pairs.

    Raises:
        ValueError: for a beta that is not above 0, another variant, a weight below 0, or data without pairs.

    Example:
        >>> model.compile(kerasllm.optimizers.AdamW(1e-4), loss=kerasllm.losses.Unlearning(beta=0.1))

    Reference: Zhang et al. 2024, https://arxiv.org/abs/2404.05868; gradient difference: Liu et al. 2022,
    https://arxiv.org/abs/2203.12817, as in Maini et al. 2024, https://arxiv.org/abs/2401.06121
    """

    variants = ("npo", "gradient_difference")
    measures = ("forget_loss", "retain_loss")

    def __init__(self, beta=0.1, variant="npo", retain_weight=1.0, chunk_size=256, name="unlearning"):
        super().__init__(beta, chunk_size, name)
        if variant not in self.variants:
            raise ValueError(f"`variant` must be one of {', '.join(self.variants)}, got {variant!r}.")
        if not retain_weight >= 0:
            raise ValueError(f"`retain_weight` must be at least 0, got {retain_weight!r}.")
        self.variant, self.retain_weight = variant, retain_weight

    @property
    def reads_reference(self):
        return self.variant == "npo"

    def item_losses(self, log_probs, weight, y_true):
        forget_loss, retain_loss = self.item_measures(log_probs, weight, y_true)
        if self.variant == "npo":
            change = sums_of_texts(deltas_of(log_probs, y_true), weight)[1::2]
            forgetting = 2 / self.beta * ops.softplus(self.beta * change)
        else:
            forgetting = -forget_loss
        return forgetting + self.retain_weight * retain_loss

    def item_measures(self, log_probs, weight, y_true):
        losses = -means_of_texts(log_probs, weight)
        return losses[1::2], losses[0::2]

    def get_config(self):
        return {**super().get_config(), "variant": self.variant, "retain_weight": self.retain_weight}
