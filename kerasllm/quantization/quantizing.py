"""Whole models with kernels in 4 and 8 bits."""

import contextlib
import re

import keras

from kerasllm.layers import FeedForward, MixtureOfExperts, MultiHeadAttention
from kerasllm.layers.composite import forget_compiled, layers_inside
from kerasllm.layers.dense import Dense, kernels_made_by
from kerasllm.layers.embedding import ReversibleEmbedding
from kerasllm.quantization.kernels import FourBitKernel, Int8Kernel

KINDS = {"nf4": FourBitKernel, "nf4-dq": FourBitKernel, "fp4": FourBitKernel, "int4": FourBitKernel, "int8": Int8Kernel}
_WITH_TABLES = ("int8", "int4")  # kinds that keep tables of tokens in 8 bits
_IN_BLOCKS = re.compile(r"/block_\d+/\w*(attention|feed_forward)/\w+$")
_EXPERTS = "The kernels of a mixture of experts, nearly all of its weights, are not quantized yet: keep it in float."


def quantize(model: keras.Model, kind: str = "nf4") -> None:
    """Keeps the kernels of a model's attention and feed-forward layers in 4 or 8 bits; compile the model after it.

    Norms and biases stay as they are, and so do embeddings and the output layer; but "int8" and "int4" keep these in 8
    bits where they are one table. The kernels are not trained any more, but adapters can be: `kerasllm.adapters.add`
    over such a model is QLoRA. `kerasllm.load(path, quantize=kind)` quantizes while it
    loads, and never holds the whole model in float.

    Args:
        model: a built Keras model with layers of kerasllm. It may have adapters.
        kind: "nf4", levels for normal numbers, 4.5 bits a weight with its scale; "nf4-dq", the same with scales in 8
            bits, 4.13 bits a weight (both Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, in the bytes of
            bitsandbytes); "fp4" and "int4", 4.5 bits; or "int8", 8 bits, with a scale for each output.

    Raises:
        ValueError: if the kind is unknown, or the model has no such layers, or has quantized ones already; nothing has
            changed then.

    Example:

    >>> kerasllm.quantization.quantize(model, "nf4")
    >>> kerasllm.adapters.add(model, rank=16)
    >>> model.compile(kerasllm.optimizers.AdamW(1e-4))
    """
    check_kind(kind or "")
    if any(isinstance(holder, MixtureOfExperts) for _, _, holder in layers_inside(model)):
        raise ValueError(_EXPERTS)
    found = [
        (path, layer)
        for path, layer, holder in layers_inside(model)
        if isinstance(layer, Dense) and isinstance(holder, MultiHeadAttention | FeedForward)
    ]
    if not found:
        raise ValueError(f"{model.name} has no attention or feed-forward layers of kerasllm's to quantize, once built.")
    for path, layer in found:
        if layer.kernel_layer is not None or layer.quantization_mode is not None:
            by = layer.quantization_mode or getattr(layer.kernel_layer, "kind", layer.kernel_layer.name)
            raise ValueError(f"{path} is quantized by {by!r} already: load the model in float to quantize it anew.")
        if layer.lora_enabled:
            raise ValueError(f"{path} has LoRA by `enable_lora`, which works on floats: save and load the model first.")
    for _, layer in found:
        layer.replace_kernel(new_kernel(kind))
    for _, layer, _ in list(layers_inside(model)) if kind in _WITH_TABLES else ():
        if isinstance(layer, ReversibleEmbedding) and layer.tie_weights and layer.quantization_mode is None:
            layer.replace_kernel(new_kernel("int8"))
    forget_compiled(model)


def new_kernel(kind):
    return KINDS[kind](kind)


def built_quantized(kind):
    """A context within which the models of `kerasllm.models` are built with quantized kernels, which are to be
    assigned; with None they are as any."""
    if kind is None:
        return contextlib.nullcontext()

    def make(path):
        if path.endswith("/feed_forward/router"):
            raise ValueError(_EXPERTS)
        if _IN_BLOCKS.search(path):
            return new_kernel(kind)
        return new_kernel("int8") if kind in _WITH_TABLES and path.endswith("/token_embedding") else None

    return kernels_made_by(make)


def check_kind(kind):
    """Refuses what is neither a kind nor None."""
    if kind is not None and kind not in KINDS:
        *most, last = map(repr, KINDS)
        raise ValueError(f"What a model can be quantized by is {', '.join(most)} or {last}, got {kind!r}.")
