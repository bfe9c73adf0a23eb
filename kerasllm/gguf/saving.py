"""A model of ours as a GGUF file, which llama.cpp and Ollama run."""

import math
import os
import re
from pathlib import Path

import keras
import numpy as np

from kerasllm.files import replacing
from kerasllm.gguf import rope
from kerasllm.gguf.architectures import ARCHITECTURES
from kerasllm.gguf.container import shortest
from kerasllm.gguf.metadata import Metadata
from kerasllm.gguf.package import gguf_package
from kerasllm.gguf.tensors import own_name, reordered, turned
from kerasllm.gguf.writing_tokenizers import tokenizer_keys
from kerasllm.huggingface.choosing import logit_fields
from kerasllm.huggingface.families import FAMILIES
from kerasllm.huggingface.names import source_of
from kerasllm.huggingface.saving import tensors_of
from kerasllm.huggingface.settings import Settings
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.models.vision_language_model import check_reads_text_alone
from kerasllm.models.weights import weight_names
from kerasllm.tokenizers import Tokenizer

_FILE_TYPES = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16", "Q8_0": "MOSTLY_Q8_0"}
_ALWAYS_FLOAT32 = ("position_embd.weight", *rope.TENSORS)
SUFFIX = ".gguf"
_BLOCK = 32  # of Q8_0
_END_OF_TEXT = "<|endoftext|>"


def save(model: keras.Model, tokenizer: Tokenizer, path: str | os.PathLike, dtype: str = "F16") -> None:
    """Writes a model, its tokenizer and its chat template as one file that llama.cpp and Ollama run.

    Args:
        model: a `CausalLM`, loaded or trained here, of an architecture that `load` reads.
        tokenizer: its `Tokenizer`: byte-level BPE, or SentencePiece's.
        path: file to make, name.gguf; it must not exist, and appears whole or not at all.
        dtype: "F32", "F16", "BF16" or "Q8_0" (blocks of 32 bytes with a scale, for those matrices whose rows have a
            multiple of 32 values; others are F16). Norms and biases are float32 in any case.

    Raises:
        FileExistsError: if `path` exists; it is not touched.
        ImportError: if gguf is not installed.
        TypeError: if the model is of another kind.
        ValueError: if llama.cpp does not compute what the model does, or the tokenizer does not fit it; the message
            names what.

    Example:

    >>> kerasllm.gguf.save(model, tokenizer, "my-model.gguf", dtype="Q8_0")
    """
    gguf, path = gguf_package(), Path(path)
    _check(model, tokenizer, path, dtype)
    origin = getattr(model, "origin", None)
    name, settings, keys, extra = _architecture_of(model, origin and origin.model_type)
    architecture, rows, size = ARCHITECTURES[name], model.config.vocab_size, model.count_params()
    keys = {
        "general.type": "model",
        "general.name": _name(path.stem, tokenizer),
        "general.size_label": gguf.size_label(size, size, 0, 0),
        "general.file_type": int(gguf.LlamaFileType[_FILE_TYPES[dtype]]),
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
        **{f"{name}.{key}": value for key, value in {**keys, "vocab_size": rows}.items()},
        **tokenizer_keys(tokenizer, rows, name),
    }
    specs, read = tensors_of(model, FAMILIES[architecture.model_type], settings)
    names = {own_name(architecture, theirs): theirs for theirs in specs}
    shapes = {own: turned(specs[theirs][1], own, architecture) for own, theirs in names.items()}
    shapes |= {own: array.shape for own, array in extra.items()}

    def array_of(own):
        if own in extra:
            return extra[own]
        return reordered(read(names[own]).astype("float32"), own, architecture, settings, step=-1)

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        _write(gguf.GGUFWriter(draft, name), keys, shapes, array_of, dtype)


def _check(model, tokenizer, path, dtype):
    """Refuses what cannot be written, or not there."""
    if dtype not in _FILE_TYPES:
        raise ValueError(f"A GGUF file is written as {', '.join(_FILE_TYPES)}, got dtype={dtype!r}.")
    if not isinstance(model, CausalLM) or not isinstance(tokenizer, Tokenizer):
        raise TypeError(
            f"A GGUF file is written of a CausalLM and its Tokenizer, got a {type(model).__name__} and a "
            f"{type(tokenizer).__name__}."
        )
    check_reads_text_alone(model, "A GGUF file")
    if path.suffix.lower() != SUFFIX:
        raise ValueError(f"A GGUF file is named …{SUFFIX}, by which it is known, got {str(path)!r}.")
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists, and is left as it is: name a file that does not, or move it away.")
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"The tokenizer has {tokenizer.vocab_size} ids and the model's table {model.config.vocab_size} rows: save "
            "the model with the tokenizer that it was trained with."
        )


def _name(stem, tokenizer):
    """What the model is called. Where a name has "phi-3", llama.cpp takes white space behind special tokens away, and
    wants Phi-3's special tokens in the vocabulary."""
    added = tokenizer.engine.get_added_tokens_decoder().values()
    has_all = all(tokenizer.engine.token_to_id(token) is not None for token in ("<unk>", "<s>", "</s>", _END_OF_TEXT))
    if has_all and any(token.rstrip and token.special for token in added):
        return f"phi-3 {stem}"
    return re.sub("phi-?3", "phi", stem, flags=re.IGNORECASE)


def _architecture_of(model, first):
    """The architecture of llama.cpp that computes what a model does.

    Args:
        model: a `CausalLM`.
        first: str or None, the `model_type` to try first, for several compute the same.

    Returns:
        Its name, the dict of config.json, and the keys and further tensors that `Architecture.write` makes of it.
    """
    ours, differences = logit_fields(model.config), {}
    for name in sorted(ARCHITECTURES, key=lambda name: ARCHITECTURES[name].model_type != first):
        try:
            settings, keys, extra, found = _round_trip(name, model)
        except (ValueError, TypeError, LookupError, StopIteration):
            continue
        theirs = logit_fields(found)
        both = [(n, value, theirs[n]) for n, value in ours.items() if n in theirs]
        differences[name] = {n: (value, there) for n, value, there in both if not _same(value, there)}
        if not differences[name]:
            return name, settings, keys, extra
    nearest = min(differences, key=lambda name: len(differences[name]), default=None)
    if nearest is None:
        raise ValueError(
            f"No architecture of llama.cpp that kerasllm knows is like this model: {', '.join(ARCHITECTURES)}."
        )
    fields = " and ".join(f"{n}={ours!r} (there {theirs!r})" for n, (ours, theirs) in differences[nearest].items())
    raise ValueError(
        f"llama.cpp does not compute what this model does: from the nearest architecture, {nearest}, it differs in "
        f"{fields}. A run folder can hold it, or Hugging Face's format."
    )


def _round_trip(name, model):
    """What config.json and a file would say of a model, and the config that is read of the file."""
    architecture = ARCHITECTURES[name]
    family, config = FAMILIES[architecture.model_type], model.config
    settings = family.settings(config)
    keys, extra = architecture.write(settings)
    table = family.weights(config, settings)
    tensors = {own_name(architecture, part) for one in weight_names(model) for part in source_of(table, one).names}
    rounded = {key: shortest(value) if isinstance(value, float) else value for key, value in keys.items()}
    values = {f"{name}.{key}": value for key, value in rounded.items()}
    metadata = Metadata({"general.architecture": name, **values}, name)
    back = architecture.read(metadata, tensors, extra.get)
    metadata.finish()
    back |= {"model_type": architecture.model_type, "vocab_size": config.vocab_size}
    fields = family.fields(Settings(back, name))
    fields |= {field: getattr(config, field) for field in family.from_weights}
    return settings, keys, extra, TransformerConfig.from_dict(fields)


def _same(ours, theirs):
    """Whether two values are the same in float32."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(_same(value, theirs[name]) for name, value in ours.items())
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    if isinstance(ours, float) and isinstance(theirs, float):
        return math.isclose(ours, theirs, rel_tol=1e-6)
    return ours == theirs


def _write(writer, keys, shapes, array_of, dtype):
    """Writes a file tensor by tensor.

    Args:
        writer: GGUFWriter.
        keys: dict.
        shapes: dict from names to shapes.
        array_of: function (name) -> float32 array; one is held at a time.
        dtype: str, of matrices.
    """
    gguf = gguf_package()
    for key, value in keys.items():
        kind = gguf.GGUFValueType.get_type(value)
        writer.add_key_value(key, value, gguf.GGUFValueType.UINT32 if kind == gguf.GGUFValueType.INT32 else kind)
    kinds = {name: gguf.GGMLQuantizationType[_kind_of(name, shape, dtype)] for name, shape in shapes.items()}
    for name, kind in kinds.items():
        per_block, bytes_per_block = gguf.GGML_QUANT_SIZES[kind]
        size = math.prod(shapes[name]) // per_block * bytes_per_block
        writer.add_tensor_info(name, shapes[name], np.dtype("float32"), size, raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, kind in kinds.items():
            with np.errstate(over="raise"):
                writer.write_tensor_data(gguf.quantize(np.ascontiguousarray(array_of(name)), kind))
    except FloatingPointError as error:
        raise ValueError(f"{name!r} has values that float16 cannot hold: write the file as BF16 or F32.") from error
    finally:
        writer.close()


def _kind_of(name, shape, dtype):
    """The type of a tensor: llama.cpp wants vectors, norms and tables of positions in float32."""
    if len(shape) < 2 or name in _ALWAYS_FLOAT32:
        return "F32"
    return "F16" if dtype == "Q8_0" and shape[-1] % _BLOCK else dtype
