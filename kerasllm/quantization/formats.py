"""Weights in the files of others, quantized, as floats: one function for each way in which they are packed.

All are of torch's linear layers, float32 (out, in). What is not said elsewhere is as the tools that write such files do
it: bitsandbytes, GPTQ (AutoGPTQ, GPTQModel), AWQ (AutoAWQ), and 8-bit floats of transformers, vLLM and DeepSeek.
"""

import json
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kerasllm.quantization.blocks import dequantize_4bit, dequantize_8bit_blocks

_AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # which column each part of a number of 32 bits is
_STATE = "weight.quant_state.bitsandbytes__"


class Format(NamedTuple):
    """How the weight of a layer is packed, in tensors whose names begin with the layer's and a dot.

    Attributes:
        marks: the names, one of which says that a weight is packed so.
        needed: those that must stand beside it.
        optional: those that may.
        shape: function (shapes by name, dict of the mark's array) -> (out, in).
        read: function (arrays by name, quantization_config) -> float32 (out, in).
    """

    marks: tuple
    needed: tuple
    optional: tuple
    shape: Callable
    read: Callable

    @property
    def parts(self):
        return self.needed + self.optional


def _read_bitsandbytes_4bit(arrays, settings):
    state = _state(arrays)
    absmax = arrays["weight.absmax"]
    if "weight.nested_absmax" in arrays:
        nested = arrays["weight.nested_absmax"], arrays["weight.nested_quant_map"]
        absmax = dequantize_8bit_blocks(absmax, *nested, state["nested_blocksize"])
        absmax = absmax + np.float32(state["nested_offset"])
    codes, levels = arrays["weight"].reshape(-1).view("uint8"), arrays["weight.quant_map"]
    size = int(np.prod(state["shape"]))
    return dequantize_4bit(codes, absmax, levels, size, state["blocksize"]).reshape(state["shape"])


def _state(arrays):
    return json.loads(next(array for name, array in arrays.items() if name.startswith(_STATE)).tobytes())


def _read_bitsandbytes_8bit(arrays, settings):
    if np.any(arrays.get("weight_format", 0)):
        raise ValueError("it is ordered for a kind of GPU")
    return arrays["weight"].astype("float32") * (arrays["SCB"].reshape(-1, 1).astype("float32") / np.float32(127))


def _read_gptq(arrays, settings):
    bits = settings["bits"]
    codes = _unpacked(arrays["qweight"].T, bits).T  # (in, out)
    first = 0 if settings.get("checkpoint_format") == "gptq_v2" else 1  # Zeros are stored less 1.
    zeros, scales = _unpacked(arrays["qzeros"], bits) + first, arrays["scales"].astype("float32")
    groups = arrays.get("g_idx", _groups(len(codes), settings))
    return ((codes - zeros[groups]) * scales[groups]).astype("float32").T


def _read_awq(arrays, settings):
    bits = settings["bits"]
    codes, zeros = (_in_awq_order(_unpacked(arrays[name], bits)) for name in ("qweight", "qzeros"))
    groups = _groups(len(codes), settings)
    return ((codes - zeros[groups]) * arrays["scales"].astype("float32")[groups]).astype("float32").T


def _in_awq_order(codes):
    return codes.reshape(len(codes), -1, 8)[..., np.argsort(_AWQ_ORDER)].reshape(codes.shape)


def _unpacked(packed, bits):
    """Numbers of 32 bits (M, N) as the whole numbers in each, from the lowest bits on, int32 (M, N * 32 / bits)."""
    parts = packed.astype("int32")[..., None] >> np.arange(0, 32, bits, dtype="int32") & (2**bits - 1)
    return parts.reshape(len(packed), -1)


def _groups(inputs, settings):
    size = settings.get("group_size") or -1
    return np.arange(inputs) // (size if size > 0 else inputs)


def _read_fp8(arrays, settings):
    weight = arrays["weight"].astype("float32")
    scale = next(arrays[name] for name in _SCALES if name in arrays).astype("float32")
    if scale.size == 1:
        return weight * scale.reshape(())
    if len(scale) == len(weight):
        return weight * scale.reshape(-1, 1)
    height, width = settings.get("weight_block_size") or (128, 128)
    scale = scale.repeat(height, 0)[: weight.shape[0]].repeat(width, 1)[:, : weight.shape[1]]
    return weight * scale


def _shape_of_weight(shapes, mark):
    return shapes["weight"]


def _shape_of_gptq(shapes, mark):
    rows, outputs = shapes["qweight"]
    return outputs, rows * (outputs // shapes["qzeros"][1])  # In a number, as many are packed as there.


_BITSANDBYTES = (
    Format(
        (f"{_STATE}nf4", f"{_STATE}fp4"),
        ("weight", "weight.absmax", "weight.quant_map"),
        ("weight.nested_absmax", "weight.nested_quant_map"),
        lambda shapes, mark: tuple(_state(mark)["shape"]),
        _read_bitsandbytes_4bit,
    ),
    Format(("SCB",), ("weight",), ("weight_format",), _shape_of_weight, _read_bitsandbytes_8bit),
)
_GPTQ = Format(("qweight",), ("qzeros", "scales"), ("g_idx",), _shape_of_gptq, _read_gptq)
_AWQ = Format(
    ("qweight",),
    ("qzeros", "scales"),
    (),
    lambda shapes, mark: (shapes["scales"][1], shapes["qweight"][0]),
    _read_awq,
)
_SCALES = ("weight_scale", "weight_scale_inv")
_FP8 = Format(_SCALES, ("weight",), ("input_scale", "activation_scale"), _shape_of_weight, _read_fp8)
_METHODS = {
    "bitsandbytes": _BITSANDBYTES,
    "gptq": (_GPTQ,),
    "awq": (_AWQ,),
    "fp8": (_FP8,),
    "fbgemm_fp8": (_FP8,),
    "compressed-tensors": (_FP8,),
}


def formats_of(settings, path):
    """The `Format`s that a `quantization_config` allows for.

    Args:
        settings: dict, the `quantization_config` of a config.json.
        path: of that file, for the message.

    Raises:
        ValueError: if they cannot be read; the message names the method.
    """
    method = settings.get("quant_method") or "a way without a name"
    asked = [method, *(f"{name}={settings[name]!r}" for name in ("bits", "format", "version") if name in settings)]
    known = {
        "gptq": settings.get("bits") in (2, 4, 8),
        "awq": settings.get("bits") == 4 and str(settings.get("version", "gemm")).lower() == "gemm",
        "compressed-tensors": settings.get("format") == "float-quantized",
    }
    if method not in _METHODS or not known.get(method, True):
        raise ValueError(
            f"{path} describes weights quantized by {' with '.join(asked)}; kerasllm reads those of bitsandbytes, GPTQ "
            "(2, 4 and 8 bits), AWQ (4 bits, gemm) and FP8: load the checkpoint that they were made from."
        )
    return _METHODS[method]
