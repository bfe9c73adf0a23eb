"""What a model makes of endings of texts that share their beginnings, which are read once.

Shapes: N texts, U different beginnings, P places for them, T for endings, E places of interest, D d_model, V vocab.
"""

import functools

import keras
import numpy as np
from keras import ops

from kerasllm import backend
from kerasllm.generation.buffers import fill_buffers, shared_prompts
from kerasllm.generation.loop import NOT_FINITE
from kerasllm.layers import taps
from kerasllm.layers.named_adapters import adapters_in_use
from kerasllm.losses.likelihood import chunked_log_probabilities, log_probabilities
from kerasllm.models.shapes import length_dependent_rotations

_STEP = 1 if backend.IS_TENSORFLOW else 16  # of lengths, where each shape is compiled for itself
_LOGITS_AT_ONCE = 256


def read_endings(model, beginnings, endings, places):
    """What a model says of endings, and by what logits it would draw some of their tokens.

    Args:
        model: CausalLM.
        beginnings: list of N lists of int, token ids. Equal ones are read once.
        endings: list of N lists of int, what follows each.
        places: list of N lists of E ints, of tokens of its ending; E may be 0.

    Returns:
        float32 (N, T), the log-probability of each token after all before it, 0 behind an ending; and float32
        (N, E, V), the logits for each token that stands at a place.

    Raises:
        ValueError: if a text is longer than the model's context, or turned otherwise as a whole than its beginning is
            ("dynamic" and "longrope" rotary positions); if logits are not finite.

    Example:
        >>> log_probs, logits = read_endings(model, [[1, 2]], [[3, 4, 5]], [[1, 2]])
        >>> logits.shape
        (1, 2, 100)
    """
    _check_lengths(model, beginnings, endings)
    texts, is_token = _laid_out(beginnings, endings)
    places = np.array(places, "int32").reshape(len(endings), len(places[0]))
    read = _compiled(model, _read)(*texts, is_token.astype("float32"), places)
    log_probs, logits = (np.asarray(ops.convert_to_numpy(found), "float32") for found in read)
    if not np.isfinite(log_probs).all():
        raise ValueError(NOT_FINITE)
    return log_probs, logits


def score_endings(model, beginnings, endings):
    """How likely endings are.

    Args:
        model, beginnings, endings: as for `read_endings`.

    Returns:
        float32 (N,), the log-probability of each ending after its beginning; and bool (N,), whether each of its tokens
        is the likeliest there.

    Raises:
        ValueError: as `read_endings`; the last token of a text may lie just past the context.
    """
    _check_lengths(model, beginnings, [ending[:-1] for ending in endings])
    texts, is_token = _laid_out(beginnings, endings)
    scores = _compiled(model, _scores)(*texts, is_token)
    log_probs, is_likeliest = map(ops.convert_to_numpy, scores)
    if not np.isfinite(log_probs).all():
        raise ValueError(NOT_FINITE)
    return log_probs, is_likeliest


def _laid_out(beginnings, endings):
    """Different beginnings (U, P), the places before them (U,), which of them each ending follows (N,), and endings
    (N, T), int32; and which of these are tokens, bool (N, T)."""
    P, T = (-(-max(map(len, texts)) // _STEP) * _STEP for texts in (beginnings, endings))
    prompts = [{"token_ids": beginning} for beginning in beginnings]
    first, rows = shared_prompts(prompts) or (np.arange(len(prompts), dtype="int32"),) * 2
    inputs, padding = fill_buffers([prompts[row] for row in first], P, P)
    is_token = np.arange(T) < np.array([[len(ending)] for ending in endings])
    tokens = np.zeros((len(endings), T), "int32")
    tokens[is_token] = np.concatenate(endings)
    return (inputs["token_ids"], padding, rows, tokens), is_token


def _check_lengths(model, beginnings, endings):
    lengths = [(len(beginning), len(ending)) for beginning, ending in zip(beginnings, endings, strict=True)]
    longest = max(map(sum, lengths))
    if longest > model.config.max_length:
        raise ValueError(f"A text of {longest} tokens does not fit the model's context of {model.config.max_length}.")
    grown = np.arange(min(lengths)[0] + 1, longest + 1)
    if any(np.any(rotation.changes_at(grown)) for rotation in length_dependent_rotations(model)):
        raise ValueError(
            f"{model.name} turns what it has read otherwise as a text grows to {longest} tokens, by its "
            "`rope_scaling`, so beginnings cannot be shared: shorten the texts."
        )


def _compiled(model, function):
    compiled = taps.compiled_for(model, "_compiled_decoders")
    key = (function.__name__, frozenset(map(id, model.weights)), adapters_in_use(model))
    if key not in compiled:
        function = functools.partial(function, model)
        compiled[key] = backend.compile_function(function, model.variables, xla=False)
    return compiled[key]


def _read(model, beginnings, padding, rows, endings, is_token, places):
    """float (N, T) and (N, E, V), of beginnings (U, P), of which each row of endings (N, T) follows one, rows (N,)."""
    x = _before_each_token(model, beginnings, padding, rows, endings)
    logits = model.logits(ops.take_along_axis(x, places[:, :, None], axis=1))
    return _log_probs(model, x, endings, is_token), ops.cast(logits, "float32")


def _scores(model, beginnings, padding, rows, endings, is_token):
    logits = ops.cast(model.logits(_before_each_token(model, beginnings, padding, rows, endings)), "float32")
    log_probs = ops.where(is_token, log_probabilities(endings, logits)[0], 0.0)
    is_likeliest = ops.logical_or(ops.equal(ops.argmax(logits, axis=-1), endings), ops.logical_not(is_token))
    return ops.sum(log_probs, axis=-1), ops.all(is_likeliest, axis=-1)


def _before_each_token(model, beginnings, padding, rows, endings):
    """Hidden states (N, T, D)."""
    (U, P), T = ops.shape(beginnings), ops.shape(endings)[1]
    columns = ops.arange(P + T, dtype="int32")[None]
    positions = ops.clip(columns - padding[:, None], 0, model.config.max_length - 1)
    real = columns >= padding[:, None]
    with backend.sharing():
        cache = model.init_cache(U, P + T, full=True)
        options = {"training": False, "last_only": True}
        before, cache = model.hidden_states(beginnings, real, positions[:, :P], cache, 0, **options)
        state = before, positions, real, cache
        before, positions, real, cache = keras.tree.map_structure(lambda x: ops.take(x, rows, axis=0), state)
        x, _ = model.hidden_states(endings, real, positions[:, P:], cache, P, training=False)
    return ops.concatenate([before, x[:, :-1]], axis=1)


def _log_probs(model, x, labels, weight):
    """float32 (N, T), of hidden states (N, T, D)."""
    if model._has_plain_output_layer:
        found = chunked_log_probabilities(labels, x, model.output_layer(), _LOGITS_AT_ONCE, weight=weight)
    else:
        found = log_probabilities(labels, model.logits(x))
    return ops.where(weight != 0, found[0], 0.0)
