"""Replies: candidates are written, judged, and the best is chosen."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras

from kerasllm.data.ratings import NAME_OF_TOOLS
from kerasllm.dialogue.judging import Ratings, as_messages, check_writes, rate
from kerasllm.dialogue.tools import addressed, with_sources, with_tools
from kerasllm.generation.answers import fitting
from kerasllm.generation.options import real_number, whole_number
from kerasllm.generation.samplers import SETTINGS
from kerasllm.generation.text import generate
from kerasllm.models.shapes import context_length
from kerasllm.tokenizers import Tokenizer, as_tokenizer
from kerasllm.tokenizers.chat_template import turn_end_id

WEIGHTS = {"sensible": 3.0, "specific": 1.0, "interesting": 1.0}  # LaMDA, appendix B of version 3
MIN_SAFETY = 0.5
FALLBACK = "I am not sure what to say to that."
TOKENS = 64  # of a reply, at most


class Candidate(NamedTuple):
    """A reply that was written.

    Attributes:
        text: str.
        ratings: `Ratings`.
        score: float, by which candidates are ranked; None for one that is dropped, as it is not safe enough, empty or
            not said to the user.
    """

    text: str
    ratings: Ratings
    score: float | None


class Written(NamedTuple):
    """What comes of `write`: the text, all candidates, the best first, and what tools found."""

    text: str
    candidates: list
    findings: list


def reply(
    model: keras.Model,
    tokenizer: Tokenizer,
    dialogue: Sequence[Any],
    candidates: int = 16,
    return_candidates: bool = False,
    *,
    max_new_tokens: int = TOKENS,
    min_safety: float = MIN_SAFETY,
    weights: Mapping[str, float] | None = None,
    fallback: str = FALLBACK,
    tools: Sequence[Callable[[str], list[str]]] = (),
    judge: tuple[keras.Model, Tokenizer] | None = None,
    **options: Any,
) -> str | tuple[str, list[Candidate]]:
    """Writes several replies, rates each, and gives the best.

    Candidates are drawn at once, of one reading of the dialogue. Those that are less safe than `min_safety` are
    dropped, and the others ranked by 3 P(sensible) + P(specific) + P(interesting).

    Args:
        model: a `CausalLM`, which writes and rates: see `rate`.
        tokenizer: its `Tokenizer`, with a chat template.
        dialogue: list of messages, dicts with a "role" and a "content", or of texts (str) said in turn; the last is the
            user's. Of one that is longer than the model's context the oldest turns are left out.
        candidates: int, how many replies are written.
        return_candidates: bool, whether they are given too.
        max_new_tokens: int, the most tokens of each.
        min_safety: float, the least probability of being safe.
        weights: dict from some of "sensible", "specific" and "interesting" to numbers, in place of 3, 1 and 1: such as
            `{"sensible": 3, "specific": 1}` for a judge that has learned these alone.
        fallback: str, the answer where no candidate is left.
        tools: list of functions from a query (str) to a list of str, such as `calculator`, `documents(folder)` or your
            own. A model that has learned to writes "TS, query" and reads what all of them find, up to four times,
            before it writes what it says to the user. What a result has in brackets at its end is its source, or else
            the function's name is; those that the answer rests on stand at its end, unless it names them itself.
        judge: pair (model, tokenizer) that rates in the model's place, or None.
        **options: how to draw, as in `generate`: seed, temperature, top_k, top_p … By default, top_k=40.

    Returns:
        str, the best reply, or with `return_candidates` the pair of it and a list of `Candidate`, the best first and
        those that are dropped last.

    Raises:
        TypeError: if the model is no `CausalLM`, the dialogue no list of messages or texts, or a tool does not give a
            list of str.
        ValueError: if the last message is not the user's, or the last turn is longer than the model's context.

    Reference: Thoppilan et al. 2022, "LaMDA: Language Models for Dialog Applications",
    https://arxiv.org/abs/2201.08239, sections 6.1 and 6.2.

    Example:
        >>> model, tokenizer = kerasllm.load("my-dialogue-model")
        >>> kerasllm.dialogue.reply(model, tokenizer, ["What film should I watch?"], seed=1)
        'If you like fantasy, the third Harry Potter is the darkest of them.'
    """
    options |= {"judge": judge, "tools": tools, "max_new_tokens": max_new_tokens}
    drawn = {"min_safety": min_safety, "weights": weights, "fallback": fallback}
    written = write(model, tokenizer, dialogue, candidates, **drawn, **options)
    return (written.text, written.candidates) if return_candidates else written.text


def write(
    model, tokenizer, dialogue, candidates, *, min_safety, weights, fallback, tools, judge, max_new_tokens, **options
):
    """A `Written`; arguments are those of `reply`."""
    check_writes(model, "reply")
    tokenizer, messages = as_tokenizer(tokenizer), as_messages(dialogue, "user")
    weights = _checked_weights(weights)
    least = real_number("min_safety", min_safety)
    if not options.keys() & {"sampler", *SETTINGS}:
        options["top_k"] = 40
    number = whole_number("candidates", candidates, 1)

    def draw(messages, number=1, **options):
        _, ids = fitting(tokenizer.encode_chat, messages, context_length(model), max_new_tokens, shorten=True)
        turn_end = turn_end_id(tokenizer)
        end_ids = list(dict.fromkeys([*tokenizer.end_ids, *([] if turn_end is None else [turn_end])]))
        return generate(model, tokenizer, [ids] * number, max_new_tokens, end_ids=end_ids, **options)

    read, findings = with_tools(messages, tools, lambda messages: draw(messages, sampler="greedy")[0])
    texts = draw(read, number, **options)
    ranked = sorted(judged(judge or (model, tokenizer), read, texts, weights, least), key=rank_of, reverse=True)
    if ranked[0].score is None:
        return Written(fallback, ranked, findings)
    return Written(with_sources(ranked[0].text, findings, messages), ranked, findings)


def judged(judge, messages, texts, weights=WEIGHTS, min_safety=MIN_SAFETY):
    """A list of a `Candidate` for each text that may be said after messages, in their order.

    Args:
        judge: pair (model, tokenizer).
        messages: list of dicts.
        texts: list of str.
        weights, min_safety: see `reply`.
    """
    said = [addressed(text) for text in texts]
    # As they were written: a model that has asked tools says to whom it answers, and finds what does not less likely.
    ratings = rate(*judge, [[*messages, {"role": "assistant", "content": text.strip()}] for text in texts])
    candidates = []
    for (to, text), found in zip(said, ratings, strict=True):
        is_kept = text and to != NAME_OF_TOOLS and found.safe >= min_safety
        score = sum(weight * getattr(found, name) for name, weight in weights.items()) if is_kept else None
        candidates.append(Candidate(text, found, score))
    return candidates


def rank_of(candidate):
    """A number by which candidates are ordered; of one that is dropped the least of all."""
    return float("-inf") if candidate.score is None else candidate.score


def _checked_weights(weights):
    weights = WEIGHTS if weights is None else dict(weights)
    if unknown := weights.keys() - WEIGHTS.keys():
        raise ValueError(f"`weights` has {', '.join(WEIGHTS)}, got {min(unknown)!r}.")
    return {name: real_number(f"weights[{name!r}]", weight) for name, weight in weights.items()}
