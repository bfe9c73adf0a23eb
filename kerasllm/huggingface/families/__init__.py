"""The architectures of Hugging Face that are read and written, by the `model_type` of their config.json."""

from kerasllm.huggingface.families import bert, gpt2, llama
from kerasllm.huggingface.families.family import Family

FAMILIES = {**gpt2.FAMILIES, **llama.FAMILIES, **bert.FAMILIES}

__all__ = ["FAMILIES", "Family"]
