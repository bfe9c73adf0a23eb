"""Kernels in 4 and 8 bits, made here or by others: a model in a fourth of its memory, or an eighth.

They are put into dense layers (`kernels.py` computes with them) and are saved and loaded with their model.
"""

from kerasllm.quantization.kernels import FourBitKernel, Int8Kernel
from kerasllm.quantization.quantizing import quantize

__all__ = ["FourBitKernel", "Int8Kernel", "quantize"]
