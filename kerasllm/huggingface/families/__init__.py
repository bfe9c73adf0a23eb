"""The architectures of Hugging Face that are read and written, by the `model_type` of their config.json."""

from kerasllm.huggingface.families.bart import FAMILIES as BART_FAMILIES
from kerasllm.huggingface.families.bert import FAMILIES as BERT_FAMILIES
from kerasllm.huggingface.families.deberta import FAMILIES as DEBERTA_FAMILIES
from kerasllm.huggingface.families.factorized import FAMILIES as FACTORIZED_FAMILIES
from kerasllm.huggingface.families.gemma import FAMILIES as GEMMA_FAMILIES
from kerasllm.huggingface.families.gpt2 import FAMILIES as GPT2_FAMILIES
from kerasllm.huggingface.families.gpt_neox import FAMILIES as GPT_NEOX_FAMILIES
from kerasllm.huggingface.families.llama import FAMILIES as LLAMA_FAMILIES
from kerasllm.huggingface.families.mixtures import FAMILIES as MIXTURE_FAMILIES
from kerasllm.huggingface.families.modernbert import FAMILIES as MODERNBERT_FAMILIES
from kerasllm.huggingface.families.mpnet import FAMILIES as MPNET_FAMILIES
from kerasllm.huggingface.families.opt import FAMILIES as OPT_FAMILIES
from kerasllm.huggingface.families.squared_relu import FAMILIES as SQUARED_RELU_FAMILIES
from kerasllm.huggingface.families.t5 import FAMILIES as T5_FAMILIES

FAMILIES = {
    **GPT2_FAMILIES,
    **GPT_NEOX_FAMILIES,
    **OPT_FAMILIES,
    **LLAMA_FAMILIES,
    **MIXTURE_FAMILIES,
    **SQUARED_RELU_FAMILIES,
    **GEMMA_FAMILIES,
    **BERT_FAMILIES,
    **MODERNBERT_FAMILIES,
    **FACTORIZED_FAMILIES,
    **MPNET_FAMILIES,
    **DEBERTA_FAMILIES,
    **BART_FAMILIES,
    **T5_FAMILIES,
}

__all__ = ["FAMILIES"]
