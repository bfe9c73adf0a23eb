"""Text to another text: sources are encoded, their targets searched by `beam_search.py`, and decoded.

Shapes: B rows, S source time, N tokens of a target.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from kerasllm import backend
from kerasllm.generation.beam_search import blank_targets, search_rule, search_settings, search_targets, start_rule
from kerasllm.generation.loop import NOT_FINITE
from kerasllm.generation.options import TRANSLATION_WORDS, whole_number
from kerasllm.generation.prompts import as_texts
from kerasllm.generation.rules import LogitsRule
from kerasllm.generation.settings import BeamSettings, beam_settings
from kerasllm.generation.standard_rules import Rules
from kerasllm.layers import taps
from kerasllm.layers.named_adapters import adapters_in_use
from kerasllm.models import Seq2SeqLM
from kerasllm.tokenizers import Tokenizer
from kerasllm.tokenizers.sides import Sides
from kerasllm.words import explain_keywords

SMALLEST_BUCKET = 16


class Translation(NamedTuple):
    """One of several translations of a text: the text, and its score (see `beam_search`), 0 at most."""

    text: str
    score: float


@explain_keywords(TRANSLATION_WORDS, also=[field.name for field in dataclasses.fields(Rules)])
def translate(
    model: Seq2SeqLM,
    tokenizer: Tokenizer | tuple[Tokenizer, Tokenizer],
    texts: str | Iterable[str],
    num_beams: int | None = None,
    *,
    num_best: int | None = None,
    length_penalty: float | None = None,
    early_stopping: bool | None = None,
    max_new_tokens: int | None = None,
    batch_size: int = 32,
    target_language: str | None = None,
    **rules: Any,
) -> str | list[str] | list[Translation] | list[list[Translation]]:
    """Translates texts, or makes of them whatever the model has learned to make.

    Args:
        model: a `Seq2SeqLM`.
        tokenizer: the model's `Tokenizer`, or a pair of them (source, target).
        texts: str or list of str; bytes and strings of NumPy and TensorFlow are read as such. One of white space alone
            stays an empty text.
        num_beams: int, how many unfinished translations beam search keeps; 1 is greedy. What is None here or below is
            that of `model.generation_settings`, which a checkpoint of Hugging Face may bring, or else the default: 4.
        num_best: int or None. Give this many translations of each text, at most `num_beams`.
        length_penalty: float. Translations are compared by the sum of log-probabilities over the number of tokens to
            this power: above 1 prefers longer ones, 0 compares the sums. Default: 1.
        early_stopping: bool. End where `num_beams` translations have ended, whatever might still come. Default: no.
        max_new_tokens: int; None means 16 more than twice the source's tokens, within the model's context.
        batch_size: int, texts at a time.
        target_language: str or None, the token of the language to write, for models that write several: "deu_Latn" for
            NLLB, "de_DE" for mBART. None means that of the model's config. The language of the sources is that for
            which the tokenizer was made.
        **rules: repetition_penalty, no_repeat_ngram_size, min_new_tokens, min_length (with what targets begin with),
            suppress_tokens, begin_suppress_tokens: see `standard_rules.Rules`. They hold for translations alone.

    Returns:
        str, or list of str: the best translation of each text. With `num_best`, for each text a list of `Translation`
        with the best first and no text twice; there are fewer where several are spelled alike.

    Raises:
        TypeError: if the model is no `Seq2SeqLM`, or a text no str.
        ValueError: if a text is longer than the model's context, or an option out of its range.

    Example:
        >>> kerasllm.translate(model, tokenizer, ["A dog runs.", "Two men talk."], num_beams=4)
    """
    if not isinstance(model, Seq2SeqLM):
        raise TypeError(f"`translate` needs a Seq2SeqLM, got {type(model).__name__}; `generate` continues texts.")
    texts = as_texts(texts)
    if isinstance(texts, str):
        return translate(  # type: ignore[return-value]  # of a list, a list
            model,
            tokenizer,
            [texts],
            num_beams,
            num_best=num_best,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            max_new_tokens=max_new_tokens,
            target_language=target_language,
            **rules,
        )[0]
    limits = {"num_beams": num_beams, "num_best": num_best, "max_new_tokens": max_new_tokens, "batch_size": batch_size}
    for name, value in limits.items():
        if value is not None:
            whole_number(name, value, 1)
    sides = Sides.of(tokenizer)
    given = {"num_beams": num_beams, "length_penalty": length_penalty, "early_stopping": early_stopping}
    settings = beam_settings(model, sides.end_id, **given, **rules)
    if num_best is not None and num_best > settings.num_beams:
        raise ValueError(f"`num_best` must be at most `num_beams` ({settings.num_beams}), got {num_best}.")
    search = Search.of(sides, model, settings, target_language)
    sources = check_sources(tokenizer, texts, model.config.max_length)
    _check_ids(sources, model.config.source_vocab_size or model.config.vocab_size)
    found = [[Translation("", 0.0)] for _ in texts]
    # Longest first: texts of like length share a batch, and what memory it takes shows at once.
    order = sorted((i for i, text in enumerate(texts) if text.strip()), key=lambda i: -len(sources[i]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        tokens, scores = _search_batch(model, search, [sources[i] for i in rows], max_new_tokens, batch_size)
        for i, row_tokens, row_scores in zip(rows, tokens, scores, strict=True):
            found[i] = _translations(sides, row_tokens, row_scores)
    if num_best is None:
        return [translations[0].text for translations in found]
    return [translations[:num_best] for translations in found]


def check_sources(tokenizer, texts, longest):
    """The ids of texts to translate, a list of lists of int.

    Args:
        tokenizer: as in `translate`.
        texts: list of str.
        longest: int, the most tokens that the model reads.

    Raises:
        ValueError: if a text is longer than that.
    """
    sources = list(Sides.of(tokenizer).encode_sources(texts))
    for number, ids in enumerate(sources):
        if len(ids) > longest:
            raise ValueError(
                f"Text {number} has {len(ids)} tokens with its end token, and the model reads at most {longest}: cut "
                f"it into sentences. It begins with {texts[number]:.40}"
            )
    return sources


def _check_ids(sources, rows):
    for number, ids in enumerate(sources):
        if max(ids) >= rows:
            raise ValueError(
                f"Text {number} has token id {max(ids)}, but the model knows ids from 0 to {rows - 1}. Was it encoded "
                "with another tokenizer?"
            )


def default_limits(source_lengths, settings):
    """The most tokens of targets where nothing else is said, int (B,): within what the settings say, twice as many as
    of the sources, and a few more."""
    limits = ops.maximum(2 * source_lengths + 16, max(settings.rules.min_length, settings.rules.min_new_tokens))
    return limits if settings.most is None else ops.minimum(limits, settings.most)


class Search(NamedTuple):
    """How the targets of one call are searched: settings, and what `beam_search` takes of them."""

    settings: BeamSettings
    tensors: dict
    rule: LogitsRule

    @classmethod
    def of(cls, sides, model, settings, target_language=None):
        start_id, first_id = _beginning(sides, model.config, target_language)
        ids = {"start_id": start_id, "end_id": sides.end_id, "pad_id": sides.pad_id, "first_id": first_id}
        rule = search_rule(settings.rules, sides.target.vocab_size, **ids)
        return cls(settings, search_settings(settings, **ids), rule)


def _beginning(sides, config, target_language):
    """What targets begin with, and what they must go on with or None: a language is the one or the other."""
    start_id = sides.start_id if config.decoder_start_id is None else config.decoder_start_id
    if target_language is None:
        return start_id, config.forced_bos_id
    language = sides.target.engine.token_to_id(target_language)
    if language is None:
        raise ValueError(f"The tokenizer has no token {target_language!r} for a language to write.")
    if start_id in (sides.end_id, sides.pad_id, sides.target.start_id):
        return start_id, language
    return language, None


def _search_batch(model, search, sources, max_new_tokens, batch_size):
    """Tokens (B, k, N) and scores (B, k) of one batch. Rows, sources and targets are rounded up to buckets, so that
    another batch seldom compiles anew."""
    B = min(_bucket(len(sources), 1), max(batch_size, len(sources)))
    S = min(_bucket(max(map(len, sources))), model.config.max_length)
    source_ids = np.zeros((B, S), "int32")
    source_mask = np.zeros((B, S), bool)
    for row, ids in enumerate(sources):
        source_ids[row, : len(ids)] = ids
        source_mask[row, : len(ids)] = True
    source_mask[len(sources) :, 0] = True  # rows that fill up the batch, and end at once
    limits = np.ones(B, "int32")
    longest = model.config.max_length
    lengths = np.array([len(ids) for ids in sources], "int32")
    wanted = default_limits(lengths, search.settings) if max_new_tokens is None else max_new_tokens
    limits[: len(sources)] = np.minimum(wanted, longest)
    N = min(_bucket(int(limits.max())), longest)
    targets = blank_targets(B, search.settings.num_beams, N, search.tensors)
    rule_state = start_rule(search.rule, targets, model.config.vocab_size)
    compiled = _compiled_search(model, search.rule, search.settings.renormalises)
    tokens, scores = compiled(source_ids, source_mask, targets, limits, search.tensors, rule_state)
    return np.array(tokens)[: len(sources)], np.array(scores)[: len(sources)]


def _bucket(size, smallest=SMALLEST_BUCKET):
    bucket = smallest
    while bucket < size:
        bucket *= 2
    return bucket


def _compiled_search(model, rule, renormalises):
    """`search_targets`, compiled once for each model and kind of rule (on JAX, for each shape)."""
    compiled = taps.compiled_for(model, "_compiled_searches")
    key = rule.graph_key, renormalises, frozenset(map(id, model.weights)), adapters_in_use(model)
    if key not in compiled:

        def search(*arguments):
            return search_targets(model, *arguments, rule, renormalises)

        # Without XLA: its programs are no faster here (batches of beams keep the matmuls busy) and take longer to make.
        compiled[key] = backend.compile_function(search, model.variables, xla=False)
    return compiled[key]


def _translations(sides, tokens, scores):
    """The texts of one row with their scores, each text once."""
    if not (scores > -np.inf).any():
        raise ValueError(NOT_FINITE)
    texts = {}
    for ids, score in zip(tokens.tolist(), scores.tolist(), strict=True):
        if score > -np.inf:
            end = ids.index(sides.end_id) if sides.end_id in ids else len(ids)
            texts.setdefault(sides.target.decode(ids[:end]), score)
    return [Translation(text, score) for text, score in texts.items()]
