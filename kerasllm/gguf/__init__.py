"""GGUF, the format of llama.cpp and Ollama: one file with a model, its tokenizer and its chat template, in and out.

A file is read as the checkpoint in Hugging Face's format that it was made from: `architectures.py` says which keys and
tensors are which settings and tensors there, so that `huggingface/families` goes on saying what a model computes.
"""

from kerasllm.gguf.loading import load
from kerasllm.gguf.saving import SUFFIX, save

__all__ = ["SUFFIX", "load", "save"]
