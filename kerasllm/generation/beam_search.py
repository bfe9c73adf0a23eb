"""Beam search: likely texts, found by keeping the best few at every step.

Shapes: B rows (source texts), k beams, N tokens of a target, V vocab.
"""

import functools

import keras
from keras import ops

from kerasllm import backend


def beam_search(next_logits, cache, targets, limits, settings, rule_state, rule, renormalises):
    """Finds the k targets of each row whose mean log-probability per token is highest, as far as beams reach.

    A row ends when k of its targets have ended and none that goes on stands higher than they do, or any does, if it is
    to stop early; or at its limit, where every target ends as it is. With one beam this is greedy decoding.

    Args:
        next_logits: function (ids (B x k, 1), cache, index) -> (logits (B x k, V), cache). Tensors of the cache are
            (B x k, ...), the beams of a row side by side.
        cache: list of a `BlockCache` for each block.
        targets: int32 (B, k, N + 1), from `blank_targets`: what is to be filled.
        limits: int32 (B,), the most tokens of each row, at most N.
        settings: from `search_settings`.
        rule_state: from `start_rule`.
        rule: LogitsRule.
        renormalises: bool. Probabilities are those among the tokens that the rule allows.

    Returns:
        tokens int32 (B, k, N), best first, each up to its end token, where it has one, with "pad_id" behind it; and
        their scores float32 (B, k): the sum of log-probabilities over the number of tokens, the end token included, to
        the power of "length_penalty".

    Reference: Sutskever et al. 2014, https://arxiv.org/abs/1409.3215
    """
    B, k = ops.shape(targets)[:2]
    lowest = ops.full((B, k), -float("inf"), "float32")
    # All beams begin alike, so that only the first may count.
    scores = ops.where(ops.arange(k, dtype="int32")[None] == 0, 0.0, lowest)
    done = ops.zeros((B,), "bool")

    def is_unfinished(index, tokens, scores, best, best_scores, done, cache, rule_state):
        return ops.logical_not(ops.all(done))

    def step(index, tokens, scores, best, best_scores, done, cache, rule_state):
        ids = ops.reshape(ops.take(tokens, [index], axis=2), (B * k, 1))
        logits, cache = next_logits(ids, cache, index)
        is_last = ops.repeat(index + 1 >= limits, k)
        ruled = functools.partial(rule.apply, state=rule_state)
        logits = _log_probabilities(logits, ruled, index, is_last, settings, renormalises)
        total = scores[:, :, None] + ops.reshape(logits, (B, k, -1))
        V = ops.shape(total)[2]
        # Twice as many as beams, for at most half of them end.
        total, place = ops.top_k(ops.reshape(total, (B, k * V)), 2 * k)
        beam, token = place // V, ops.cast(place % V, "int32")
        tokens = ops.take_along_axis(tokens, beam[:, :, None], axis=1)
        tokens = backend.slice_update(tokens, token[:, :, None], (0, 0, index + 1))
        ended = token == settings["end_id"]

        full = index + 1 >= limits
        ends = ops.logical_and(ops.logical_or(ended, full[:, None]), ops.arange(2 * k)[None] < k)
        ends = ops.logical_and(ends, ops.logical_not(done)[:, None])
        divisor = ops.cast(index + 1, "float32") ** settings["length_penalty"]
        candidates = ops.concatenate([best_scores, ops.where(ends, total / divisor, -float("inf"))], axis=1)
        best_scores, order = ops.top_k(candidates, k)
        best = ops.take_along_axis(ops.concatenate([best, tokens], axis=1), order[:, :, None], axis=1)

        scores, order = ops.top_k(ops.where(ended, -float("inf"), total), k)
        stands = ops.logical_or(best_scores[:, -1] >= scores[:, 0] / divisor, settings["early_stopping"])
        settled = ops.logical_and(best_scores[:, -1] > -float("inf"), stands)
        done = ops.logical_or(done, ops.logical_or(full, settled))
        tokens = ops.take_along_axis(tokens, order[:, :, None], axis=1)
        rows = ops.arange(B, dtype="int32")[:, None] * k + ops.cast(ops.take_along_axis(beam, order, axis=1), "int32")
        rows = ops.reshape(rows, (B * k,))
        cache = [block.of_rows(rows) for block in cache]
        token = ops.reshape(ops.take_along_axis(token, order, axis=1), (B * k,))
        rule_state = rule.advance(_rows_of_state(rule_state, rows), token)
        return index + 1, tokens, scores, best, best_scores, done, cache, rule_state

    state = (ops.convert_to_tensor(0, "int32"), targets, scores, targets, lowest, done, cache, rule_state)
    _, _, _, best, best_scores, *_ = backend.while_loop(is_unfinished, step, state)
    return best[:, :, 1:], best_scores


def _rows_of_state(state, rows):
    """The state of a rule for other rows; what it has one row of holds for all."""
    return keras.tree.map_structure(lambda part: part if part.shape[0] == 1 else ops.take(part, rows, axis=0), state)


def _log_probabilities(logits, ruled, index, is_last, settings, renormalises):
    """Log-probabilities (B x k, V) of what stands behind place `index`, from logits: minus infinity for what must not,
    and for all but a first token that is prescribed, or the end at the last place, which cost nothing.
    """
    logits = ruled(ops.log_softmax(ops.cast(logits, "float32")))
    must_end = ops.logical_and(is_last, settings["ends_at_last"])
    must_begin = ops.logical_and(settings["first_id"] >= 0, index == 0)
    prescribed = ops.logical_or(must_end, must_begin)[:, None]
    token = ops.where(must_end, settings["end_id"], settings["first_id"])[:, None]
    ids = ops.arange(ops.shape(logits)[-1], dtype="int32")[None]
    logits = ops.where(prescribed, ops.where(ids == token, 0.0, -float("inf")), logits)
    return ops.log_softmax(logits) if renormalises else logits


def search_settings(settings, *, start_id, end_id, pad_id, first_id=None):
    """The scalar tensors that `beam_search` takes, a dict.

    Args:
        settings: BeamSettings.
        start_id, end_id, pad_id: int, what targets begin and end with, and what fills them up.
        first_id: int or None, what every target goes on with.
    """
    whole = {"start_id": start_id, "first_id": -1 if first_id is None else first_id, "end_id": end_id, "pad_id": pad_id}
    flags = {name: getattr(settings, name) for name in ("early_stopping", "ends_at_last")}
    return {
        **{name: ops.convert_to_tensor(number, "int32") for name, number in whole.items()},
        **{name: ops.convert_to_tensor(flag, "bool") for name, flag in flags.items()},
        "length_penalty": ops.cast(settings.length_penalty, "float32"),
    }


def search_rule(rules, vocab_size, *, start_id, end_id, pad_id, first_id=None):
    """The `LogitsRule` of targets.

    Args:
        rules: Rules.
        vocab_size: int, the ids that the tokenizer has.
        start_id, end_id, pad_id, first_id: see `search_settings`.
    """
    hidden = tuple({start_id, pad_id} - {end_id})
    return rules.as_rule([end_id], vocab_size, hidden_ids=hidden, first=0 if first_id is None else 1)


def blank_targets(num_rows, num_beams, length, settings):
    """Targets before anything is known of them: a start token with padding behind it, int32 (B, k, N + 1)."""
    shape = (num_rows, num_beams, length)
    start = ops.full((*shape[:2], 1), settings["start_id"], "int32")
    return ops.concatenate([start, ops.full(shape, settings["pad_id"], "int32")], axis=2)


def start_rule(rule, targets, vocab_size):
    """The state of a rule for targets from `blank_targets`."""
    rows = ops.reshape(targets, (-1, ops.shape(targets)[2]))
    is_start = ops.broadcast_to(ops.arange(ops.shape(rows)[1])[None] == 0, ops.shape(rows))
    return rule.start(rows, is_start, vocab_size)


def search_targets(model, source_ids, source_mask, targets, limits, settings, rule_state, rule, renormalises):
    """Encodes sources once and searches their targets.

    Args:
        model: a `Seq2SeqLM`.
        source_ids: int32 (B, S).
        source_mask: bool (B, S), False for padding.
        targets, limits, settings, rule_state, rule, renormalises: see `beam_search`.

    Returns:
        As `beam_search`.
    """
    k, places = ops.shape(targets)[1:]
    encoded = ops.repeat(model.encode(source_ids, source_mask, training=False), k, axis=0)
    source_mask = ops.repeat(source_mask, k, axis=0)

    def next_logits(ids, cache, index):
        logits, cache = model.decode(ids, None, source_mask, cache=cache, cache_index=index, training=False)
        return logits[:, 0], cache

    cache = model.init_cache(encoded, places - 1)
    return beam_search(next_logits, cache, targets, limits, settings, rule_state, rule, renormalises)
