"""Losses over answers that were preferred to others, by what a policy says of them and, for most, a reference said.

A row of a data set holds both answers, (B, 2, T), so that nothing parts them: `kerasllm.data.preference_dataset`.
Deltas are log-probabilities of the model less those of the reference.

Shapes: B pairs in a batch, T time. Within a step the two texts of a pair stand one below the other, (2 B, T).
"""

import keras
from keras import ops

from kerasllm import backend
from kerasllm.losses.base import LogProbabilityLoss
from kerasllm.losses.targets import as_rows, labels_of

REFERENCE = "reference_log_probs"


class PreferenceLoss(LogProbabilityLoss):
    """What losses over pairs share. A subclass says the implied reward of a text and the loss of a pair of rewards.

    Args:
        beta: float, what rewards are multiplied by.
        chunk_size: int or None, see `TokenCrossentropy`. Logits are made of the answers alone.
    """

    mean_over = "pairs"
    nested = True
    reads_reference = True
    measures = ("reward_accuracy", "reward_margin", "chosen_change", "kl")

    def __init__(self, beta, chunk_size=256, name=None):
        super().__init__(0.0, chunk_size, name=name)
        if not beta > 0:
            raise ValueError(f"`beta` must be above 0, got {beta!r}.")
        self.beta = beta

    def pair_losses(self, chosen, rejected):
        """The loss of pairs, (B,), by the rewards of both."""
        raise NotImplementedError(f"{type(self).__name__} must define `pair_losses(chosen, rejected)`.")

    def rewards(self, log_probs, weight, y_true):
        """The implied reward of each text, (2 B,)."""
        return self.beta * sums_of_texts(deltas_of(log_probs, y_true), weight)

    def unnested(self, x, y_true, sample_weight, summed):
        if "desired" in y_true:
            raise ValueError(
                f"{type(self).__name__} learns from pairs of answers, {{prompt, chosen, rejected}}, and got single "
                "ones with labels, which are for kerasllm.losses.KTO."
            )
        return super().unnested(x, y_true, sample_weight, summed)

    def completed(self, model, x, y_true, sample_weight):
        if not self.reads_reference or REFERENCE in y_true:
            return y_true
        return {**y_true, REFERENCE: model.log_probabilities(x, labels_of(y_true), sample_weight, of_reference=True)}

    def read_tokens(self, y_true, weight):
        return weight

    def item_losses(self, log_probs, weight, y_true):
        rewards = self.rewards(log_probs, weight, y_true)
        return self.pair_losses(rewards[0::2], rewards[1::2])

    def item_measures(self, log_probs, weight, y_true):
        rewards = self.rewards(log_probs, weight, y_true)
        margin = rewards[0::2] - rewards[1::2]
        deltas = deltas_of(log_probs, y_true)
        kl = means_of_texts(_divergence(deltas), weight)
        return ops.cast(margin > 0, "float32"), margin, sums_of_texts(deltas, weight)[0::2], (kl[0::2] + kl[1::2]) / 2

    def get_config(self):
        return {"name": self.name, "beta": self.beta, "chunk_size": self.chunk_size}


@keras.saving.register_keras_serializable("kerasllm")
class DPO(PreferenceLoss):
    """Direct preference optimisation: the preferred answer is to gain more on the reference than the other one.

    The loss of a pair is -log sigmoid(beta (d+ - d-)), where d is the log-probability of an answer less that which the
    reference gives it, summed over its tokens. By "ipo" it is ((d+ - d-) - 1 / (2 beta))^2, of means over tokens.

    `fit` reports, as means over pairs: `reward_accuracy`, how often the implied reward, beta d, is higher for the
    preferred answer; `reward_margin`, by how much; `chosen_change`, d+, which falls where a model learns to say neither
    answer; and `kl`, an estimate of the divergence from the reference, half the mean square of the difference of
    log-probabilities, in nats per token of the answers.

    The reference's log-probabilities come with the data (`preference_dataset(reference=model)`), or of a model with
    adapters from itself, with its adapters off.

    Args:
        beta: float. Higher stays nearer to the reference.
        variant: "sigmoid", or "ipo", which does not go on widening a margin that is wide enough.
        chunk_size: int or None, see `TokenCrossentropy`.
        name: str.

    Call arguments:
        y_true: dict of "labels", int (2 B, T), and "reference_log_probs", float (2 B, T); preferred answers in the
            first, third … row, what they were preferred to below. Data sets give (B, 2, T).
        y_pred: float (2 B, T, V), logits.
        sample_weight: float (2 B, T), 1 on the tokens of answers.

    Returns:
        float scalar, the mean over pairs.

    Raises:
        ValueError: for a beta that is not above 0, another variant, or data without pairs.

    Example:
        >>> model.compile(kerasllm.optimizers.AdamW(1e-6), loss=kerasllm.losses.DPO(beta=0.1))

    Reference: Rafailov et al. 2023, https://arxiv.org/abs/2305.18290; IPO: Azar et al. 2023,
    https://arxiv.org/abs/2310.12036
    """

    variants = ("sigmoid", "ipo")

    def __init__(self, beta=0.1, variant="sigmoid", chunk_size=256, name="dpo"):
        super().__init__(beta, chunk_size, name)
        if variant not in self.variants:
            raise ValueError(f"`variant` must be one of {', '.join(self.variants)}, got {variant!r}.")
        self.variant = variant

    def rewards(self, log_probs, weight, y_true):
        over_tokens = means_of_texts if self.variant == "ipo" else sums_of_texts
        return self.beta * over_tokens(deltas_of(log_probs, y_true), weight)

    def pair_losses(self, chosen, rejected):
        if self.variant == "ipo":
            return ops.square((chosen - rejected) / self.beta - 1 / (2 * self.beta))
        return ops.softplus(rejected - chosen)

    def get_config(self):
        return {**super().get_config(), "variant": self.variant}


@keras.saving.register_keras_serializable("kerasllm")
class SimPO(PreferenceLoss):
    """Preference by the mean log-probability of answers, without a reference: -log sigmoid(beta (m+ - m-) - gamma).

    `fit` reports `reward_accuracy` and `reward_margin`, of the implied reward beta m, and `chosen_log_prob`, m+.

    Args:
        beta: float, what mean log-probabilities are multiplied by.
        gamma: float, the margin of rewards that is aimed at.
        chunk_size, name: see `DPO`.

    Call arguments, Returns and Raises: see `DPO`; "reference_log_probs" are not read.

    Example:
        >>> model.compile(loss=kerasllm.losses.SimPO(beta=2.0, gamma=1.0))

    Reference: Meng et al. 2024, https://arxiv.org/abs/2405.14734
    """

    reads_reference = False
    measures = ("reward_accuracy", "reward_margin", "chosen_log_prob")

    def __init__(self, beta=0.1, gamma=0.5, chunk_size=256, name="simpo"):
        super().__init__(beta, chunk_size, name)
        self.gamma = gamma

    def rewards(self, log_probs, weight, y_true):
        return self.beta * means_of_texts(log_probs, weight)

    def pair_losses(self, chosen, rejected):
        return ops.softplus(rejected - chosen + self.gamma)

    def item_measures(self, log_probs, weight, y_true):
        chosen, rejected = (means_of_texts(log_probs, weight)[first::2] for first in (0, 1))
        return ops.cast(chosen > rejected, "float32"), self.beta * (chosen - rejected), chosen

    def get_config(self):
        return {**super().get_config(), "gamma": self.gamma}


@keras.saving.register_keras_serializable("kerasllm")
class ORPO(SimPO):
    """Fine-tuning on the preferred answer, and odds against the other one, in one loss and without a reference.

    The loss is the cross-entropy of the preferred answer and its prompt, over their tokens, less
    beta log sigmoid(log of the ratio of the odds p / (1 - p)), where log p is the mean log-probability of an answer.

    `fit` reports the same as of `SimPO`.

    Args:
        beta: float, what the odds count (lambda in the paper).
        chunk_size, name: see `DPO`.

    Call arguments, Returns and Raises: see `DPO`; "reference_log_probs" are not read, and the labels of prompts are,
    -100 where a row is padding.

    Example:
        >>> model.compile(loss=kerasllm.losses.ORPO(beta=0.1))

    Reference: Hong et al. 2024, https://arxiv.org/abs/2403.07691
    """

    def __init__(self, beta=0.1, chunk_size=256, name="orpo"):
        PreferenceLoss.__init__(self, beta, chunk_size, name)

    def targets(self, y_true, sample_weight, outputs):
        """Labels of prompts too, and as "is_text" which of them are of a text."""
        found, weight = super().targets(y_true, sample_weight, outputs)
        if "is_text" not in y_true:
            labels = as_rows(labels_of(y_true), outputs)
            is_text = labels != self.ignore_class
            y_true = {**y_true, "labels": ops.where(is_text, labels, 0), "is_text": ops.cast(is_text, "float32")}
        return {**found, "labels": y_true["labels"], "is_text": y_true["is_text"]}, weight

    def unnested(self, x, y_true, sample_weight, summed):
        x, y_true, sample_weight = super().unnested(x, y_true, sample_weight, summed)
        return x, {**y_true, "pairs_per_token": self._pairs_per_token(y_true, sample_weight)}, sample_weight

    def read_tokens(self, y_true, weight):
        chosen = ops.cast(ops.arange(ops.shape(weight)[0]) % 2 == 0, "float32")[:, None]
        return weight + y_true["is_text"] * chosen

    def item_losses(self, log_probs, weight, y_true):
        share = y_true.get("pairs_per_token")
        if share is None:  # of a whole batch
            share = self._pairs_per_token({"labels": ops.where(y_true["is_text"] > 0, 0, self.ignore_class)}, weight)
        nll = -sums_of_texts(log_probs, y_true["is_text"])[0::2] * share[0::2]
        means = means_of_texts(log_probs, weight)
        odds = means - ops.log(-ops.expm1(ops.minimum(means, -1e-7)))
        return nll + self.beta * ops.softplus(odds[1::2] - odds[0::2])

    def _pairs_per_token(self, y_true, sample_weight):
        """The number of pairs over that of tokens of preferred answers and their prompts, in a whole batch, (2 B,):
        the mean over those tokens is then one over pairs."""
        counts = ops.cast(ops.max(ops.cast(sample_weight, "float32"), axis=1) > 0, "float32")
        counts = ops.maximum(counts[0::2], counts[1::2])
        tokens = ops.sum(ops.cast(y_true["labels"][0::2] != self.ignore_class, "float32"), axis=1)
        pairs, tokens = backend.sum_over_replicas([ops.sum(counts), ops.sum(counts * tokens)])
        return ops.zeros_like(sample_weight[:, 0]) + pairs / ops.maximum(tokens, 1.0)

    def get_config(self):
        return PreferenceLoss.get_config(self)


@keras.saving.register_keras_serializable("kerasllm")
class KTO(PreferenceLoss):
    """Single answers, each wanted or not, weighed as people weigh gains and losses.

    The loss is 1 - sigmoid(beta (d - z)) of a wanted answer and 1 - sigmoid(beta (z - d)) of another, where d is as for
    `DPO`, and z, by which neither is learned, the mean of d over the batch, at least 0, of answers under the prompts of
    others.

    `fit` reports, as means over answers: `reward_accuracy`, how often beta (d - z) is above 0 for wanted answers and
    below for others; `reward_margin`, how far on that side; `chosen_change`, d of wanted answers; and `kl`, z.

    Args:
        beta, chunk_size, name: see `DPO`.

    Call arguments:
        y_true: dict of "labels", int (B, T); "reference_log_probs", float (B, T); "desired", (B,), 1 or 0; and "kl",
            float (B,), z. Data sets give (B, 2, T), the second text of a row the prompt with the answer to another one,
            and no "kl", which a training step makes of them.
        y_pred, sample_weight: see `DPO`, for (B, T).

    Returns and Raises: see `DPO`.

    Example:
        >>> model.compile(kerasllm.optimizers.AdamW(1e-6), loss=kerasllm.losses.KTO(beta=0.1))

    Reference: Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306
    """

    mean_over = "sequences"

    def __init__(self, beta=0.1, chunk_size=256, name="kto"):
        super().__init__(beta, chunk_size, name)

    def unnested(self, x, y_true, sample_weight, summed):
        if "desired" not in y_true:
            raise ValueError(
                "KTO learns from single answers, {prompt, completion, label}, and got pairs of them, which are for "
                "kerasllm.losses.DPO."
            )
        texts = {name: values for name, values in y_true.items() if name != "desired"}
        other = keras.tree.map_structure(lambda tensor: tensor[:, 1], (x, texts, sample_weight))
        x, texts, sample_weight = keras.tree.map_structure(lambda tensor: tensor[:, 0], (x, texts, sample_weight))
        total = summed(lambda log_probs, weight, y: ops.sum(deltas_of(log_probs, y) * weight), other)
        desired = ops.cast(y_true["desired"], "float32")
        total, others, count, wanted = backend.sum_over_replicas(
            [total, _count(other[2]), _count(sample_weight), ops.sum(desired)]
        )
        kl = ops.maximum(total / ops.maximum(others, 1.0), 0.0)
        of_batch = {"kl": kl, "desired_share": wanted / ops.maximum(count, 1.0)}
        of_rows = {name: ops.zeros_like(desired) + value for name, value in of_batch.items()}
        return x, {**texts, "desired": desired, **of_rows}, sample_weight

    def _distances(self, log_probs, weight, y_true):
        """How far answers are on the side where they belong, (B,)."""
        return (2 * y_true["desired"] - 1) * (self.rewards(log_probs, weight, y_true) - self.beta * y_true["kl"])

    def item_losses(self, log_probs, weight, y_true):
        return ops.sigmoid(-self._distances(log_probs, weight, y_true))

    def item_measures(self, log_probs, weight, y_true):
        distance = self._distances(log_probs, weight, y_true)
        desired = y_true["desired"] / ops.maximum(y_true.get("desired_share", 1.0), 1e-9)
        change = sums_of_texts(deltas_of(log_probs, y_true), weight) * desired
        return ops.cast(distance > 0, "float32"), distance, change, y_true["kl"]


def _count(weight):
    """How many rows count, float32 scalar."""
    return ops.sum(ops.cast(ops.max(ops.cast(weight, "float32"), axis=1) > 0, "float32"))


def deltas_of(log_probs, y_true):
    return log_probs - ops.cast(y_true[REFERENCE], "float32")


def sums_of_texts(values, weight):
    """Over the tokens of each text, (texts,)."""
    return ops.sum(values * weight, axis=1)


def means_of_texts(values, weight):
    return sums_of_texts(values, weight) / ops.maximum(ops.sum(weight, axis=1), 1e-9)


def _divergence(deltas):
    """An estimate of it from each token, never below 0 (http://joschu.net/blog/kl-approx.html, k2): of answers that no
    one drew from the model, one that takes exponentials is made of a few tokens alone."""
    return ops.square(deltas) / 2
