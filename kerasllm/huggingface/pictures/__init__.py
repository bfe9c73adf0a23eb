"""Checkpoints of models that see.

encoders.py      the halves: encoders of pictures, and CLIP's and SigLIP's of texts
sighted.py       `Sighted`: what there is to say of a whole that is put together of two
matching.py      CLIP and SigLIP
language.py      LLaVA, PaliGemma, Idefics 3, SmolVLM and Gemma 3
classifying.py   Vision Transformers with a head for labels
"""

from kerasllm.huggingface.pictures.language import FAMILIES as LANGUAGE_FAMILIES
from kerasllm.huggingface.pictures.matching import FAMILIES as MATCHING_FAMILIES

SIGHTED = {**MATCHING_FAMILIES, **LANGUAGE_FAMILIES}

__all__ = ["SIGHTED"]
