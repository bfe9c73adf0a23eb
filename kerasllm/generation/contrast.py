"""Texts drawn from what a model says beside something else: its own view behind another prompt, or a smaller model's.

Classifier-free guidance (Sanchez et al. 2023, https://arxiv.org/abs/2306.17806) makes likelier what the prompt, and not
the negative one, makes likely. Contrastive decoding (Li et al. 2022, https://arxiv.org/abs/2210.15097, in the form of
O'Brien and Lewis 2023, https://arxiv.org/abs/2309.09117) makes rarer what a smaller model expects too.

Shapes: B batch, P prompt bucket, L places for prompt and continuation, V vocab.
"""

import contextlib
import dataclasses
import math

import keras
import numpy as np
from keras import ops

from kerasllm import backend
from kerasllm.generation.buffers import check_prompts, fill_buffers
from kerasllm.generation.options import real_number
from kerasllm.generation.prompts import as_prompts
from kerasllm.generation.stepping import get_stepper
from kerasllm.models import CausalLM
from kerasllm.models.shapes import output_width


class Beside:
    """What a token is drawn by beside what the model says behind the prompt: a base for these ways."""

    def encoded(self, encode):
        """The same with token ids in the place of texts; `encode` makes those of a prompt as of `as_prompts`."""
        return self


class SecondView(Beside):
    """What the same model says behind another prompt. Subclasses have `graph_key`, `other_prompts(prompts)`, which are
    lists of token ids, `amounts()`, float32, and `mix(ours, theirs, amounts)`: see `ContrastedStepper`."""

    def stepper(self, model, stepper, cached):
        return ContrastedStepper(stepper, stepper, self.mix)

    def inputs(self, model, prompts, P, L):
        """What the stepper reads beside the prompts: see `ContrastedStepper`."""
        others = [{"token_ids": ids} for ids in self.other_prompts(prompts)]
        check_prompts(model, others, output_width(model))
        inputs, padding = fill_buffers(others, P, L)
        inputs["token_ids"][:, P:] = -1
        return {"other_ids": inputs["token_ids"], "other_padding": padding, "amounts": self.amounts()}


class OtherModels(Beside):
    """What other models of the same vocabulary say behind the same prompt. Subclasses have `models`, a dict from what
    they are called to `CausalLM`s, `stepper(model, stepper, cached)` and `amounts()`: see `ContrastedStepper`.
    """

    @property
    def graph_key(self):
        return tuple(self.models.values())

    def check_vocabulary(self, model):
        V = output_width(model)
        for name, other in self.models.items():
            if (width := output_width(other)) != V:
                raise ValueError(f"`{name}` has to have the model's vocabulary of {V} tokens, has {width}.")

    def other_prompts(self, prompts):
        """What is read beside each prompt: the same."""
        return [prompt["token_ids"] for prompt in prompts]

    def inputs(self, model, prompts, P, L):
        """What the stepper reads beside the prompts: see `ContrastedStepper`."""
        longest = max(len(prompt["token_ids"]) for prompt in prompts)
        for name, other in self.models.items():
            check_prompts(other, [{"token_ids": prompt["token_ids"]} for prompt in prompts], output_width(other))
            if (most := getattr(other.config, "max_length", None)) is not None and longest > most:
                raise ValueError(f"A prompt of {longest} tokens does not fit the context of `{name}`, {most}.")
        return {"amounts": self.amounts()}


@dataclasses.dataclass(frozen=True, eq=False)
class Guidance(SecondView):
    """Classifier-free guidance.

    Args:
        scale: float. 1 is the model as it is, more follows the prompt more, 0 is the negative prompt alone.
        negative_prompts: list of lists of token ids, one for each prompt; None for the last token of each.

    Raises:
        ValueError: if the scale is not finite.
    """

    scale: float
    negative_prompts: list | None = None

    graph_key = "guidance"

    def __post_init__(self):
        if not math.isfinite(real_number("guidance", self.scale)):
            raise ValueError(f"`guidance` must be finite (1 is off), got {self.scale}.")

    def amounts(self):
        return np.array([self.scale], "float32")

    @staticmethod
    def mix(ours, theirs, amounts):
        return theirs + amounts[0] * (ours - theirs)

    def other_prompts(self, prompts):
        """What is read beside each prompt, list of lists of token ids."""
        if self.negative_prompts is None:
            return [prompt["token_ids"][-1:] for prompt in prompts]
        if len(self.negative_prompts) != len(prompts):
            raise ValueError(
                f"`negative_prompt` is one for all prompts or one for each, got {len(self.negative_prompts)} for "
                f"{len(prompts)} prompts."
            )
        return self.negative_prompts


@dataclasses.dataclass(frozen=True, eq=False)
class Contrast(OtherModels):
    """Contrastive decoding.

    Args:
        model: `CausalLM` of the same vocabulary, a smaller one.
        strength: float, at least 0. Log-probabilities become (1 + strength) of the model's less strength of the
            smaller one's.
        plausibility: float from 0 to 1. Only tokens at least this likely, in proportion to the likeliest, are drawn.

    Raises:
        TypeError, ValueError: for another model, and numbers out of their range.

    Example:
        >>> contrast = kerasllm.generation.Contrast(small_model, strength=0.5)
        >>> kerasllm.generate(model, tokenizer, "Once upon a time", contrast=contrast)
    """

    model: keras.Model
    strength: float = 0.5
    plausibility: float = 0.1

    def __post_init__(self):
        if not isinstance(self.model, CausalLM):
            raise TypeError(f"`contrast` is a smaller CausalLM, or a Contrast with one, got {self.model!r:.80}.")
        if not 0 <= real_number("strength", self.strength) < math.inf:
            raise ValueError(f"`strength` must be at least 0, got {self.strength}.")
        if not 0 <= real_number("plausibility", self.plausibility) <= 1:
            raise ValueError(f"`plausibility` must be between 0 and 1, got {self.plausibility}.")

    @property
    def models(self):
        return {"contrast": self.model}

    def stepper(self, model, stepper, cached):
        self.check_vocabulary(model)
        return ContrastedStepper(stepper, get_stepper(self.model, cached), _contrasted, self.model)

    def amounts(self):
        return np.array([self.strength, self.plausibility], "float32")


def with_guidance(options, num_prompts, encode):
    """Options in which `guidance` and `negative_prompt` have become one `contrast`.

    Args:
        options: dict.
        num_prompts: int.
        encode: function from a prompt as of `as_prompts` to a list of token ids.

    Raises:
        ValueError: if they do not go together.
    """
    options = dict(options)
    scale, negative = options.pop("guidance", None), options.pop("negative_prompt", None)
    if scale is None and negative is None:
        if isinstance(contrast := options.get("contrast"), Beside):
            options["contrast"] = contrast.encoded(encode)
        return options
    if scale is None:
        raise ValueError("`negative_prompt` is what guidance leads away from: give guidance=1.5 with it.")
    if options.get("contrast") is not None:
        raise ValueError("`guidance` and `contrast` are two ways, of which one is used: leave one of them out.")
    if negative is not None:
        several, is_one = as_prompts(negative)
        negative = [encode(prompt) for prompt in several] * (num_prompts if is_one else 1)
    return {**options, "contrast": Guidance(scale, negative)}


def read_contrast(contrast, prompts, **others):
    """The `Guidance`, `Contrast` or other `Beside` that a user means, or None.

    Args:
        contrast: one of these, or a `CausalLM`, or None.
        prompts: list of dicts of inputs.
        **others: options that do not go with it.

    Raises:
        ValueError: if one is given.
    """
    if contrast is None:
        return None
    for name, value in others.items():
        if value is not None:
            raise ValueError(f"`{name}` does not go with `guidance` and `contrast`: leave it out.")
    if more := sorted(set().union(*prompts) - {"token_ids"}):
        raise ValueError(f"`guidance` and `contrast` are for prompts of tokens alone, got {', '.join(more)} too.")
    return contrast if isinstance(contrast, Beside) else Contrast(contrast)


class ContrastedStepper:
    """Steps through two models at once, or through one behind two prompts.

    Args:
        stepper: of the model.
        other: of what is set beside it.
        mix: function of log-probabilities (B, V) of both, and "amounts" -> (B, V).
        model: that of `other`, where it is another model; where that is one of two contrasted ones, its first.

    Beside the prompts its inputs have "amounts", what `mix` needs; and "other_ids" (B, L), prompts for `other`, with -1
    behind them, and "other_padding" (B,), where those are others.
    """

    loop, ahead, turns_anew = None, 0, True

    def __init__(self, stepper, other, mix, model=None):
        self._stepper, self._other, self._mix, self._model = stepper, other, mix, model
        self.uses_xla = stepper.uses_xla and other.uses_xla
        self.in_runs = stepper.in_runs and other.uses_xla
        self.variables = (*stepper.variables, *other.variables, *(() if model is None else model.variables))

    def start(self, inputs, padding, prompt_length, prefix=(), first=0, rows=None):
        """As that of a `CachedStepper`; nothing is read before, and rows begin with prompts of their own."""
        own, others, amounts = self._inputs(inputs, padding)
        ours, state = self._stepper.start(*own, prompt_length)
        theirs, other_state = self._other.start(*others, prompt_length)
        return self._mixed(ours, theirs, amounts), (state, other_state)

    def logits(self, state, inputs, padding, index):
        """As that of a `CachedStepper`."""
        (state, other_state), (own, others, amounts) = state, self._inputs(inputs, padding)
        ours, state = self._stepper.logits(state, *own, index)
        with self._sharing(other_state):
            theirs, other_state = self._other.logits(other_state, *others, index)
        return self._mixed(ours, theirs, amounts), (state, other_state)

    def _inputs(self, inputs, padding):
        inputs = dict(inputs)
        amounts, tokens = inputs.pop("amounts", None), inputs["token_ids"]
        ids, other_padding = inputs.pop("other_ids", None), inputs.pop("other_padding", padding)
        others = tokens if ids is None else ops.where(ids >= 0, ids, tokens)
        return (inputs, padding), ({"token_ids": others}, other_padding), amounts

    def _sharing(self, state):
        """Another model has functions of its own that runs of its layers share."""
        if self._model is None or not backend.are_buffers(state):
            return contextlib.nullcontext()
        return backend.sharing(vars(self._model).setdefault("_compiled_contrast", {}))

    def _mixed(self, ours, theirs, amounts):
        ours, theirs = (ops.log_softmax(ops.cast(logits, "float32")) for logits in (ours, theirs))
        # What the model rules out stays so, and what the other one does is no reason for anything.
        theirs = ops.where(theirs > -float("inf"), theirs, ops.min(ops.where(theirs > -float("inf"), theirs, 0.0)))
        return ops.where(ours > -float("inf"), self._mix(ours, theirs, amounts), -float("inf"))


def _contrasted(ours, theirs, amounts):
    strength, plausibility = amounts[0], amounts[1]
    is_plausible = ours >= ops.max(ours, axis=-1, keepdims=True) + ops.log(plausibility)
    return ops.where(is_plausible, (1 + strength) * ours - strength * theirs, -float("inf"))
