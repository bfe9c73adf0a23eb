"""The architectures of Hugging Face that are read and written, by the `model_type` of their config.json."""

from kerasllm.huggingface.families.bert import FAMILIES as BERT_FAMILIES
from kerasllm.huggingface.families.gpt2 import FAMILIES as GPT2_FAMILIES
from kerasllm.huggingface.families.llama import FAMILIES as LLAMA_FAMILIES

FAMILIES = {**GPT2_FAMILIES, **LLAMA_FAMILIES, **BERT_FAMILIES}

__all__ = ["FAMILIES"]
