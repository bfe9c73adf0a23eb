"""A GGUF file as a model and a tokenizer of ours."""

import math
import os
import warnings

import keras

from kerasllm.gguf.architectures import read_settings
from kerasllm.gguf.container import Container
from kerasllm.gguf.names import EMBEDDING
from kerasllm.gguf.reading_tokenizers import read_tokenizer
from kerasllm.gguf.tensors import GGUFCheckpoint
from kerasllm.huggingface.loading import build, read_config
from kerasllm.huggingface.origin import Origin
from kerasllm.huggingface.tokenizer_files import more_ids
from kerasllm.tokenizers import Tokenizer

_TABLE = f"{EMBEDDING}.weight"


def load(
    path: str | os.PathLike, dtype: str | keras.DTypePolicy | None = None, quantize: str | None = None
) -> tuple[keras.Model, Tokenizer]:
    """Reads a file in llama.cpp's format, with its tokenizer and its chat template.

    Blocks of 4 bits and the like become floats, one tensor at a time, by the package gguf (`pip install gguf`).

    Args:
        path: path of a file of architecture llama (Llama, Mistral and what is built like them), arcee, qwen2,
            qwen3, phi3, gemma, gemma2, gemma3 or gpt2, of any type of floats and blocks that gguf reads.
        dtype: str or `keras.DTypePolicy`, of the model, whatever the file holds; Keras' default when absent.
        quantize: str, one of the kinds of `kerasllm.quantization.quantize`, for kernels; None for floats.

    Returns:
        The pair `(model, tokenizer)`: a `CausalLM` that is not compiled, and a `Tokenizer`.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if gguf is not installed.
        ValueError: if the file is damaged, is one part of several, or holds something that kerasllm does not compute;
            the message names it.

    Example:

    >>> model, tokenizer = kerasllm.gguf.load("SmolLM2-135M-Instruct.Q4_1.gguf")
    >>> kerasllm.chat(model, tokenizer, [{"role": "user", "content": "What is the capital of France?"}])
    """
    container = Container(path)
    places = container.places
    architecture, settings = read_settings(
        container.metadata, path, places.keys(), lambda name: container.read(name) if name in places else None
    )
    if _TABLE not in places:
        raise ValueError(f"{path} lacks the tensor {_TABLE!r}; it is no model, or not a whole one.")
    tokenizer = read_tokenizer(container.metadata, path)
    settings |= {"vocab_size": places[_TABLE].shape[0], **_ids(tokenizer)}
    _check_size(read_config(settings, {}, path), places, path)
    model = build(settings, {}, GGUFCheckpoint(container, architecture, settings), path, dtype, quantize)
    if surplus := more_ids(tokenizer, model.config):
        warnings.warn(f"In {path}, {surplus}: a text that needs one of the others is refused.", stacklevel=2)
    model.origin = Origin.of(settings, {}, {}, tokenizer)
    return model, tokenizer


def _check_size(config, places, path):
    """Refuses the sizes of a damaged file before a model of such a size is made."""
    held = sum(math.prod(place.shape) for place in places.values())
    if config.num_parameters() > 2 * held:
        raise ValueError(
            f"{path} describes a model of {config.num_parameters():,} parameters and holds {held:,} values; download "
            "it again."
        )


def _ids(tokenizer):
    """The ids that config.json names."""
    end = tokenizer.end_ids[0] if len(tokenizer.end_ids) == 1 else tokenizer.end_ids or None
    return {"bos_token_id": tokenizer.start_id, "eos_token_id": end, "pad_token_id": tokenizer.pad_id}
