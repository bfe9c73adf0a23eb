"""A student learns what a teacher says of each token, and not the token alone.

Shapes: B batch, T time, D width of the teacher's hidden states, V vocab, K likeliest tokens.
"""

import keras
from keras import ops

from kerasllm import backend
from kerasllm.losses.base import LogProbabilityLoss
from kerasllm.losses.divergence import distilled_values
from kerasllm.losses.items import Sums
from kerasllm.losses.likelihood import logits_of, weighted_sums
from kerasllm.losses.targets import labels_of
from kerasllm.vocabulary import within

_GIVEN = ("teacher_hidden", "teacher_logits", "teacher_ids", "teacher_log_probs")


@keras.saving.register_keras_serializable("kerasllm")
class Distillation(LogProbabilityLoss):
    """Divergence from what a teacher of the same vocabulary says, beside the cross-entropy of the labels.

    The loss of a token is mix temperature^2 KL + (1 - mix) cross-entropy. `fit` reports both parts too,
    `cross_entropy` and `divergence`, in nats per token.

    Args:
        temperature: float. Above 1 the teacher's less likely tokens count more.
        direction: "forward", KL(teacher || student), by which the student covers all that the teacher may say; or
            "reverse", KL(student || teacher), by which it says nothing that the teacher would not.
        mix: float from 0 to 1, the share of the divergence.
        teacher: a model of ours, whose hidden states are made in each step, and its logits chunk by chunk; or None
            where the data have its likeliest tokens, as `data.with_teacher` gives them. It is not saved with the loss.
        chunk_size: int or None, see `TokenCrossentropy`.
        name: str.

    Call arguments:
        y_true: dict of "labels", int (B, T), and "teacher_logits", float (B, T, V), or "teacher_ids", int (B, T, K),
            and "teacher_log_probs", float (B, T, K). In training with a teacher, labels alone.
        y_pred: float (B, T, V), logits.
        sample_weight: see `TokenCrossentropy`.

    Returns:
        float scalar, the mean over tokens.

    Raises:
        ValueError: for a temperature that is not above 0, another direction, a mix outside of 0 to 1, a teacher of
            another vocabulary, or where nothing is known of a teacher.

    Example:
        >>> model.compile(loss=kerasllm.losses.Distillation(temperature=2.0, teacher=teacher))

    Reference: Hinton et al. 2015, https://arxiv.org/abs/1503.02531; reverse: Gu et al. 2023,
    https://arxiv.org/abs/2306.08543
    """

    measures = ("cross_entropy", "divergence")
    directions = ("forward", "reverse")

    def __init__(
        self, temperature=1.0, direction="forward", mix=0.5, teacher=None, chunk_size=256, name="distillation"
    ):
        super().__init__(0.0, chunk_size, name=name)
        if not temperature > 0:
            raise ValueError(f"`temperature` must be above 0, got {temperature!r}.")
        if direction not in self.directions:
            raise ValueError(f"`direction` must be one of {', '.join(self.directions)}, got {direction!r}.")
        if not 0 <= mix <= 1:
            raise ValueError(f"`mix` must be from 0 to 1, got {mix!r}.")
        self.temperature, self.direction, self.mix = temperature, direction, mix
        self._teacher = (teacher,)  # in a tuple, as it is no part of what is saved

    @property
    def teacher(self):
        return self._teacher[0]

    def completed(self, model, x, y_true, sample_weight):
        given = y_true if isinstance(y_true, dict) else {"labels": y_true}
        if any(name in given for name in _GIVEN):
            return given
        if self.teacher is None:
            raise ValueError(
                "Distillation needs a teacher: give Distillation(teacher=model), or data with its likeliest tokens, as "
                "kerasllm.data.with_teacher makes them."
            )
        if self.teacher._vocab_size != model._vocab_size:
            raise ValueError(
                f"The teacher has a vocabulary of {self.teacher._vocab_size} and the student one of "
                f"{model._vocab_size}: a teacher is to have the tokenizer of the student."
            )
        in_chunks = model._makes_logits_in_chunks and self.teacher._has_plain_output_layer
        options = {"return_hidden_states": True} if in_chunks else {}
        name = "teacher_hidden" if in_chunks else "teacher_logits"
        return {**given, name: ops.stop_gradient(self.teacher(x, training=False, **options))}

    def sums(self, y_true, y_pred, sample_weight=None):
        y_true, weight = self.targets(y_true, sample_weight, y_pred)
        V = y_pred.shape[-1]
        labels = ops.reshape(within(labels_of(y_true), V), (-1,))
        rows = [ops.reshape(y_true[name], (-1, y_true[name].shape[-1])) for name in _GIVEN if name in y_true]
        if "teacher_hidden" in y_true:
            rows = [ops.reshape(self.teacher.logits(y_true["teacher_hidden"]), (-1, V))]

        @backend.custom_gradient
        def values(logits):
            found, by_logits = self._values(labels, logits, tuple(rows))
            return found, lambda upstream: ops.cast(by_logits(upstream), logits.dtype)

        log_prob, divergence = ops.unstack(values(ops.reshape(y_pred, (-1, V))), axis=0)
        weight = ops.reshape(weight, (-1,))
        log_prob, divergence = ops.sum(log_prob * weight), ops.sum(divergence * weight)
        total = self._mixed(log_prob, divergence)
        return Sums(total, ops.stack([total, -log_prob, divergence]), ops.sum(weight))

    def chunked_sums(self, y_true, hidden, output_layer, sample_weight=None, training=True):
        y_true, weight = self.targets(y_true, sample_weight, hidden)
        labels = within(labels_of(y_true), output_layer.weights.shape[0])
        teacher = self.teacher.output_layer() if "teacher_hidden" in y_true else None

        def values_of(chunks):
            def values(index, logits):
                parts = tuple(chunks.part(rows, index) for rows in chunks.given)
                if teacher is not None:
                    parts = (logits_of(parts[0], ops.cast(teacher.weights, parts[0].dtype), teacher),)
                return self._values(chunks.part(chunks.labels, index), logits, parts)

            return values

        def collected(values):
            return [self._mixed(values[0], values[1]), -values[0], values[1]]

        shares = [self.mix - 1, self.mix * self.temperature**2]
        if teacher is not None:
            y_true["teacher_hidden"], teacher = teacher.widened(y_true["teacher_hidden"])
        given = [y_true[name] for name in _GIVEN if name in y_true]
        found = weighted_sums(
            values_of, collected, shares, labels, weight, hidden, output_layer, self.chunk_size, training, given
        )
        return Sums(found[0], found, ops.sum(weight))

    def __call__(self, y_true, y_pred, sample_weight=None):
        sums = self.sums(y_true, ops.convert_to_tensor(y_pred, "float32"), sample_weight)
        return sums.total / ops.maximum(sums.count, 1e-9)

    def _values(self, labels, logits, teacher):
        if len(teacher) == 2 and self.direction == "reverse":
            raise ValueError(
                "direction='reverse' reads what the teacher says of all tokens, and the data have its likeliest ones "
                "alone: take 'forward', or a teacher in each step."
            )
        teacher = teacher if len(teacher) == 2 else teacher[0]
        return distilled_values(labels, logits, teacher, self.temperature, self.direction)

    def _mixed(self, log_prob, divergence):
        return self.mix * self.temperature**2 * divergence - (1 - self.mix) * log_prob

    def get_config(self):
        names = ("name", "temperature", "direction", "mix", "chunk_size")
        return {name: getattr(self, name) for name in names}
