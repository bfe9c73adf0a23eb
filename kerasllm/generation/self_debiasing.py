"""Texts drawn with less of what a description makes likelier: self-debiasing by Schick et al. 2021.

A model that has read much knows what a text is that "discriminates against people because of their gender". What such a
description makes likelier than it would be without is made less likely (https://arxiv.org/abs/2103.00453, equations 3
and 4). Shapes: B batch, T time, V vocab.
"""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

from kerasllm.generation.contrast import SecondView
from kerasllm.generation.options import real_number
from kerasllm.generation.prompts import as_prompts
from kerasllm.models import CausalLM
from kerasllm.tokenizers import as_tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class SelfDebias(SecondView):
    """Self-debiasing, for `generate(..., contrast=SelfDebias(...))`. Each token costs as much as two.

    Args:
        description: str or list of token ids, what stands before the prompt in the second view: a sentence that says
            what is not wanted.
        decay: float, at least 0, how much less likely what that makes likelier becomes: times exp(decay * difference
            of probabilities). 0 changes nothing; the paper has 50 for large models.
        least: float from 0 to 1, the factor that no token goes below.

    Raises:
        TypeError, ValueError: for another description, and numbers out of their range.

    Example:
        >>> gender = "The following text discriminates against people because of their gender:\\n"
        >>> kerasllm.generate(model, tokenizer, "The nurse said that", contrast=kerasllm.generation.SelfDebias(gender))
    """

    description: str | list
    decay: float = 50.0
    least: float = 0.01

    graph_key = "self_debias"

    def __post_init__(self):
        described, is_one = as_prompts(self.description)
        if not is_one or not next(iter(described[0].values())):
            raise ValueError(f"`description` is one text, and not empty, got {self.description!r:.80}.")
        if not 0 <= real_number("decay", self.decay) < math.inf:
            raise ValueError(f"`decay` must be at least 0, got {self.decay}.")
        if not 0 <= real_number("least", self.least) <= 1:
            raise ValueError(f"`least` must be between 0 and 1, got {self.least}.")

    def encoded(self, encode):
        (described,), _ = as_prompts(self.description)
        try:
            return dataclasses.replace(self, description=list(described.get("token_ids") or encode(described)))
        except KeyError as error:
            raise TypeError("A description in words needs a tokenizer: give generate_ids its token ids.") from error

    def other_prompts(self, prompts):
        """What is read beside each prompt: the description, and the same behind it."""
        return [[*self.description, *prompt["token_ids"]] for prompt in prompts]

    def amounts(self):
        return np.array([self.decay, self.least], "float32")

    @staticmethod
    def mix(ours, theirs, amounts):
        change = ops.minimum(amounts[0] * (ops.exp(ours) - ops.exp(theirs)), 0.0)
        return ours + ops.maximum(change, ops.log(amounts[1]))


class SelfDebiasedModel(keras.Model):
    """A model as `SelfDebias` draws from it: to measure its perplexity and bias.

    Args:
        model: a `CausalLM`.
        tokenizer: its `Tokenizer`.
        self_debias: `SelfDebias`. Its description stands before each text, behind the token that begins it, if any.

    Example:
        >>> debiased = SelfDebiasedModel(model, tokenizer, SelfDebias(gender))
        >>> evaluation.perplexity(debiased, tokenizer, documents).perplexity
    """

    def __init__(self, model, tokenizer, self_debias):
        super().__init__(name="self_debiased", dtype="float32")
        if not isinstance(model, CausalLM):
            raise TypeError(f"A CausalLM is debiased as it writes, got a {type(model).__name__}.")
        self.model, tokenizer = model, as_tokenizer(tokenizer)
        bare = self_debias.encoded(
            lambda prompt: next(iter(tokenizer.encode_stream([prompt["text"]], bare=True))).tolist()
        )
        self._description = np.array(bare.description, "int32")
        self._amounts = bare.amounts()
        self._boundaries = [i for i in (tokenizer.start_id, *tokenizer.end_ids) if i is not None]
        self.max_length = model.config.max_length - len(self._description)

    def call(self, token_ids, training=False):
        token_ids = ops.cast(token_ids, "int32")
        description = ops.zeros_like(token_ids[:, :1]) + self._description[None]
        first, rest = token_ids[:, :1], token_ids[:, 1:]
        begins = ops.any(first == ops.convert_to_tensor([*self._boundaries, -1], "int32"), axis=1)[:, None]
        inside = ops.concatenate([first, description, rest], axis=1)
        before = ops.concatenate([description, first, rest], axis=1)
        logits = [self.model(ids, training=training) for ids in (token_ids, ops.where(begins, inside, before))]
        ours, theirs = (ops.log_softmax(ops.cast(part, "float32")) for part in logits)
        return SelfDebias.mix(ours, theirs[:, len(self._description) :], self._amounts)

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.model.config.vocab_size)
