"""Ids to more ids: one compiled loop over a static buffer.

Prompts of different lengths stand right-aligned in one buffer, so that every row writes its next token to the same
place. Lengths are rounded up to buckets, so that another length seldom compiles anew.
Shapes: B batch, P prompt bucket, L places for prompt and continuation, V vocab.
"""

import functools
import random
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import keras
import numpy as np
from keras import ops

from kerasllm import backend
from kerasllm.generation.causality import check_causal
from kerasllm.generation.options import GENERATION_WORDS, whole_number
from kerasllm.generation.precision import in_float32
from kerasllm.generation.prompts import as_prompts
from kerasllm.generation.rules import read_rules
from kerasllm.generation.samplers import get_sampler, sample
from kerasllm.generation.standard_rules import Rules
from kerasllm.generation.stepping import get_stepper
from kerasllm.layers import taps
from kerasllm.models.shapes import built_length, context_length, fixed_length, output_width
from kerasllm.tasks import other_task
from kerasllm.words import explain_keywords

SMALLEST_BUCKET = 16
DEFAULT_NEW_TOKENS = 256
NO_TOKEN = -2  # what is drawn from logits that are no numbers
NO_NUMBERS = "The model's logits are no numbers, so it has diverged: train it with a lower learning rate."


def generate_ids(
    model: keras.Model,
    prompts: Sequence[int] | Sequence[Sequence[int]],
    max_new_tokens: int | None = None,
    **options: Any,
) -> list[int] | list[list[int]]:
    """Continues lists of token ids.

    Args:
        model: a `CausalLM`, or any causal Keras model from ids (B, T) to logits (B, T, V).
        prompts: non-empty list of int, or several such lists, or arrays of them.
        max_new_tokens: int; None means up to 256, within the model's context or the length it was trained on.
        **options: see `Decoding`.

    Returns:
        list of int, or a list of such lists: the new ids, up to and without the end token.

    Example:
        >>> model = kerasllm.models.CausalLM(config)
        >>> kerasllm.generation.generate_ids(model, [1, 2, 3], max_new_tokens=5)
    """
    prompts, is_one = as_prompts(prompts)
    if any(isinstance(prompt, str) for prompt in prompts):
        raise TypeError("`generate_ids` continues token ids, got text: `generate` takes that, with a tokenizer.")
    decoding = Decoding(model, prompts, max_new_tokens, **options)
    decoding.run(decoding.max_new_tokens)
    return decoding.new_ids()[0] if is_one else decoding.new_ids()


@explain_keywords(GENERATION_WORDS, "generate", also=["stop"])
class Decoding:
    """One batch of prompts on its way: compiled once, run in one piece or in several.

    Args:
        model, max_new_tokens: see `generate_ids`.
        prompts: list of non-empty lists of int.
        end_ids: ids that end a row.
        repetition_penalty, no_repeat_ngram_size, min_new_tokens, min_length, suppress_tokens,
            begin_suppress_tokens: see `standard_rules.Rules`.
        rules: list of `LogitsRule`, for all prompts; or a list of such lists, one for each prompt.
        vocab_size: int or None. Ids from here on are never drawn, for a model wider than its tokenizer.
        sampler: see `samplers.get_sampler`, also for temperature, top_k, top_p and min_p.
        seed: int or None. The same seed draws the same tokens; so does the same row of a larger batch.
        cached: see `stepping.get_stepper`.

    Raises:
        TypeError: if the model does not continue texts, or an option is unknown.
        ValueError: if prompts are empty, too long, or hold ids that the model does not know; if the model is not
            causal, or (in `run`) its logits are no numbers.
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
        temperature=None,
        top_k=None,
        top_p=None,
        min_p=None,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        min_new_tokens=0,
        min_length=0,
        suppress_tokens=(),
        begin_suppress_tokens=(),
        rules=(),
        seed=None,
        cached=None,
    ):
        sampler = get_sampler(sampler, temperature, top_k, top_p, min_p)
        standard_rules = Rules(
            repetition_penalty,
            no_repeat_ngram_size,
            min_new_tokens,
            min_length,
            tuple(suppress_tokens),
            tuple(begin_suppress_tokens),
        )
        if not isinstance(model, keras.Model):
            raise TypeError(
                f"`generate` takes a Keras model, its tokenizer and prompts, in this order; the first is of type "
                f"{type(model).__name__}."
            )
        if other := other_task(model, function="generate"):
            kind = type(model).__name__
            raise TypeError(f"`generate` continues texts, got a {kind}: `{other.function}` is for a {kind}.")
        V = output_width(model)
        self._check_prompts(prompts, V)
        longest = max(map(len, prompts))
        if max_new_tokens is not None:
            max_new_tokens = whole_number("max_new_tokens", max_new_tokens, 1)
        limits = [limit_of_new_tokens(model, len(prompt), max_new_tokens) for prompt in prompts]
        self.max_new_tokens = max(limits)
        min_new_tokens = whole_number("min_new_tokens", min_new_tokens, 0)
        if min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"`min_new_tokens` must be between 0 and max_new_tokens ({self.max_new_tokens}), got {min_new_tokens}."
            )
        if seed is not None:
            seed = whole_number("seed", seed, -(2**63))

        check_causal(model)
        stepper = get_stepper(model, cached)
        P, L = buffer_lengths(model, longest, self.max_new_tokens)
        tokens = np.zeros((len(prompts), L), "int32")
        for row, prompt in enumerate(prompts):
            tokens[row, P - len(prompt) : P] = prompt
        padding = np.array([P - len(prompt) for prompt in prompts], "int32")
        self._tokens, self._padding, self._done = tokens, padding, np.zeros(len(prompts), bool)
        self._index = self._start = P
        self._limits = [min(limit, L - P) for limit in limits]
        self._new_ids = [[] for _ in prompts]
        end_ids = [end_ids] if isinstance(end_ids, Integral) else end_ids
        self._end_ids = [whole_number("end_ids", i, 0) for i in end_ids]
        self._settings = {
            **sampler.settings(),
            "seed": ops.convert_to_tensor(random.getrandbits(31) if seed is None else seed % 2**31, "int32"),
            "start": ops.convert_to_tensor(P, "int32"),
            "limits": ops.convert_to_tensor(self._limits, "int32"),
            "end_ids": ops.convert_to_tensor(self._end_ids or [-1], "int32"),
        }
        known_ids = None if vocab_size is None or vocab_size >= V else vocab_size
        rule = standard_rules.as_rule(self._end_ids, known_ids, read_rules(rules, len(prompts)))
        self._prefill, self._decode = compiled_decoder(model, stepper, sampler, rule, cached, P)
        places = np.arange(L)[None]
        is_prompt = ops.convert_to_tensor((places >= padding[:, None]) & (places < P))
        self._rule_state = rule.start(ops.convert_to_tensor(tokens), is_prompt, V)

    def _check_prompts(self, prompts, vocab_size):
        if not prompts or not all(len(prompt) for prompt in prompts):
            raise ValueError("Each prompt needs at least one token.")
        highest, lowest = max(map(max, prompts)), min(map(min, prompts))
        if lowest < 0 or highest >= vocab_size:
            wrong = highest if highest >= vocab_size else lowest
            raise ValueError(
                f"The prompt has token id {wrong}, but the model knows ids from 0 to {vocab_size - 1}. "
                f"Was it encoded with another tokenizer?"
            )

    def run(self, steps):
        """Draws up to `steps` more tokens for each row that has not ended; returns whether any row is unfinished."""
        limit = min(self._index + steps, self._start + self.max_new_tokens)
        if self._index == self._start:
            arguments = self._tokens, self._done, self._rule_state, self._padding, self._settings
            self._update(self._prefill(*arguments))
        if not self._done.all() and limit > self._index:
            index, limit = ops.convert_to_tensor(self._index, "int32"), ops.convert_to_tensor(limit, "int32")
            state = index, self._tokens, self._done, self._state, self._rule_state
            self._update(self._decode(*state, self._padding, limit, self._settings))
        return not self._done.all() and self._index < self._start + self.max_new_tokens

    def _update(self, results):
        index, tokens, done, self._state, self._rule_state = results
        first, was_done = self._index, self._done
        self._index, self._tokens, self._done = int(index), np.array(tokens), np.array(done)
        drawn = self._tokens[:, first : self._index]
        if (drawn == NO_TOKEN).any():
            raise ValueError(NO_NUMBERS)
        for row in np.flatnonzero(~was_done):
            ids = drawn[row, : self._limits[row] - len(self._new_ids[row])].tolist()
            self._new_ids[row] += _until(ids, self._end_ids)

    def end(self, row):
        """Ends a row where it stands."""
        self._done[row] = True

    def new_ids(self):
        """For each row, the ids drawn so far, up to and without its end id."""
        return self._new_ids


def _until(ids, end_ids):
    for i, token in enumerate(ids):
        if token in end_ids:
            return ids[:i]
    return ids


def limit_of_new_tokens(model, prompt_length, max_new_tokens):
    """Checks that prompt and continuation fit, and says how many tokens may be drawn."""
    limit = context_length(model)
    if limit is None:
        # A Sequential of rotary layers takes any length, but has not learned what lies past that of its batches.
        learned = built_length(model) or prompt_length + DEFAULT_NEW_TOKENS
        return max_new_tokens or max(1, min(learned - prompt_length, DEFAULT_NEW_TOKENS))
    most = limit - prompt_length
    if most < 1 or (max_new_tokens or 1) > most:
        asked = "" if max_new_tokens is None else f" with max_new_tokens={max_new_tokens}"
        advice = f"ask for at most {most} new tokens" if most > 0 else f"shorten the prompt to under {limit} tokens"
        raise ValueError(
            f"A prompt of {prompt_length} tokens{asked} does not fit the model's context of {limit}: {advice}."
        )
    return max_new_tokens or min(most, DEFAULT_NEW_TOKENS)


def buffer_lengths(model, prompt_length, max_new_tokens):
    """P and L, rounded up; a model of one static length gets just that as L."""
    fixed = fixed_length(model)
    if fixed is not None:
        return prompt_length, fixed
    P = SMALLEST_BUCKET
    while prompt_length > P:
        P *= 2
    P = max(prompt_length, min(P, context_length(model) or P))
    return P, P + -(-max_new_tokens // 64) * 64


def compiled_decoder(model, stepper, sampler, rule, cached, prompt_length):
    """`prefill` and `decode`, compiled once for each model, kind of sampler and rules, and prompt bucket."""
    compiled = {} if taps.listeners() else vars(model).setdefault("_compiled_decoders", {})
    key = (sampler.graph_key, rule.graph_key, cached, prompt_length, len(model.weights))
    if key not in compiled:
        functions = (
            functools.partial(prefill, stepper, sampler.graph_key, rule, prompt_length),
            functools.partial(decode, stepper, sampler.graph_key, rule),
        )
        if stepper.uses_xla and backend.on_processor():
            functions = [in_float32(model, function) for function in functions]
        compiled[key] = tuple(
            backend.compile_function(function, model.variables, stepper.uses_xla) for function in functions
        )
    return compiled[key]


def prefill(stepper, sampler_key, rule, prompt_length, tokens, done, rule_state, padding, settings):
    """Reads the prompts and draws the first token after them. Arguments and results are those of `decode`."""
    logits, state = stepper.start(tokens, padding, prompt_length)
    *drawn, rule_state = _draw(sampler_key, rule, settings, logits, prompt_length, tokens, done, rule_state)
    return *drawn, state, rule_state


def decode(stepper, sampler_key, rule, index, tokens, done, state, rule_state, padding, limit, settings):
    """Draws tokens until every row has ended or place `limit` is reached.

    Args:
        stepper: see `stepping.py`.
        sampler_key: the `graph_key` of a `Sampler`.
        rule: LogitsRule.
        index: int scalar, the next place to fill.
        tokens: int32 (B, L).
        done: bool (B,), rows that have ended; they get token 0.
        state: of the stepper.
        rule_state: of the rule.
        padding: int32 (B,), places to the left of each prompt.
        limit: int scalar.
        settings: dict: those of the sampler, scalars "seed" and "start", the place of the first drawn token; "end_ids"
            (E,) and "limits" (B,), the most new tokens of each row.

    Returns:
        index, tokens, done, state and rule_state as they are then. Where a row's logits were no numbers, it has
        `NO_TOKEN`, and all rows have ended.
    """

    def is_unfinished(index, tokens, done, state, rule_state):
        return ops.logical_and(index < limit, ops.logical_not(ops.all(done)))

    def step(index, tokens, done, state, rule_state):
        logits, state = stepper.logits(state, tokens, padding, index)
        *drawn, rule_state = _draw(sampler_key, rule, settings, logits, index, tokens, done, rule_state)
        return *drawn, state, rule_state

    return ops.while_loop(is_unfinished, step, (index, tokens, done, state, rule_state))


def _draw(sampler_key, rule, settings, logits, index, tokens, done, rule_state):
    """One more token of each row, drawn by logits (B, V) for place `index`: the index after it, tokens, done, and the
    state of the rule."""
    logits = ops.cast(logits, "float32")
    are_numbers = _are_numbers(logits)
    logits = rule.apply(logits, rule_state)
    drawn = sample(sampler_key, settings, logits, ops.stack([settings["seed"], index - settings["start"]]))
    drawn = ops.where(done, 0, ops.where(are_numbers, drawn, NO_TOKEN))
    tokens = backend.slice_update(tokens, drawn[:, None], (0, index))
    ended = ops.any(drawn[:, None] == settings["end_ids"][None], axis=-1)
    done = ops.logical_or(done, ops.logical_or(ended, index + 1 - settings["start"] >= settings["limits"]))
    done = ops.logical_or(done, ops.any(drawn == NO_TOKEN))
    return index + 1, tokens, done, rule.advance(rule_state, drawn)


def _are_numbers(logits):
    """Whether each row has a likeliest token, bool (B,). (A model may rule tokens out by minus infinity.)"""
    return ops.logical_and(ops.all(logits < float("inf"), axis=-1), ops.any(logits > -float("inf"), axis=-1))
