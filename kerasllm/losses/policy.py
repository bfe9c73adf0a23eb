"""A loss over answers that a model drew itself, each with what it was worth.

A row of a data set holds the answers to one prompt, (B, G, T), so that nothing parts them:
`kerasllm.reinforcement.group_dataset`.

Shapes: B prompts in a batch, G answers to each, T time. Within a step answers stand one below the other, (B G, T).
"""

import keras
from keras import ops

from kerasllm import backend
from kerasllm.losses.base import LogProbabilityLoss
from kerasllm.losses.preferences import REFERENCE, PreferenceLoss


@keras.saving.register_keras_serializable("kerasllm")
class GRPO(LogProbabilityLoss):
    """Policy gradient by groups: of several answers to a prompt, those better than their mean become likelier.

    The loss of a token is -A p / p_old, where A, the advantage of its answer, is the reward less the mean of its group;
    of all tokens of answers in a batch it is the mean, so that long answers count as much per token as short ones.
    Where answers are drawn from the model as it is, p_old is p, of which no gradient is made. A group whose rewards are
    all the same changes nothing.

    `fit` reports, as means over answers: `reward`; `answer_tokens`, their length; and with a `beta`, `kl`, an estimate
    of the divergence from the reference, in nats per token. The loss itself says little: it is about 0 throughout.

    Args:
        beta: float, what the divergence from the reference is multiplied by, as in `DPO`'s data or by adapters. 0 needs
            no reference.
        epsilon: float or None. p / p_old counts for no more than 1 + epsilon where it is to rise, nor less than
            1 - epsilon where it is to fall. It means something only for answers that an older model drew, with
            "old_log_probs".
        scale_by_std: bool, whether advantages are divided by the standard deviation of their group, which gives
            questions that are nearly always or nearly never answered well more weight.
        chunk_size: int or None, see `TokenCrossentropy`. Logits are made of the answers alone.
        name: str.

    Call arguments:
        y_true: dict of "labels", int (B G, T); "advantages" and "rewards", float (B G,); "old_log_probs" and
            "reference_log_probs", float (B G, T), where they are read. Data sets give (B, G, T) and (B, G), and no
            "advantages", which a training step makes of the rewards.
        y_pred: float (B G, T, V), logits.
        sample_weight: float (B G, T), 1 on the tokens of answers.

    Returns:
        float scalar.

    Raises:
        ValueError: for a beta below 0, or an epsilon that is not above 0.

    Example:
        >>> model.compile(kerasllm.optimizers.AdamW(1e-6), loss=kerasllm.losses.GRPO())

    Reference: Shao et al. 2024, https://arxiv.org/abs/2402.03300; without the standard deviation and by tokens: Liu et
    al. 2025, https://arxiv.org/abs/2503.20783, and Yu et al. 2025, https://arxiv.org/abs/2503.14476; the divergence, by
    p / p_old: DeepSeek-V3.2, https://arxiv.org/abs/2512.02556
    """

    mean_over = "sequences"
    nested = True
    completed = PreferenceLoss.completed

    def __init__(self, beta=0.0, epsilon=None, scale_by_std=False, chunk_size=256, name="grpo"):
        super().__init__(0.0, chunk_size, name=name)
        if not beta >= 0:
            raise ValueError(f"`beta` must be at least 0, got {beta!r}.")
        if epsilon is not None and not epsilon > 0:
            raise ValueError(f"`epsilon` must be above 0, or None, got {epsilon!r}.")
        self.beta, self.epsilon, self.scale_by_std = beta, epsilon, scale_by_std

    @property
    def reads_reference(self):
        return self.beta > 0

    @property
    def measures(self):
        return ("reward", "answer_tokens", *(["kl"] if self.beta else []))

    def unnested(self, x, y_true, sample_weight, summed):
        given = {**y_true, "advantages": self.advantages(y_true["rewards"])}
        x, y_true, sample_weight = super().unnested(x, given, sample_weight, summed)
        return x, {**y_true, "answers_per_token": _answers_per_token(sample_weight)}, sample_weight

    def advantages(self, rewards):
        """How much better than the mean of its group an answer is, (B, G)."""
        rewards = ops.cast(rewards, "float32")
        above = rewards - ops.mean(rewards, axis=1, keepdims=True)
        if self.scale_by_std:
            G = ops.cast(ops.shape(rewards)[1], "float32")
            variance = ops.sum(ops.square(above), axis=1, keepdims=True) / ops.maximum(G - 1, 1.0)
            above = above / (ops.sqrt(variance) + 1e-4)
        # What rounding leaves of equal rewards would be a step like any other to Adam.
        differ = ops.max(rewards, axis=1, keepdims=True) > ops.min(rewards, axis=1, keepdims=True)
        return ops.where(differ, above, 0.0)

    def read_tokens(self, y_true, weight):
        return weight

    def item_losses(self, log_probs, weight, y_true):
        share = y_true.get("answers_per_token")
        share = _answers_per_token(weight) if share is None else share  # of a whole batch
        ratio = ops.exp(log_probs - ops.cast(y_true.get("old_log_probs", ops.stop_gradient(log_probs)), "float32"))
        advantages = ops.cast(y_true["advantages"], "float32")[:, None]
        gain = ratio * advantages
        if self.epsilon is not None:
            gain = ops.minimum(gain, ops.clip(ratio, 1 - self.epsilon, 1 + self.epsilon) * advantages)
        losses = -gain
        if self.beta:  # By the ratio, as then its gradient is that of the divergence, and not of the estimate alone.
            losses = losses + self.beta * ratio * _divergence(log_probs, y_true)
        return ops.sum(losses * weight, axis=1) * share

    def item_measures(self, log_probs, weight, y_true):
        tokens = ops.sum(weight, axis=1)
        found = [ops.cast(y_true["rewards"], "float32"), tokens]
        if self.beta:
            found.append(ops.sum(_divergence(log_probs, y_true) * weight, axis=1) / ops.maximum(tokens, 1e-9))
        return found

    def get_config(self):
        return {name: getattr(self, name) for name in ("name", "beta", "epsilon", "scale_by_std", "chunk_size")}


def _divergence(log_probs, y_true):
    """An estimate of it from each token that the model drew, never below 0
    (http://joschu.net/blog/kl-approx.html, k3)."""
    deltas = ops.cast(y_true[REFERENCE], "float32") - log_probs
    return ops.exp(deltas) - deltas - 1


def _answers_per_token(weight):
    """The number of answers over that of their tokens, in a whole batch, (B G,): the mean over tokens is then one over
    answers."""
    tokens = ops.sum(ops.cast(ops.cast(weight, "float32") > 0, "float32"), axis=1)
    answers, all_tokens = backend.sum_over_replicas([ops.sum(ops.cast(tokens > 0, "float32")), ops.sum(tokens)])
    return ops.zeros_like(tokens) + answers / ops.maximum(all_tokens, 1.0)
