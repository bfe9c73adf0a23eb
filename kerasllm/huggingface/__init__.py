"""Hugging Face checkpoints in and out of Keras, without torch and without transformers."""

from kerasllm.huggingface.loading import load
from kerasllm.huggingface.saving import save

__all__ = ["load", "save"]
