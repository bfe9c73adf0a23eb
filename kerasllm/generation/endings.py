"""What a model makes of endings of texts that share their beginnings, which are read once.

Shapes: N texts, U different beginnings, P places for them, T for endings, E places of interest, D d_model, V vocab.
"""

import functools

import keras
import numpy as np
from keras import ops

from kerasllm import backend
from kerasllm.generation.buffers import buffer_lengths, fill_buffers, shared_prompts
from kerasllm.generation.loop import NOT_FINITE
from kerasllm.layers import taps
from kerasllm.layers.named_adapters import adapters_in_use
from kerasllm.models.shapes import length_dependent_rotations

_WIDTH = 16  # of which the lengths of endings are multiples, so that shapes are few


def ending_logits(model, beginnings, endings, places):
    """Logits by which a model would draw some tokens of endings.

    Args:
        model: CausalLM.
        beginnings: list of N lists of int, token ids. Equal ones are read once.
        endings: list of N lists of int, what follows each.
        places: list of N lists of E ints: where in its ending a token stands that is of interest, 1 or more.

    Returns:
        float32 (N, E, V): for each such token, what the model makes of all before it.

    Raises:
        ValueError: if a text is longer than the model's context, or turned otherwise as a whole than its beginning is
            ("dynamic" and "longrope" rotary positions); if logits are not finite.

    Example:
        >>> ending_logits(model, [[1, 2]], [[3, 4, 5]], [[1, 2]]).shape
        (1, 2, 100)
    """
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
    prompts = [{"token_ids": beginning} for beginning in beginnings]
    first, rows = shared_prompts(prompts) or (np.arange(len(prompts), dtype="int32"),) * 2
    P, _ = buffer_lengths(model, max(map(len, beginnings)), 1)
    inputs, padding = fill_buffers([prompts[row] for row in first], P, P)
    T = -(-max(map(len, endings)) // _WIDTH) * _WIDTH
    tokens = np.zeros((len(endings), T), "int32")
    for row, ending in zip(tokens, endings, strict=True):
        row[: len(ending)] = ending
    read = _compiled(model)(inputs["token_ids"], padding, rows, tokens, np.array(places, "int32"))
    logits = np.asarray(ops.convert_to_numpy(read), "float32")
    if not np.isfinite(logits.max(axis=-1)).all():
        raise ValueError(NOT_FINITE)
    return logits


def _compiled(model):
    compiled = taps.compiled_for(model, "_compiled_decoders")
    key = ("endings", frozenset(map(id, model.weights)), adapters_in_use(model))
    if key not in compiled:
        read = functools.partial(_read, model)
        compiled[key] = backend.compile_function(read, model.variables, xla=False, by_shape=True)
    return compiled[key]


def _read(model, beginnings, padding, rows, endings, places):
    """float (N, E, V), of beginnings (U, P), of which each row of endings (N, T) follows one, rows (N,)."""
    (U, P), T = ops.shape(beginnings), ops.shape(endings)[1]
    columns = ops.arange(P + T, dtype="int32")[None]
    positions = ops.clip(columns - padding[:, None], 0, model.config.max_length - 1)
    real = columns >= padding[:, None]
    with backend.sharing():
        cache = model.init_cache(U, P + T, full=True)
        options = {"training": False, "last_only": True}
        _, cache = model.hidden_states(beginnings, real, positions[:, :P], cache, 0, **options)
        positions, real, cache = keras.tree.map_structure(lambda x: ops.take(x, rows, axis=0), (positions, real, cache))
        x, _ = model.hidden_states(endings, real, positions[:, P:], cache, P, training=False)
    return ops.cast(model.logits(ops.take_along_axis(x, places[:, :, None] - 1, axis=1)), "float32")
