"""Dialogue in LaMDA's way: a model writes several replies, rates each, asks tools for facts, and gives the best.

`reply` does all of it, `rate` is the judge alone, and `keep_good` keeps dialogues that it finds good.
`calculator`, `documents` and `translator` are tools. `dialogue_scores` measures replies, and `judge_scores` the judge.
`kerasllm.data.dialogue_dataset` is what a model learns both from. Reference: https://arxiv.org/abs/2201.08239.
"""

from kerasllm.dialogue.arithmetic import calculator
from kerasllm.dialogue.filtering import keep_good
from kerasllm.dialogue.judging import Ratings, rate
from kerasllm.dialogue.retrieval import documents
from kerasllm.dialogue.scores import DialogueScores, dialogue_scores, judge_scores
from kerasllm.dialogue.tools import translator
from kerasllm.dialogue.writing import Candidate, reply

__all__ = [
    "Candidate",
    "DialogueScores",
    "Ratings",
    "calculator",
    "dialogue_scores",
    "documents",
    "judge_scores",
    "keep_good",
    "rate",
    "reply",
    "translator",
]
