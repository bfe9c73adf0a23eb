"""Answers of models compared by a judge, two at a time, and how strong that makes each model.

M models, N comparisons.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from kerasllm.evaluation.respondent import Respondent
from kerasllm.statistics import Estimate, Evidence

_QUESTION = """Two assistants answered a question. Which answer is better: more correct, more helpful and clearer?

Question:
{prompt}

Answer A:
{a}

Answer B:
{b}

Reply with one letter alone: A if answer A is better, B if answer B is better, C if they are equally good."""
_STEPS = 50


class Verdict(NamedTuple):
    """What a judge said of two answers to a prompt.

    Attributes:
        prompt: int, the place of the prompt among all.
        models: pair of str, whose answers they are.
        score: float, 1 where the first is better, 0 where the second is, 0.5 for a tie.
        orders: pair of str, what the judge named when the first was shown first and when it was shown second: "first",
            "second" or "tie".
    """

    prompt: int
    models: tuple[str, str]
    score: float
    orders: tuple[str, str]


class PairwiseScores(NamedTuple):
    """How models did in comparisons.

    Attributes:
        verdicts: list of `Verdict`.
        strengths: dict from models to `Estimate`, the log odds with which one wins against an average one.
        consistency: float, the share of verdicts that were the same in both orders.
        first_shown: float, the share of replies other than ties that named the answer that was shown first.
    """

    verdicts: list
    strengths: dict
    consistency: float
    first_shown: float

    def record(self, model: str) -> tuple[int, int, int]:
        """How often a model won, tied and lost."""
        found = [0, 0, 0]
        for verdict in self.verdicts:
            if model in verdict.models:
                score = verdict.score if model == verdict.models[0] else 1 - verdict.score
                found[{1.0: 0, 0.5: 1, 0.0: 2}[score]] += 1
        return found[0], found[1], found[2]

    def rows(self) -> Iterator[tuple[str, str]]:
        """Rows of a table: (what, figure)."""
        for model, strength in sorted(self.strengths.items(), key=lambda pair: -pair[1].value):
            won, tied, lost = self.record(model)
            interval = f"{strength.value:+.2f} ({strength.low:+.2f} to {strength.high:+.2f})"
            yield f"{model}: {won} won, {tied} tied, {lost} lost", interval
        yield "verdicts that were the same in both orders", f"{self.consistency:.0%}"
        yield "replies that named the answer shown first", f"{self.first_shown:.0%}"

    def to_dict(self) -> dict:
        """All of it, as JSON takes it."""
        return {
            "strengths": {model: strength._asdict() for model, strength in self.strengths.items()},
            "consistency": self.consistency,
            "first_shown": None if math.isnan(self.first_shown) else self.first_shown,
            "verdicts": [verdict._asdict() for verdict in self.verdicts],
        }


def judge_answers(
    judge: keras.Model,
    tokenizer: Any,
    prompts: Sequence[str],
    answers: Mapping[str, Sequence[str]],
    *,
    seed: int = 0,
    batch_size: int = 16,
) -> PairwiseScores:
    """Compares answers to the same prompts, those of each two models, by what a judge would name the better one.

    Each two answers are shown in both orders. An answer wins that is named in both; else it is a tie (as in MT-Bench,
    Zheng et al. 2023, https://arxiv.org/abs/2306.05685). What the judge names is the likeliest of three replies, so
    that it need not write.

    Args:
        judge: a `CausalLM`, which had better be a strong one that is none of the models.
        tokenizer: its `Tokenizer`, whose chat template is used where it has one.
        prompts: list of str.
        answers: dict from names of two models or more to their answers, list of str, one for each prompt.
        seed: int, of the draws that make the intervals.
        batch_size: int, texts that the judge reads at once.

    Returns:
        `PairwiseScores`. Where `consistency` is low, or `first_shown` far from one half, the judge looks at the order
        and not at the answers, and the strengths say little.

    Raises:
        TypeError: if the judge is not a `CausalLM`.
        ValueError: for less than two models, another number of answers than of prompts, or texts that are too long.

    Example:
        >>> scores = evaluation.judge_answers(judge, tokenizer, prompts, {"base": base_answers, "tuned": tuned_answers})
        >>> scores.strengths["tuned"], scores.consistency
    """
    respondent = Respondent(judge, tokenizer, batch_size)
    if len(answers) < 2 or not prompts:
        raise ValueError(f"Give prompts and the answers of two models or more, got {len(prompts)} and {len(answers)}.")
    for model, texts in answers.items():
        if len(texts) != len(prompts):
            raise ValueError(f"{model} has {len(texts)} answers to {len(prompts)} prompts.")
    cases = list(itertools.product(range(len(prompts)), itertools.combinations(answers, 2)))
    shown = []
    for place, (one, other) in cases:
        for a, b in ((one, other), (other, one)):
            shown.append(_QUESTION.format(prompt=prompts[place], a=answers[a][place], b=answers[b][place]))
    named = _named(respondent, shown)
    verdicts = []
    for (place, models), first, swapped in zip(cases, named[::2], named[1::2], strict=True):
        orders = first, {"first": "second", "second": "first", "tie": "tie"}[swapped]
        score = {"first": 1.0, "second": 0.0, "tie": 0.5}[orders[0]] if orders[0] == orders[1] else 0.5
        verdicts.append(Verdict(place, models, score, orders))
    consistency = float(np.mean([verdict.orders[0] == verdict.orders[1] for verdict in verdicts]))
    is_first = [name == "first" for name in named if name != "tie"]
    strengths = bradley_terry([(v.models, v.score, v.prompt) for v in verdicts], seed=seed)
    return PairwiseScores(verdicts, strengths, consistency, float(np.mean(is_first)) if is_first else math.nan)


def _named(respondent, texts):
    """What the judge names of each of some texts: list of "first", "second" or "tie"."""
    contexts = [respondent.encode_question(text) for text in texts]
    letters = [respondent.encode(letter, bare=True) for letter in "ABC"]
    pairs = list(itertools.product(contexts, letters))
    found = np.array([log_prob for log_prob, _ in respondent.log_likelihoods(pairs)]).reshape(-1, 3)
    return [("first", "second", "tie")[n] for n in found.argmax(axis=1)]


def bradley_terry(comparisons: Sequence[tuple[tuple[str, str], float, Any]], *, seed: int = 0) -> dict[str, Estimate]:
    """The strengths of models by which their wins are likeliest (Bradley and Terry 1952), with intervals.

    One wins against another with the odds exp(strength - strength). A tie is half a win of each. Each two that were
    compared are taken to have tied once more: else one that has won all would be infinitely strong.

    Args:
        comparisons: list of ((model, other), score, prompt): 1 where the first won, 0 where the second did, 0.5 for a
            tie. Those of one prompt are drawn together for the intervals.
        seed: int, of these draws.

    Returns:
        dict from models to `Estimate` (value, low, high), whose values have the mean 0.

    Raises:
        ValueError: if there are no comparisons, or some models are not compared with the others.

    Example:
        >>> bradley_terry([(("a", "b"), 1, 0), (("a", "b"), 0.5, 1)])["a"].value
        0.3465735902799727
    """
    models = sorted({model for both, _, _ in comparisons for model in both})
    M = len(models)
    sums = np.zeros((len(comparisons), M, M))
    for row, ((one, other), score, _) in enumerate(comparisons):
        i, j = models.index(one), models.index(other)
        sums[row, i, j], sums[row, j, i] = score, 1 - score
    met = sums.sum(axis=0) + sums.sum(axis=0).T > 0
    if not M or not np.linalg.matrix_power(met + np.eye(M), M).all():
        raise ValueError("There are models that are not compared with the others, not even by way of some.")

    def statistic(sums):
        strengths = _strengths(sums.reshape(*sums.shape[:-1], M, M) + 0.5 * met)
        return {model: strengths[..., i] for i, model in enumerate(models)}

    clusters = np.unique([str(prompt) for _, _, prompt in comparisons], return_inverse=True)[1]
    evidence = Evidence(sums.reshape(len(sums), -1), [""] * len(sums), statistic, clusters)
    return evidence.estimates(seed)


def _strengths(wins):
    """Log strengths (..., M) of wins (..., M, M) of each over each, by Newton's method."""
    M = wins.shape[-1]
    games, strengths = wins + np.swapaxes(wins, -1, -2), np.zeros(wins.shape[:-1])
    for _ in range(_STEPS):
        odds = 1 / (1 + np.exp(strengths[..., None, :] - strengths[..., None]))
        slope = (wins - games * odds).sum(axis=-1)
        bend = games * odds * (1 - odds)
        # What is the same for all strengths has no slope: it is held where it is.
        matrix = np.eye(M) * bend.sum(axis=-1)[..., None] - bend + 1 / M
        step = np.linalg.solve(matrix, slope[..., None])[..., 0]
        strengths = strengths + np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-10:
            break
    return strengths - strengths.mean(axis=-1, keepdims=True)
