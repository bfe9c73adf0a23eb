"""Adapters: a model made yours by a few weights, LoRA and its kin, beside kernels that stay as they are.

They are put into dense layers (`layers/low_rank.py` computes them) and go out in the format of PEFT.
"""

from kerasllm.adapters.changing import add, disabled, merge, names, remove, use
from kerasllm.adapters.peft_folder import load, save

__all__ = ["add", "disabled", "load", "merge", "names", "remove", "save", "use"]
