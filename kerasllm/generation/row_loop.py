"""The compiled loop over rows that were begun at different times, each with settings of its own.

Shapes: R rows, L slots of the ring, C steps at most, E end tokens, V vocab.
"""

import functools

from keras import ops

from kerasllm import backend
from kerasllm.generation.constraints.masks import masked
from kerasllm.generation.loop import NO_TOKEN, are_finite
from kerasllm.generation.precision import in_float32
from kerasllm.generation.samplers import KNOWN_WHEN_RUN, sample
from kerasllm.layers.cache import join_heads, latest_places, split_heads

MOST_STEPS = 16
TOP_TOKENS = 20  # whose log-probabilities are reported


def compiled_loop(model, stepper, way, penalises, reports):
    """`run`, compiled for a model.

    Args:
        way: "whole", by XLA; "runs", where XLA compiles runs of layers, and the cache is in buffers; or "plain", which
            XLA compiles nothing of, and whose products take all cores of a CPU.
        stepper, penalises, reports: see `run`.
    """
    function = functools.partial(run, stepper.forward, penalises, reports)
    if backend.on_cpu():
        function = in_float32(model, function)
    if way == "whole":
        return backend.compile_function(function, model.variables)
    runs = vars(model).setdefault("_compiled_row_runs", {}) if way == "runs" else None

    def traced(*args):
        with backend.sharing(runs):
            return function(*args)

    return backend.compile_function(traced, model.variables, xla=False, by_shape=True)


def run(forward, penalises, reports, place, steps, rows, seen, cache):
    """Draws tokens for all rows until all have ended or so many steps are done.

    Args:
        forward: of a `CachedStepper`.
        penalises: bool. Some row has a `penalty`.
        reports: bool. Log-probabilities are wanted.
        place: int scalar, the clock: the place that each row's last token goes to.
        steps: int scalar, at most `MOST_STEPS`.
        rows: dict: "last" (R,), the last token of each row, which is read first; "begins" (R,), the place of its first
            one; "drawn" (R,), how many are drawn; "limits" (R,), how many may be; "done" (R,) bool; "seeds" (R,);
            "end_ids" (R, E); "allowed" (1, V) bool; "penalty" (R, 1), for tokens that occurred, and "temperature",
            "top_k", "top_p" and "min_p" (R, 1) of a `Sampler`. Where some are held to a grammar: "forced" (R, C) and
            "words" (R, W), see `constraints.masks.masked`.
        seen: bool (R, V), which tokens occurred, where `penalises`; else anything.
        cache: of a `RowCache`, after R rows.

    Returns:
        The place then; "last", "drawn" and "done" as they are then, of which the first is `NO_TOKEN` where logits were
        not finite; tokens, int32 (R, C); reports, or (): log-probabilities (R, C) of these, and ids and
        log-probabilities (R, C, TOP_TOKENS) of the likeliest; and the cache, or () where that is in buffers.
    """
    R = rows["last"].shape[0]
    in_buffers = backend.are_buffers(cache)
    found = [ops.zeros((R, MOST_STEPS), "int32")]
    if reports:
        found += [ops.zeros((R, MOST_STEPS)), ops.zeros((R, MOST_STEPS, TOP_TOKENS), "int32")]
        found += [ops.zeros((R, MOST_STEPS, TOP_TOKENS))]
    draw = functools.partial(_draw, penalises, reports)
    last_place = place + steps

    def is_unfinished(now, last, drawn, done, *_):
        return ops.logical_and(now < last_place, ops.logical_not(ops.all(done)))

    def step(now, last, drawn, done, seen, found, kept):
        of_rows = cache if in_buffers else split_heads(kept, R)
        L = _slots(cache)
        visible = latest_places(ops.arange(L, dtype="int32"), now)[None] >= rows["begins"][:, None]
        inputs = {"token_ids": ops.maximum(last, 0)[:, None]}
        logits, kept = forward(inputs, of_rows, now, (now - rows["begins"])[:, None], visible)
        given = rows, logits[:, 0], last, drawn, done, seen, found, now - place
        if in_buffers:
            alike = "rows", penalises, reports, "words" in rows
            results = backend.shared(draw, *given, variables=(), alike=alike)
        else:
            results = draw(*given)
        return now + 1, *results, () if in_buffers else join_heads(kept)

    state = place, rows["last"], rows["drawn"], rows["done"], seen, found, () if in_buffers else cache
    now, last, drawn, done, _, (tokens, *reported), kept = backend.while_loop(is_unfinished, step, state)
    return now, last, drawn, done, tokens, reported, kept


def _slots(cache):
    return cache[0].own.key.shape[-2]


def _draw(penalises, reports, rows, logits, last, drawn, done, seen, found, step):
    """One more token of each row that is not done, and what there is to tell of it written to place `step`."""
    logits = ops.cast(logits, "float32")
    finite = are_finite(logits)
    logits = ops.where(rows["allowed"], logits, -float("inf"))
    of_model = logits
    if penalises:
        penalised = ops.where(logits > 0, logits / rows["penalty"], logits * rows["penalty"])
        logits = ops.where(seen, penalised, logits)
    if "words" in rows:
        logits = masked(logits, ops.take(rows["forced"], ops.reshape(step, (1,)), axis=1), rows["words"])
    drawn_token = sample(KNOWN_WHEN_RUN, rows, logits, ops.stack([rows["seeds"], drawn], axis=1))
    token = ops.where(done, last, ops.where(finite, drawn_token, NO_TOKEN))
    news = [token]
    if reports:
        log_probabilities = ops.log_softmax(of_model)
        chosen = ops.take_along_axis(log_probabilities, ops.maximum(token, 0)[:, None], axis=1)[:, 0]
        likeliest, ids = ops.top_k(log_probabilities, min(TOP_TOKENS, logits.shape[-1]))
        news += [chosen, _filled(ops.cast(ids, "int32")), _filled(likeliest)]
    if penalises:
        ids = ops.arange(seen.shape[1], dtype="int32")[None]
        seen = ops.logical_or(seen, ids == token[:, None])
    found = [
        backend.slice_update(whole, new[:, None], (0, step, *[0] * (len(new.shape) - 1)))
        for whole, new in zip(found, news, strict=True)
    ]
    drawn = ops.where(done, drawn, drawn + 1)
    ended = ops.logical_or(ops.any(token[:, None] == rows["end_ids"], axis=-1), drawn >= rows["limits"])
    done = ops.logical_or(done, ops.logical_or(ended, token == NO_TOKEN))
    return token, drawn, done, seen, found


def _filled(top):
    """The likeliest of a vocabulary that has fewer tokens, with nothing behind."""
    return ops.pad(top, ((0, 0), (0, TOP_TOKENS - top.shape[1])))
