"""How good replies are, by LaMDA's measures, and how well a judge tells good ones from bad ones."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kerasllm.data.chats import ANSWER, checked_chat
from kerasllm.data.dialogues import with_ratings
from kerasllm.data.ratings import ATTRIBUTES, RATINGS
from kerasllm.dialogue.grounding import makes_claims
from kerasllm.dialogue.judging import rate
from kerasllm.dialogue.tools import sources_of
from kerasllm.dialogue.writing import FALLBACK, MIN_SAFETY, TOKENS, write
from kerasllm.tokenizers import Tokenizer


@dataclass(frozen=True)
class DialogueScores:
    """What `dialogue_scores` found out: shares of all replies, from 0 to 1, if nothing else is said.

    Attributes:
        sensibleness: Those that make sense and contradict nothing said before.
        specificity: Those that fit to this dialogue alone.
        interestingness: Those that catch attention, or are witty or unexpected.
        quality: The mean of these three.
        safety: Those that are safe.
        groundedness: Of those that make claims about the world, those that a source supports; None without any.
        informativeness: Those that make claims which a source supports.
        citation_rate: Of those that make claims, those that name a source; None without any.
        fallbacks: Those in whose place the fallback came, as no candidate was left.
        replies: How many were written.
    """

    sensibleness: float
    specificity: float
    interestingness: float
    quality: float
    safety: float
    groundedness: float | None
    informativeness: float
    citation_rate: float | None
    fallbacks: float
    replies: int


def dialogue_scores(
    model: keras.Model,
    tokenizer: Tokenizer,
    conversations: Iterable[Sequence[Mapping[str, Any]]],
    candidates: int = 16,
    *,
    judge: tuple[keras.Model, Tokenizer] | None = None,
    tools: Sequence[Callable[[str], list[str]]] = (),
    seed: int = 0,
    max_new_tokens: int = TOKENS,
    **options: Any,
) -> DialogueScores:
    """Has a model reply in dialogues, and measures the replies.

    The last reply of each dialogue is left out, and the model replies in its place. What raters say in the paper
    (https://arxiv.org/abs/2201.08239, section 4) a judge says here, of each attribute what it finds likelier. Whether a
    reply makes claims, and a source supports them, is told by its numbers, names and words alone: by what of them
    nobody had said, and what tools have found.

    Args:
        model, tokenizer: see `reply`.
        conversations: iterable of lists of messages.
        candidates: int, how many replies are written for each.
        judge: pair (model, tokenizer) that rates the answers, best one that has learned from other data; None for the
            model itself, which has read what tools found, too.
        tools, max_new_tokens, **options: see `reply`.
        seed: int, of the first draw; each that follows has the next.

    Returns:
        `DialogueScores`.

    Raises:
        ValueError: if no dialogue has a reply.

    Example:
        >>> chats = kerasllm.data.read_chats("test.jsonl")
        >>> print(kerasllm.dialogue.dialogue_scores(model, tokenizer, chats, judge=kerasllm.load("judge")).quality)
    """
    settings = {"min_safety": MIN_SAFETY, "weights": None, "fallback": FALLBACK, "judge": None, **options}
    settings |= {"tools": tools, "max_new_tokens": max_new_tokens}
    asked = [_before_last_reply(chat, n) for n, chat in enumerate(conversations)]
    if not asked:
        raise ValueError("There is no dialogue to reply in.")
    written = [write(model, tokenizer, chat, candidates, seed=seed + n, **settings) for n, chat in enumerate(asked)]
    ratings = np.array(_ratings(model, tokenizer, judge, asked, written)) >= 0.5
    safety, *of_quality = ratings.mean(axis=0).tolist()
    claims, supported, cited = (np.array(column, bool) for column in zip(*map(_grounds, asked, written), strict=True))
    return DialogueScores(
        *of_quality,
        quality=float(np.mean(of_quality)),
        safety=safety,
        groundedness=float(supported[claims].mean()) if claims.any() else None,
        informativeness=float((claims & supported).mean()),
        citation_rate=float(cited[claims].mean()) if claims.any() else None,
        fallbacks=float(np.mean([one.candidates[0].score is None for one in written])),
        replies=len(written),
    )


def judge_scores(
    model: keras.Model, tokenizer: Tokenizer, conversations: Iterable[Sequence[Mapping[str, Any]]], batch_size: int = 16
) -> dict[str, dict[str, float]]:
    """How well a judge tells good replies from bad ones, whose ratings are known.

    Args:
        model, tokenizer: the judge, see `rate`.
        conversations: iterable of lists of messages with "ratings"; for those without any, `rate_replies` makes them.
        batch_size: int, replies at once.

    Returns:
        A dict from the attributes that are rated to dicts of "auc", the probability that of a good and a bad reply the
        good one is rated higher; "good" and "bad", how many there are. Those rated all alike are left out.

    Example:
        >>> scores = kerasllm.dialogue.judge_scores(model, tokenizer, kerasllm.data.read_chats("held-out.jsonl"))
        >>> print(scores["sensible"]["auc"])
    """
    chats = [checked_chat(chat, f"conversations[{n}]")[0] for n, chat in enumerate(conversations)]
    rated = with_ratings(chats)
    found = rate(model, tokenizer, rated, batch_size)
    scores = {}
    for place, (name, good) in enumerate(ATTRIBUTES.items()):
        known = [(chat[-1][RATINGS].get(name), one[place]) for chat, one in zip(rated, found, strict=True)]
        values = [np.array([value for rating, value in known if rating == kind]) for kind in (good, 1 - good)]
        if all(map(len, values)):
            scores[name] = {"auc": _auc(*values), "good": len(values[0]), "bad": len(values[1])}
    return scores


def _ratings(model, tokenizer, judge, asked, written):
    """What the judge says of replies. The model itself has said it where it wrote them, but of the fallback."""
    ratings = [None if judge or one.candidates[0].score is None else one.candidates[0].ratings for one in written]
    unrated = [n for n, found in enumerate(ratings) if found is None]
    replied = [[*asked[n], {"role": ANSWER, "content": written[n].text}] for n in unrated]
    for n, found in zip(unrated, rate(*(judge or (model, tokenizer)), replied), strict=True):
        ratings[n] = found
    return ratings


def _before_last_reply(chat, number):
    messages, _ = checked_chat(chat, f"conversations[{number}]")
    last = max(place for place, message in enumerate(messages) if message["role"] == ANSWER)
    return messages[:last]


def _grounds(chat, written):
    """Whether a reply makes claims, what was found supports it, and it names a source."""
    said = " ".join(message["content"] for message in chat)
    sources = {finding.source for finding in written.findings}
    text = written.text
    for source in sources:
        text = text.replace(f"[{source}]", "")
    return (
        makes_claims(text, said),
        bool(sources_of(text, written.findings, chat)),
        any(s in written.text for s in sources),
    )


def _auc(good, bad):
    """The share of pairs in which the good one is higher; equal ones count half."""
    ordered = np.sort(bad)
    below = np.searchsorted(ordered, good, "left") + np.searchsorted(ordered, good, "right")
    return float(below.mean() / (2 * len(bad)))
