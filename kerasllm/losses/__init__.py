"""Losses over tokens: all of them reduce one log-probability for each label, (B, T), and none needs all logits at once.

targets.py         labels and their weights, from what `fit` gives
likelihood.py      log-probabilities, from logits or chunk by chunk from hidden states
items.py           `ItemLoss`: what a loss is a mean over
base.py            `LogProbabilityLoss`: how it is called, summed and saved
cross_entropy.py   `TokenCrossentropy`
preferences.py     `DPO`, `SimPO`, `ORPO`, `KTO`, over answers that were preferred to others
unlearning.py      `Unlearning`, over documents that are to be forgotten and others to be kept
policy.py          `GRPO`, over answers that the model drew
distillation.py    `Distillation`, from what a teacher says
bradley_terry.py   `BradleyTerry`, over rewards of texts
contrastive.py     `InfoNCE`, over vectors of texts; `MatchingSoftmax` and `MatchingSigmoid`, of pictures and texts
"""

from kerasllm.losses.base import LogProbabilityLoss
from kerasllm.losses.bradley_terry import BradleyTerry
from kerasllm.losses.contrastive import InfoNCE, MatchingSigmoid, MatchingSoftmax
from kerasllm.losses.cross_entropy import TokenCrossentropy
from kerasllm.losses.distillation import Distillation
from kerasllm.losses.likelihood import OutputLayer
from kerasllm.losses.policy import GRPO
from kerasllm.losses.preferences import DPO, KTO, ORPO, SimPO
from kerasllm.losses.targets import token_weights
from kerasllm.losses.unlearning import Unlearning

__all__ = [
    "DPO",
    "GRPO",
    "KTO",
    "ORPO",
    "BradleyTerry",
    "Distillation",
    "InfoNCE",
    "LogProbabilityLoss",
    "MatchingSigmoid",
    "MatchingSoftmax",
    "OutputLayer",
    "SimPO",
    "TokenCrossentropy",
    "Unlearning",
    "token_weights",
]


def __dir__():  # what completion shows
    return __all__
