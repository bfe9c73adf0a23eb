"""Whole language models, described by one config."""

from kerasllm.models.causal_lm import CausalLM
from kerasllm.models.config import TransformerConfig
from kerasllm.models.growing import with_new_tokens
from kerasllm.models.keras_hub import from_keras_hub
from kerasllm.models.masked_lm import MaskedLM
from kerasllm.models.seq2seq_lm import Seq2SeqLM

__all__ = ["CausalLM", "MaskedLM", "Seq2SeqLM", "TransformerConfig", "from_keras_hub", "with_new_tokens"]
