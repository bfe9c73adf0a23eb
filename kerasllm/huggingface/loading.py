"""A checkpoint of Hugging Face as a model of ours."""

import contextlib
import math
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasllm import backend
from kerasllm.files import read_json
from kerasllm.generation.settings import read_settings
from kerasllm.huggingface import embedders
from kerasllm.huggingface.choosing import type_of
from kerasllm.huggingface.classifiers import classifier_families, head_of, holds_a_head
from kerasllm.huggingface.families import FAMILIES
from kerasllm.huggingface.names import source_of
from kerasllm.huggingface.origin import Origin
from kerasllm.huggingface.packed import QuantizedCheckpoint
from kerasllm.huggingface.pictures import SIGHTED, classifying
from kerasllm.huggingface.settings import Settings
from kerasllm.huggingface.tensors import Checkpoint
from kerasllm.huggingface.tokenizer_files import GENERATION, TOKENIZER_FILES, read_tokenizer
from kerasllm.huggingface.tying import tie
from kerasllm.images import ImageProcessor
from kerasllm.images.configs import FILE, OUTER_FILE
from kerasllm.models import TextEmbedder, TransformerConfig
from kerasllm.models.weights import KernelInAnotherForm, weights_in_float
from kerasllm.quantization.quantizing import built_quantized, check_kind
from kerasllm.tokenizers import tokenizer_config

_VALUES_AT_ONCE = 2**20  # so that no second copy of a large table is ever held
_READERS = 2  # weights that are read at once
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = (
    *("config.json", GENERATION, "*.safetensors", "*.safetensors.index.json", *TOKENIZER_FILES, FILE, OUTER_FILE),
    *(embedders.MODULES, embedders.SENTENCES, embedders.PROMPTS, "*/config.json"),
)


def load(
    path_or_id: str | os.PathLike,
    dtype: str | keras.DTypePolicy | None = None,
    revision: str | None = None,
    quantize: str | None = None,
) -> tuple[keras.Model, Any]:
    """Reads a checkpoint in Hugging Face's format, without torch and without transformers.

    Args:
        path_or_id: a folder with config.json, safetensors and a tokenizer (tokenizer.json or older files), or the name
            of a repository of the hub, such as "openai-community/gpt2", which `huggingface_hub` downloads or finds in
            its cache.
        dtype: str or `keras.DTypePolicy`, of the model, whatever the files hold; Keras' default when absent.
        revision: str, a branch, tag or commit of the hub.
        quantize: str, as in `kerasllm.load`.

    Returns:
        The pair `(model, tokenizer)`: a `CausalLM`, `MaskedLM`, `Seq2SeqLM`, `VisionLanguageModel` or another of
        `kerasllm.models` that is not compiled, and a `Tokenizer`, or of Marian's models a pair of them (source,
        target), and of an `ImageClassifier` None.

    Raises:
        FileNotFoundError: if there is no such folder or repository, or a file is missing.
        ValueError: if a file is damaged, the weights do not fit the config, or the config asks for something that
            kerasllm does not compute; the message names it.

    Example:

    >>> model, tokenizer = kerasllm.huggingface.load("openai-community/gpt2")
    >>> print(kerasllm.generate(model, tokenizer, "The meaning of life is", max_new_tokens=20))
    """
    check_kind(quantize)
    folder = folder_of(path_or_id, revision)
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no config.json: it is not a checkpoint of Hugging Face.")
    values = _of_known_type(read_json(path), path)
    generation = read_json(folder / GENERATION) if (folder / GENERATION).is_file() else {}
    if values["model_type"] == classifying.KIND:
        model, checkpoint = classifying.read_model(values, path, dtype), Checkpoint(folder)
        _fill(model, classifying.FAMILY, values, checkpoint, set())
        _take_processor(model, folder)
        return model, None
    model = _read_model(values, generation, folder, dtype, quantize)
    tokenizer = read_tokenizer(folder, {**values, **generation}, model.config)
    model.origin = Origin.of(values, generation, tokenizer_config.read_settings(folder), tokenizer)
    model.generation_settings = read_settings(generation or values)
    _take_processor(model, folder)
    return model, tokenizer


def _take_processor(model, folder):
    """Gives a model that sees the `ImageProcessor` that its folder describes, where it does and that can be had."""
    if hasattr(model, "image_processor"):
        with contextlib.suppress(FileNotFoundError, ValueError):
            model.image_processor = ImageProcessor.load(folder)


def _read_model(values, generation, folder, dtype, quantize):
    """The model of a folder whose config.json has these values."""
    path, packing = folder / "config.json", values.get("quantization_config")
    if values["model_type"] in SIGHTED:
        sighted = SIGHTED[values["model_type"]]
        family, options = sighted.family(values, path), sighted.read(values, path)
        checkpoint = Checkpoint(folder, family.renames)
        return build(sighted.text_of(values), generation, checkpoint, path, dtype, quantize, family, options)
    renames = FAMILIES[values["model_type"]].renames
    checkpoint = QuantizedCheckpoint(folder, renames, packing, path) if packing else Checkpoint(folder, renames)
    family = _family(values, path, checkpoint.names)
    options = embedders.read_options(folder, values) if family.model is TextEmbedder else family.read_options(values)
    if family.model is TextEmbedder:
        embedders.add_dense(folder, checkpoint)
    return build(values, generation, checkpoint, path, dtype, quantize, family, options)


def build(values, generation, checkpoint, path, dtype=None, quantize=None, family=None, options=None):
    """The model that settings and tensors make.

    Args:
        values: dict of config.json, with its `model_type`.
        generation: dict of generation_config.json.
        checkpoint: Checkpoint.
        path: where the settings are from, for messages.
        dtype, quantize: as in `load`.
        family: `Family`; that of the type when absent.
        options: dict of what the model's class is called with beside its config.
    """
    family = family or FAMILIES[values["model_type"]]
    config, tied = tie(read_config(values, generation, path, family), family, values, checkpoint)
    with built_quantized(quantize):
        model = family.model(config, **(options or {}), random_weights=False, dtype=dtype)
    _fill(model, family, values, checkpoint, tied)
    return model


def folder_of(path_or_id, revision=None):
    """The folder of a checkpoint, or of a repository of the hub, which is downloaded or found in its cache."""
    if Path(path_or_id).is_dir():
        return Path(path_or_id)
    if not _HUB_ID.fullmatch(str(path_or_id)):
        raise FileNotFoundError(f"There is no folder {path_or_id}, and a repository of the hub is named owner/name.")
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(path_or_id, revision=revision, allow_patterns=_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FileNotFoundError(
            f"There is no folder {path_or_id}, and the hub did not give a repository of that name: {reason}"
        ) from error


def _of_known_type(values, path):
    """The settings with the type of their model, which old files leave out."""
    kind = values.get("model_type") or type_of(values)
    known = [*FAMILIES, *SIGHTED, classifying.KIND]
    if kind not in known:
        of_text = (values.get("text_config") or {}).get("model_type")
        more = f", of pictures or sounds as well as of text ({of_text!r})" if of_text else ""
        raise ValueError(f"{path} describes a model of type {kind!r}{more}; kerasllm reads {', '.join(known)}.")
    return {**values, "model_type": kind}


def _family(values, path, names):
    """The family of a config.json, with the head that its architecture has, where the file has it too."""
    kind, head = values["model_type"], head_of(values.get("architectures"))
    if head is not None and not holds_a_head(names, of_labels=True):
        head = None
    if embedders.is_bare(values) and not holds_a_head(names, of_labels=False):
        head = TextEmbedder
    if (path.parent / embedders.MODULES).is_file():
        head = TextEmbedder
    if head is None:
        return FAMILIES[kind]
    families = classifier_families(head) or embedders.embedder_families()
    if kind not in families:
        raise ValueError(
            f"{path} asks for a {head.__name__} of the type {kind}; kerasllm reads one of {', '.join(families)}."
        )
    return families[kind]


def read_config(values, generation, path, family=None):
    """The `TransformerConfig` that settings ask for; the arguments are those of `build`."""
    family, settings = family or FAMILIES[values["model_type"]], Settings(values, path)
    fields = family.fields(settings)
    settings.finish()
    if family.model.has_encoder:
        names = {"decoder_start_id": "decoder_start_token_id", "forced_bos_id": "forced_bos_token_id"}
        fields |= {ours: generation.get(theirs, values.get(theirs)) for ours, theirs in names.items()}
    try:
        return TransformerConfig.from_dict(fields)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} describes no model that kerasllm can make: {error}") from error


def _fill(model, family, values, checkpoint, tied):
    """Gives a model the weights of a checkpoint, a few rows at a time, once all of them are known to fit."""
    table, weights = family.weights(model.config, values), weights_in_float(model)
    sources = {name: _of_linear(source_of(table, name), checkpoint) for name in weights}
    for name in [name for name, source in sources.items() if not source.names]:
        weights[name].assign(np.full(weights[name].shape, sources.pop(name).offset))
    _check_names(sources, family, checkpoint, tied)
    for name, source in sources.items():
        shapes = [checkpoint.shape(tensor) for tensor in source.names]
        if source.shape(shapes) != tuple(weights[name].shape):
            raise ValueError(
                f"{checkpoint.path(source.names[0])} holds {' and '.join(map(checkpoint.own_name, source.names))} with "
                f"shape {' and '.join(map(str, shapes))}, which do not make {name!r} of shape "
                f"{tuple(weights[name].shape)}."
            )
    is_plain = {
        name: not isinstance(weights[name], KernelInAnotherForm) and not any(map(checkpoint.is_packed, source.names))
        for name, source in sources.items()
    }
    for name in [name for name in sources if not is_plain[name]]:
        weights[name].assign(sources[name].read(checkpoint.read))

    def read(name):
        return name, _read(sources[name], checkpoint, weights[name])

    with ThreadPoolExecutor(_READERS) as readers:
        for name, values in readers.map(read, filter(is_plain.get, sources)):
            weights[name].assign(backend.given_away(values))


def _read(source, checkpoint, weight):
    """What a weight is to be, made a few rows at a time: what is made of them on the way is never that of all."""
    count, *row = weight.shape
    step = max(1, _VALUES_AT_ONCE // math.prod(row))
    values = backend.unwritten(weight.shape, weight.dtype)
    for start in range(0, count, step):
        values[start : start + step] = source.read(checkpoint.read, slice(start, start + step))
    return values


def _of_linear(source, checkpoint):
    """A source whose tensors are as in torch's linear layers, (out, in), where they are quantized: GPT-2's others are
    not."""
    return source._replace(transposed=True) if any(map(checkpoint.is_packed, source.names)) else source


def _check_names(sources, family, checkpoint, tied):
    """Refuses a checkpoint that lacks a tensor, or holds one that would be left out of the logits."""
    wanted = {tensor for source in sources.values() for tensor in source.names}
    if missing := sorted(wanted - checkpoint.names):
        raise ValueError(
            f"{checkpoint.folder} lacks the tensor {checkpoint.own_name(missing[0])!r}, which its "
            f"{checkpoint.settings_name} asks for."
        )
    for name in sorted(checkpoint.names - wanted - tied):
        if not re.search(family.unused, name):
            raise ValueError(
                f"{checkpoint.path(name)} holds the tensor {checkpoint.own_name(name)!r}, which its "
                f"{checkpoint.settings_name} has no place for."
            )
