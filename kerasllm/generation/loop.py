"""The compiled loop: a prefill that reads the prompts, and a `while_loop` that draws token after token.

Shapes: B batch, L places for prompt and continuation, V vocab.
"""

import functools

import keras
from keras import ops

from kerasllm import backend
from kerasllm.generation.precision import in_float32
from kerasllm.generation.samplers import sample
from kerasllm.generation.tiers import TieredLoop
from kerasllm.layers import taps
from kerasllm.layers.named_adapters import adapters_in_use

NO_TOKEN = -2  # what is drawn from logits that are not finite
NOT_FINITE = "The model's logits are not finite, so it has diverged: train it with a lower learning rate."


def compiled_decoder(model, stepper, sampler, rule, cached, prompt_length, first=0):
    """`prefill` and `decode`, compiled once for each model, kind of sampler and rules, and prompt bucket, of which
    places before `first` are read already."""
    compiled = taps.compiled_for(model, "_compiled_decoders")
    weights = frozenset(map(id, model.weights)), adapters_in_use(model)
    key = (sampler.graph_key, rule.graph_key, cached, prompt_length, first, *weights)
    if key not in compiled:
        functions = (
            functools.partial(prefill, stepper, sampler.graph_key, rule, prompt_length, first),
            functools.partial(stepper.loop or functools.partial(decode, stepper), sampler.graph_key, rule),
        )
        if stepper.uses_xla and backend.on_cpu():
            functions = [in_float32(model, function) for function in functions]
        start, go_on = functions
        variables = [*model.variables, *stepper.variables]
        start = backend.compile_function(start, variables, xla=False, by_shape=True)
        if stepper.in_runs:
            loop = TieredLoop(start, go_on, variables, compiled.setdefault(("runs", *weights), {}))
            compiled[key] = loop.prefill, loop.decode
        else:
            compiled[key] = start, backend.compile_function(go_on, variables, stepper.uses_xla)
    return compiled[key]


def prefill(
    stepper,
    sampler_key,
    rule,
    prompt_length,
    first,
    tokens,
    done,
    rule_state,
    padding,
    inputs,
    settings,
    prefix=(),
    shared=(),
):
    """Reads the prompts from place `first` on and draws the first token after them. Arguments and results are those of
    `decode`; `prefix` is for `stepper.start`, and `shared` from `buffers.shared_prompts`."""
    prompts = {"token_ids": tokens, **inputs}
    if shared:
        prompts, padding = keras.tree.map_structure(lambda x: ops.take(x, shared[0], axis=0), (prompts, padding))
    with backend.sharing():
        logits, state = stepper.start(prompts, padding, prompt_length, prefix, first, *shared[1:])
    *drawn, rule_state = draw_next(sampler_key, rule, settings, logits, prompt_length, tokens, done, rule_state)
    return *drawn, state, rule_state


def decode(stepper, sampler_key, rule, index, tokens, done, state, rule_state, padding, inputs, limit, settings):
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
        inputs: dict of what else the model reads: see `buffers.fill_buffers`.
        limit: int scalar.
        settings: dict: those of the sampler, scalars "seed" and "start", the place of the first drawn token; "end_ids"
            (E,) and "limits" (B,), the most new tokens of each row; "tables" of the rule.

    Returns:
        index, tokens, done, state and rule_state as they are then; no state, where that is in `backend.buffers`. Where
        a row's logits were not finite, it has `NO_TOKEN`, and all rows have ended.
    """

    draw = functools.partial(draw_next, sampler_key, rule)

    def is_unfinished(index, tokens, done, *_):
        return ops.logical_and(index < limit, ops.logical_not(ops.all(done)))

    def step(index, tokens, done, state, rule_state):
        logits, state = stepper.logits(state, {"token_ids": tokens, **inputs}, padding, index)
        *drawn, rule_state = draw(settings, logits, index, tokens, done, rule_state)
        return *drawn, state, rule_state

    def step_in_buffers(index, tokens, done, rule_state):
        logits, _ = stepper.logits(state, {"token_ids": tokens, **inputs}, padding, index)
        given = settings, logits, index, tokens, done, rule_state
        return backend.shared(draw, *given, variables=(), alike=("draw", sampler_key, rule.graph_key))

    if backend.are_buffers(state):
        return backend.while_loop(is_unfinished, step_in_buffers, (index, tokens, done, rule_state))
    return backend.while_loop(is_unfinished, step, (index, tokens, done, state, rule_state))


def draw_next(sampler_key, rule, settings, logits, index, tokens, done, rule_state):
    """One more token of each row, drawn by logits (B, V) for place `index`: the index after it, tokens, done, and the
    state of the rule."""
    logits = ops.cast(logits, "float32")
    finite = are_finite(logits)
    logits = rule.apply(logits, rule_state, *settings["tables"])
    seed = ops.stack([settings["seed"], index - settings["start"]])
    drawn = sample(sampler_key, settings, logits, seed, lambda logits: rule.apply_last(logits, rule_state))
    drawn = ops.where(done, 0, ops.where(finite, drawn, NO_TOKEN))
    tokens = backend.slice_update(tokens, drawn[:, None], (0, index))
    ended = ops.any(drawn[:, None] == settings["end_ids"][None], axis=-1)
    done = ops.logical_or(done, ops.logical_or(ended, index + 1 - settings["start"] >= settings["limits"]))
    done = ops.logical_or(done, ops.any(drawn == NO_TOKEN))
    return index + 1, tokens, done, rule.advance(rule_state, drawn, *settings["tables"])


def are_finite(logits):
    """Whether each row has a likeliest token, bool (B,). (A model may rule tokens out by minus infinity.)"""
    return ops.logical_and(ops.all(logits < float("inf"), axis=-1), ops.any(logits > -float("inf"), axis=-1))
