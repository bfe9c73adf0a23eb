"""Whole language models, described by one config."""

from kerasllm.models.causal_lm import CausalLM
from kerasllm.models.config import TransformerConfig

__all__ = ["CausalLM", "TransformerConfig"]
