"""Whole language models, described by one config."""

import importlib as _importlib
import warnings as _warnings

from kerasllm.models.causal_lm import CausalLM
from kerasllm.models.classifiers import SequenceClassifier, TokenClassifier
from kerasllm.models.config import TransformerConfig
from kerasllm.models.contrastive_model import ContrastiveModel
from kerasllm.models.embedder import TextEmbedder
from kerasllm.models.growing import with_new_tokens
from kerasllm.models.image_classifier import ImageClassifier
from kerasllm.models.masked_lm import MaskedLM
from kerasllm.models.reward_model import RewardModel
from kerasllm.models.seq2seq_lm import Seq2SeqLM
from kerasllm.models.vision_language_model import VisionLanguageModel

__all__ = [
    "CausalLM",
    "ContrastiveModel",
    "ImageClassifier",
    "MaskedLM",
    "RewardModel",
    "Seq2SeqLM",
    "SequenceClassifier",
    "TextEmbedder",
    "TokenClassifier",
    "TransformerConfig",
    "VisionLanguageModel",
    "with_new_tokens",
]


def __getattr__(name):
    if name == "from_keras_hub":
        _warnings.warn(
            "`kerasllm.models.from_keras_hub` is `kerasllm.keras_hub.load`.", DeprecationWarning, stacklevel=2
        )
        return _importlib.import_module("kerasllm.keras_hub").load
    raise AttributeError(f"module 'kerasllm.models' has no attribute {name!r}")
