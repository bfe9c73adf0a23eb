"""Quantized weights beside bitsandbytes' own, on its build for CPUs."""

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import kerasllm
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.models.weights import weight_names
from kerasllm.quantization import FourBitKernel, Int8Kernel
from kerasllm.quantization.blocks import LEVELS, dynamic_levels

torch = pytest.importorskip("torch")
functional = pytest.importorskip("bitsandbytes.functional")


def kernel_of(weight, kind):
    kernel = (Int8Kernel if kind == "int8" else FourBitKernel)(kind)
    kernel.build(weight.shape[::-1])
    kernel.assign(weight.numpy().T)
    return kernel


@pytest.mark.parametrize("shape", [(192, 128), (512, 1024), (33, 77), (5, 13)])
def test_bytes_are_those_of_bitsandbytes(shape):
    weight = torch.tensor(np.random.default_rng(0).normal(scale=0.05, size=shape), dtype=torch.float32)
    for kind in ("nf4", "fp4", "nf4-dq"):
        levels, double = kind.removesuffix("-dq"), kind.endswith("-dq")
        kernel = kernel_of(weight, kind)
        packed, state = functional.quantize_4bit(weight, quant_type=levels, compress_statistics=double)
        np.testing.assert_array_equal(LEVELS[levels], state.code)
        np.testing.assert_array_equal(kernel.codes, packed.reshape(-1))
        expected = functional.dequantize_4bit(packed, state).T
        if not double:
            np.testing.assert_array_equal(kernel.absmax, state.absmax)
            np.testing.assert_array_equal(kernel.kernel, expected)
            continue
        np.testing.assert_array_equal(dynamic_levels(), state.state2.code)
        np.testing.assert_allclose(kernel.nested_offset, [state.offset], rtol=1e-6)
        np.testing.assert_allclose(kernel.nested_absmax, state.state2.absmax, rtol=1e-5)
        # Its build for CPUs looks levels up in a coarse table: a few near the middle of two get the farther one.
        steps = np.abs(np.array(kernel.absmax, int) - state.absmax.numpy())
        assert steps.max() <= 1 and steps.mean() <= 0.01
        np.testing.assert_allclose(kernel.kernel, expected, atol=2e-3)
    codes, absmax, _ = functional.int8_vectorwise_quant(weight)
    kernel = kernel_of(weight, "int8")
    np.testing.assert_array_equal(kernel.codes, codes)
    np.testing.assert_array_equal(kernel.absmax, absmax)


def four_bits(kind, double):
    def pack(weight):
        packed, state = functional.quantize_4bit(weight, quant_type=kind, compress_statistics=double)
        parts = {f"weight.{name}": tensor for name, tensor in state.as_dict(packed=True).items()}
        return {"weight": packed, **parts}, functional.dequantize_4bit(packed, state)

    return pack


def eight_bits(weight):
    codes, absmax, _ = functional.int8_vectorwise_quant(weight)
    parts = {"weight": codes, "SCB": absmax, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return parts, functional.int8_vectorwise_dequant(codes, absmax)


PACKED = {
    "nf4": four_bits("nf4", False),
    "nf4, scales quantized": four_bits("nf4", True),
    "fp4": four_bits("fp4", False),
    "int8": eight_bits,
}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("pack", PACKED.values(), ids=PACKED)
def test_files_of_bitsandbytes_are_read(pack, family, tmp_path):
    size = {
        "vocab_size": 40,
        "num_layers": 1,
        "d_model": 64,
        "num_heads": 4,
        "dff": 128,
        "max_length": 64,
    }  # Of widths that blocks do not divide its build for CPUs makes wrong floats.
    model, draw = CausalLM(TransformerConfig.preset(family, **size)), np.random.default_rng(1)
    model.set_weights([draw.normal(scale=0.2, size=weight.shape) for weight in model.weights])
    tokenizer = kerasllm.tokenizers.Tokenizer.train(["abcdefghijklmnopqrstuvwxyz"], kind="char", progress=False)
    kerasllm.huggingface.save(model, tokenizer, tmp_path / "plain")
    shutil.copytree(tmp_path / "plain", tmp_path / "packed")
    packed = load_file(tmp_path / "plain" / "model.safetensors")
    plain = dict(packed)
    for name in [name for name in packed if "proj" in name or "c_" in name if name.endswith(".weight")]:
        # A linear layer takes the place of GPT-2's own kind, whose weights are the other way round.
        weight = packed.pop(name).T.contiguous() if family == "gpt2" else packed.pop(name)
        parts, dequantized = pack(weight)
        packed |= {name.removesuffix("weight") + part: tensor for part, tensor in parts.items()}
        plain[name] = (dequantized.T if family == "gpt2" else dequantized).contiguous()
    for folder, tensors in (("plain", plain), ("packed", packed)):
        save_file(tensors, tmp_path / folder / "model.safetensors", {"format": "pt"})
    path = tmp_path / "packed" / "config.json"
    config = {**json.loads(path.read_text()), "quantization_config": {"quant_method": "bitsandbytes"}}
    path.write_text(json.dumps(config))
    expected = weight_names(kerasllm.load(tmp_path / "plain")[0])
    for name, weight in weight_names(kerasllm.load(tmp_path / "packed")[0]).items():
        np.testing.assert_allclose(weight, expected[name], rtol=1e-6, err_msg=name)
    again, _ = kerasllm.load(tmp_path / "packed", quantize="int8" if pack is eight_bits else "nf4")
    if pack is not PACKED["fp4"]:
        kernel = next(layer for layer in again._flatten_layers() if layer.name == "query_key_value").kernel
        np.testing.assert_allclose(kernel, expected["transformer/block_0/attention/query_key_value/kernel"], rtol=1e-5)
