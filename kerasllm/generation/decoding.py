"""Ids to more ids: a batch of prompts on its way through the compiled loop of `loop.py`.

Shapes: B batch, P prompt bucket, L places for prompt and continuation, V vocab.
"""

import random
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import keras
import numpy as np
from keras import ops

from kerasllm.generation.buffers import buffer_lengths, check_prompts, fill_buffers, limit_of_new_tokens, shared_prompts
from kerasllm.generation.causality import check_causal
from kerasllm.generation.constraints.asked import OPTIONS
from kerasllm.generation.contrast import read_contrast, with_guidance
from kerasllm.generation.loop import NO_TOKEN, NOT_FINITE, compiled_decoder
from kerasllm.generation.options import GENERATION_WORDS, TEXT_OPTIONS, whole_number
from kerasllm.generation.prefix import Conversation, first_unread
from kerasllm.generation.prompts import as_prompts
from kerasllm.generation.rules import InOrder, read_rules
from kerasllm.generation.samplers import SETTINGS, get_sampler
from kerasllm.generation.speculation import speculative_stepper
from kerasllm.generation.standard_rules import Rules
from kerasllm.generation.stepping import get_stepper
from kerasllm.models.shapes import output_width
from kerasllm.tasks import other_task
from kerasllm.words import explain_keywords


def generate_ids(
    model: keras.Model,
    prompts: Sequence[int] | Mapping[str, Any] | Sequence[Sequence[int] | Mapping[str, Any]],
    max_new_tokens: int | None = None,
    **options: Any,
) -> list[int] | list[list[int]]:
    """Continues lists of token ids.

    Args:
        model: a `CausalLM`, or any causal Keras model from ids (B, T) to logits (B, T, V).
        prompts: non-empty list of int, or several such lists, or arrays of them. For a model that reads more than
            tokens, a dict of its inputs, or several: `{"token_ids": [5, 6, 7], "token_type_ids": [0, 0, 1]}`. Inputs
            named "..._ids" have one value for each token, of which the last one goes on for the new tokens; others are
            arrays, read with the prompt and joined along the first axis where there are several prompts.
        max_new_tokens: int; None means up to 256, within the model's context or the length it was trained on.
        **options: see `Decoding`; and `guidance` and `negative_prompt` as in `generate`, the latter of token ids.

    Returns:
        list of int, or a list of such lists: the new ids, up to and without the end token.

    Example:
        >>> model = kerasllm.models.CausalLM(config)
        >>> kerasllm.generation.generate_ids(model, [1, 2, 3], max_new_tokens=5)
    """
    inputs, is_one = as_prompts(prompts)
    if asked := [name for name in OPTIONS if options.get(name) is not None]:
        raise TypeError(f"`{asked[0]}` is about text: `generate` takes it, with a tokenizer.")
    if any("text" in row for row in inputs):
        raise TypeError("`generate_ids` continues token ids, got text: `generate` takes that, with a tokenizer.")
    options = with_guidance(options, len(inputs), lambda prompt: prompt["token_ids"])
    decoding = Decoding(model, inputs, max_new_tokens, **options)
    decoding.run(decoding.max_new_tokens)
    return decoding.new_ids()[0] if is_one else decoding.new_ids()


@explain_keywords(
    GENERATION_WORDS, "generate", also=["stop", *OPTIONS, *TEXT_OPTIONS, *SETTINGS, *Rules.__dataclass_fields__]
)
class Decoding:
    """One batch of prompts on its way: compiled once, run in one piece or in several.

    Args:
        model, max_new_tokens: see `generate_ids`.
        prompts: list of dicts of inputs, "token_ids" among them, non-empty lists of int.
        end_ids: ids that end a row.
        rules: list of `LogitsRule`, for all prompts; or a list of such lists, one for each prompt.
        vocab_size: int or None. Ids from here on are never drawn, for a model wider than its tokenizer.
        sampler: see `samplers.get_sampler`.
        seed: int or None. The same seed draws the same tokens; so does the same row of a larger batch.
        cached: see `stepping.get_stepper`.
        prefix: from `read_prefix`, of this model: tokens with which prompts begin, and which need not be read again.
        draft: "lookup" or a `CausalLM`, for one prompt: see `speculation.py`.
        constraint: from `constraints.asked`, or None.
        **options: contrast, a smaller `CausalLM`, or a `Guidance` or `Contrast` of contrast.py; temperature, top_k,
            top_p and min_p of `samplers.get_sampler`; repetition_penalty, no_repeat_ngram_size, min_new_tokens,
            min_length, suppress_tokens and begin_suppress_tokens of `standard_rules.Rules`.

    Raises:
        TypeError: if the model does not continue texts, or an option is unknown.
        ValueError: if prompts are empty, too long, or hold ids that the model does not know; if the model is not
            causal, or (in `run`) its logits are not finite.
    """

    def __init__(
        self,
        model,
        prompts,
        max_new_tokens=None,
        *,
        end_ids=(),
        vocab_size=None,
        sampler=None,
        rules=(),
        seed=None,
        cached=None,
        prefix=None,
        draft=None,
        constraint=None,
        **options,
    ):
        sampler = get_sampler(sampler, **{name: options.pop(name) for name in SETTINGS if name in options})
        contrast = options.pop("contrast", None)
        ids = {name: tuple(options[name]) for name in ("suppress_tokens", "begin_suppress_tokens") if name in options}
        standard_rules = Rules(**{**options, **ids})
        if not isinstance(model, keras.Model):
            raise TypeError(
                f"`generate` takes a Keras model, its tokenizer and prompts, in this order; the first is of type "
                f"{type(model).__name__}."
            )
        if other := other_task(model, function="generate"):
            kind = type(model).__name__
            raise TypeError(f"`generate` continues texts, got a {kind}: `{other.function}` is for a {kind}.")
        V = output_width(model)
        check_prompts(model, prompts, V)
        lengths = [len(prompt["token_ids"]) for prompt in prompts]
        if max_new_tokens is not None:
            max_new_tokens = whole_number("max_new_tokens", max_new_tokens, 1)
        contrast = read_contrast(contrast, prompts, prefix=prefix, draft=draft)
        if contrast is not None:
            lengths = list(map(max, lengths, map(len, contrast.other_prompts(prompts))))
        limits = [limit_of_new_tokens(model, length, max_new_tokens) for length in lengths]
        self.max_new_tokens = max(limits)
        if standard_rules.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"`min_new_tokens` must be between 0 and max_new_tokens ({self.max_new_tokens}), got "
                f"{standard_rules.min_new_tokens}."
            )
        if seed is not None:
            seed = whole_number("seed", seed, -(2**63))

        check_causal(model)
        stepper = get_stepper(model, cached) if draft is None else speculative_stepper(model, draft, len(prompts))
        if contrast is not None:
            stepper = contrast.stepper(model, stepper, cached)
        P, L = buffer_lengths(model, max(lengths), self.max_new_tokens + stepper.ahead)
        self._inputs, self._padding = fill_buffers(prompts, P, L)
        self._tokens, self._done = self._inputs.pop("token_ids"), np.zeros(len(prompts), bool)
        if contrast is not None:
            self._inputs |= contrast.inputs(model, prompts, P, L)
        self._index = self._start = P
        self._limits = [min(limit, L - P) for limit in limits]
        self._new_ids = [[] for _ in prompts]
        end_ids = [end_ids] if isinstance(end_ids, Integral) else end_ids
        self._end_ids = [whole_number("end_ids", i, 0) for i in end_ids]
        self._settings = {
            **sampler.settings(),
            "seed": np.array(random.getrandbits(31) if seed is None else seed % 2**31, "int32"),
            "start": np.array(P, "int32"),
            "limits": np.array(self._limits, "int32"),
            "end_ids": np.array(self._end_ids or [-1], "int32"),
        }
        known_ids = None if vocab_size is None or vocab_size >= V else vocab_size
        rule = standard_rules.as_rule(self._end_ids, known_ids, read_rules(rules, len(prompts)))
        self._guide = None
        if constraint is not None:
            ids = [prompt["token_ids"] for prompt in prompts]
            last, self._guide = constraint.begin(ids, self._limits, self._end_ids, V)
            rule = InOrder((*rule.rules, last))
        self._settings["tables"] = rule.tables(V)
        first = 0 if prefix is None else first_unread(prefix, model, prompts, P)
        self._prefix = prefix.cache if first else ()
        self._shared = shared_prompts(prompts) if contrast is None else ()
        self._stepper, self._conversation = stepper, prefix if isinstance(prefix, Conversation) else None
        key = cached, draft, contrast and contrast.graph_key
        self._prefill, self._decode = compiled_decoder(model, stepper, sampler, rule, key, P, first)
        places = np.arange(L)[None]
        is_prompt = ops.convert_to_tensor((places >= self._padding[:, None]) & (places < P))
        self._rule_state = rule.start(ops.convert_to_tensor(self._tokens), is_prompt, V)

    def run(self, steps):
        """Draws up to `steps` more tokens for each row that has not ended; returns whether any row is unfinished."""
        if self._guide is None:
            return self._run(steps)
        last, is_unfinished = self._index + steps, True
        while is_unfinished and self._index < last:
            state, most = self._guide.before(self._done)
            self._rule_state = (*self._rule_state[:-1], state)
            first = self._index
            is_unfinished = self._run(min(most, last - first))
            for row, token in self._guide.after(self._tokens[:, first : self._index]):
                self._replace_last(row, token)
        return is_unfinished

    def _run(self, steps):
        limit = min(self._index + steps, self._start + self.max_new_tokens)
        if self._index == self._start:
            state = self._tokens, self._done, self._rule_state
            self._update(self._prefill(*state, self._padding, self._inputs, self._settings, self._prefix, self._shared))
        if not self._done.all() and limit > self._index:
            index, limit = np.array(self._index, "int32"), np.array(limit, "int32")
            state = index, self._tokens, self._done, self._state, self._rule_state
            self._update(self._decode(*state, self._padding, self._inputs, limit, self._settings))
        return not self._done.all() and self._index < self._start + self.max_new_tokens

    def _update(self, results):
        index, tokens, done, self._state, self._rule_state = results
        first, was_done = self._index, self._done
        self._index = int(index)
        self._tokens, self._done = (np.array(ops.convert_to_numpy(part)) for part in (tokens, done))
        drawn = self._tokens[:, first : self._index]
        if (drawn == NO_TOKEN).any():
            raise ValueError(NOT_FINITE)
        for row in np.flatnonzero(~was_done):
            ids = drawn[row, : self._limits[row] - len(self._new_ids[row])].tolist()
            self._new_ids[row] += _until(ids, self._end_ids)

    def _replace_last(self, row, token):
        """Puts another token in the place of the last one drawn, which the model has not read yet."""
        self._tokens[row, self._index - 1] = self._new_ids[row][-1] = token

    def end(self, row):
        """Ends a row where it stands."""
        self._done[row] = True

    def keep(self):
        """Hands what was read of the first prompt to the `Conversation` that was given as prefix, if one was."""
        if self._conversation is not None and self._index > self._start and not self._stepper.turns_anew:
            begin = int(self._padding[0])
            ids = self._tokens[0, begin : self._index - 1].tolist()
            self._conversation.grow(ids, self._stepper.cache_of(self._state, len(self._tokens)), 0, begin)

    def new_ids(self):
        """For each row, the ids drawn so far, up to and without its end id."""
        return self._new_ids

    def drawn_ids(self):
        """The same with the end id, where a row ended by one."""
        lengths = [min(len(ids) + 1, limit) for ids, limit in zip(self._new_ids, self._limits, strict=True)]
        first = self._start
        return [self._tokens[row, first : first + length].tolist() for row, length in enumerate(lengths)]


def _until(ids, end_ids):
    for i, token in enumerate(ids):
        if token in end_ids:
            return ids[:i]
    return ids
