"""Texts drawn by how an expert differs from an anti-expert: DExperts by Liu et al. 2021.

Two small models of the same vocabulary, one that has learned from texts as they are wanted and one from texts as they
are not, lead a large one that neither changes (https://arxiv.org/abs/2105.03023, equation 1). Shapes: B batch, T time,
V vocab.
"""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

from kerasllm.generation.contrast import ContrastedStepper, OtherModels
from kerasllm.generation.options import real_number
from kerasllm.generation.stepping import get_stepper
from kerasllm.models import CausalLM
from kerasllm.models.shapes import output_width


@dataclasses.dataclass(frozen=True, eq=False)
class Experts(OtherModels):
    """DExperts, for `generate(..., contrast=Experts(...))`. Each token costs a step of all three models.

    The logits of each token are those of the model and `strength` times what the expert's have more than the
    anti-expert's. They agree best on what they have not learned differently where the expert is the anti-expert,
    trained on.

    Args:
        expert: `CausalLM` of the model's vocabulary, which has read texts as they are wanted.
        anti_expert: another, which has read texts as they are not wanted.
        strength: float, at least 0. 0 changes nothing.

    Raises:
        TypeError, ValueError: for other models, and a strength out of its range.

    Example:
        >>> experts = kerasllm.generation.Experts(fair_small_model, small_model)
        >>> kerasllm.generate(model, tokenizer, "The nurse said that", contrast=experts)
    """

    expert: keras.Model
    anti_expert: keras.Model
    strength: float = 1.0

    def __post_init__(self):
        for name, model in self.models.items():
            if not isinstance(model, CausalLM):
                raise TypeError(f"`{name}` is a CausalLM, got {model!r:.80}.")
        if not 0 <= real_number("strength", self.strength) < math.inf:
            raise ValueError(f"`strength` must be at least 0, got {self.strength}.")

    @property
    def models(self):
        return {"expert": self.expert, "anti_expert": self.anti_expert}

    def stepper(self, model, stepper, cached):
        self.check_vocabulary(model)
        expert, anti_expert = (get_stepper(each, cached) for each in self.models.values())
        both = ContrastedStepper(expert, anti_expert, _difference, self.anti_expert)
        return ContrastedStepper(stepper, both, _led, self.expert)

    def amounts(self):
        return np.array([self.strength], "float32")


class ExpertsModel(keras.Model):
    """A model as `Experts` has it drawn from: to measure its perplexity and bias.

    Args:
        model: a `CausalLM`.
        experts: `Experts`.

    Example:
        >>> led = ExpertsModel(model, Experts(fair_small_model, small_model))
        >>> evaluation.perplexity(led, tokenizer, documents).perplexity
    """

    def __init__(self, model, experts):
        super().__init__(name="led_by_experts", dtype="float32")
        if not isinstance(model, CausalLM):
            raise TypeError(f"A CausalLM is led by experts as it writes, got a {type(model).__name__}.")
        experts.check_vocabulary(model)
        self.model, self._experts = model, experts
        self.max_length = min(each.config.max_length for each in (model, *experts.models.values()))

    def call(self, token_ids, training=False):
        models = self.model, *self._experts.models.values()
        ours, wanted, unwanted = (
            ops.log_softmax(ops.cast(model(token_ids, training=training), "float32")) for model in models
        )
        return _led(ours, _difference(wanted, unwanted), self._experts.amounts())

    def compute_output_shape(self, input_shape):
        return (*input_shape, output_width(self.model))


def _difference(wanted, unwanted, amounts=None):
    return wanted - unwanted


def _led(ours, difference, amounts):
    return ours + amounts[0] * difference
