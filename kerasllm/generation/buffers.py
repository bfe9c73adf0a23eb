"""Prompts in the buffers of one batch.

Prompts of different lengths stand right-aligned, so that every row writes its next token to the same place. Lengths are
rounded up to buckets, so that another length seldom compiles anew.
Shapes: B batch, P prompt bucket, L places for prompt and continuation.
"""

import numpy as np

from kerasllm.models.language_model import LanguageModel
from kerasllm.models.shapes import built_length, context_length, fixed_length
from kerasllm.training.inputs import check_names, is_per_token

SMALLEST_BUCKET = 16
DEFAULT_NEW_TOKENS = 256


def check_prompts(model, prompts, vocab_size):
    """Refuses prompts, a list of dicts of inputs, that a model cannot continue.

    Raises:
        ValueError: if there are none; if an input is not the model's, or has not one value for each token; if an id is
            outside of a vocabulary of that size.
    """
    ids = [prompt["token_ids"] for prompt in prompts]
    if not all(ids or [[]]):
        raise ValueError("Each prompt needs at least one token.")
    highest, lowest = max(map(max, ids)), min(map(min, ids))
    if lowest < 0 or highest >= vocab_size:
        wrong = highest if highest >= vocab_size else lowest
        raise ValueError(
            f"The prompt has token id {wrong}, but the model knows ids from 0 to {vocab_size - 1}. "
            f"Was it encoded with another tokenizer?"
        )
    needed, optional = ("token_ids",), ()
    if isinstance(model, LanguageModel):
        needed, optional = model.needed_inputs, model.optional_inputs
        for prompt in prompts:
            model.check_prompt(prompt)
    optional = [name for name in optional if name != "document_ids"]  # a prompt is one document
    inputs = {name: value for prompt in prompts for name, value in prompt.items()}
    check_names(inputs, f"prompt for a {type(model).__name__}", needed, optional, {})
    for name in filter(is_per_token, inputs):
        for prompt in prompts:
            given, length = len(prompt.get(name, ())), len(prompt["token_ids"])
            if given != length:
                raise ValueError(f"`{name}` has one value for each token of a prompt, got {given} for {length} tokens.")


def fill_buffers(prompts, P, L):
    """The inputs of a batch of prompts.

    Args:
        prompts: list of dicts, from names of inputs to lists of int, as long as the "token_ids", or to arrays of what
            is not per token.
        P, L: int, from `buffer_lengths`.

    Returns:
        A dict from names to int32 (B, L), prompts in the first P places: behind them "token_ids" are 0, and of other
        inputs the last value of a prompt goes on; or to arrays of what is not per token, of all prompts one after the
        other. And how many places are padding, int32 (B,).
    """
    inputs = {}
    for name in {name: None for prompt in prompts for name in prompt}:
        values = [prompt[name] for prompt in prompts if name in prompt]
        if not is_per_token(name):
            inputs[name] = np.concatenate(values)
            continue
        inputs[name] = np.zeros((len(prompts), L), "int32")
        for row, value in zip(inputs[name], values, strict=True):
            row[P - len(value) : P] = value
            row[P:] = 0 if name == "token_ids" else value[-1]
    return inputs, np.array([P - len(prompt["token_ids"]) for prompt in prompts], "int32")


def shared_prompts(prompts):
    """Which prompts are to be read where some are equal, as when several texts are drawn of one.

    Args:
        prompts: as for `fill_buffers`.

    Returns:
        The rows of the first of each, int32 (U,), and for each row which of those it begins with, int32 (B,). Nothing,
        (), where all differ, or have inputs that are not per token.
    """
    keys = [tuple(sorted((name, tuple(ids)) for name, ids in p.items() if is_per_token(name))) for p in prompts]
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    if len(first) == len(prompts) or not all(map(is_per_token, prompts[0])):
        return ()
    rows = sorted(first.values())
    return np.array(rows, "int32"), np.array([rows.index(first[key]) for key in keys], "int32")


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
    P = prompt_bucket(prompt_length, context_length(model))
    return P, P + -(-max_new_tokens // 64) * 64


def prompt_bucket(length, context=None):
    """P of a prompt of so many tokens, of a model that reads at most `context`."""
    P = SMALLEST_BUCKET
    while length > P:
        P *= 2
    return max(length, min(P, context or P))
