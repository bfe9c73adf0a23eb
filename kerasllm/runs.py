"""The run folder: a trained model with everything to use it again.

    config.json         kind of model, its TransformerConfig, its precision, the version of kerasllm that wrote it
    model.safetensors   the weights by name; tied weights once
    tokenizer.json      the tokenizer, as Hugging Face `tokenizers` reads it; of the targets where a model has two, and
                        in the folder `source` that of the sources
    preprocessor_config.json    how images are made for a model that sees, as Hugging Face has it; where that is known
    manifest.json       the SHA-256 of every file and of itself, written last: a folder without it is not finished

Of a model with adapters that was loaded by `load`, the weights are those that its base does not have, and config.json
says where the base is and what its weights are (bases.py).

Plain JSON and safetensors: nothing in the folder is ever executed, any Keras backend reads what another wrote, and no
file name but that of a base is taken from inside a file. `kerasllm train` adds its log, plot, settings and token files.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any, Literal

import keras

import kerasllm
from kerasllm import backend, bases, gguf, huggingface
from kerasllm.bases import Base, base_of_tuned
from kerasllm.files import MANIFEST, check_file, new_folder, read_json, seal, sealed_files, write_json
from kerasllm.garbage import uncollected
from kerasllm.huggingface.choosing import logit_fields, type_of
from kerasllm.huggingface.loading import folder_of
from kerasllm.huggingface.origin import Origin
from kerasllm.images import ImageProcessor
from kerasllm.images.configs import FILE as PROCESSOR
from kerasllm.layers.composite import PART_SETTINGS
from kerasllm.models import TransformerConfig
from kerasllm.models.weights import weight_names, weights_in_float, weights_to_save
from kerasllm.quantization.quantizing import built_quantized, check_kind
from kerasllm.tasks import model_classes
from kerasllm.tensor_files import Pieces, parts_of, read_tensors, write_part, write_tensors
from kerasllm.tokenizers import Tokenizer
from kerasllm.tokenizers.sides import SOURCE, as_pair, load_tokenizer, save_tokenizer
from kerasllm.unread import what_it_is

__all__ = ["add_model", "describe", "load", "read_tensors", "save", "write_tensors"]


def __dir__():  # what completion shows
    return __all__


CONFIG, WEIGHTS = "config.json", "model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def save(
    model: keras.Model, tokenizer: Tokenizer | tuple[Tokenizer, Tokenizer] | None, folder: str | os.PathLike
) -> None:
    """Writes a model and its tokenizer to a new run folder.

    The folder appears whole or not at all: it is written beside its place under a temporary name, flushed to disk and
    renamed.

    Of a model with adapters whose base `kerasllm.load` read, it holds what the base does not have, of a few MB for the
    most part: keep the base where it is, or move both. Any other model is saved whole.

    Args:
        model: a model of `kerasllm.models`.
        tokenizer: the `kerasllm.tokenizers.Tokenizer` that the model was trained with, or the pair (source, target); or
            None, of a model that reads pictures alone.
        folder: path of the folder to make. It must not exist, or be empty.

    What a model that sees has as `model.image_processor`, a `kerasllm.images.ImageProcessor`, is saved with it.

    Raises:
        FileExistsError: if `folder` exists and is not empty; it is not touched.
        TypeError: if the model is not one of kerasllm's, or the tokenizer is not a `Tokenizer`.
        ValueError: if the tokenizer has ids that the model has no embedding for.
        OSError: if the folder cannot be written, for example on a full disk; nothing is left behind.

    Example:

    >>> tokenizer = kerasllm.tokenizers.Tokenizer.train(["to be or not to be"], kind="char")
    >>> config = kerasllm.models.TransformerConfig(tokenizer.vocab_size, num_layers=2, d_model=64, num_heads=4, dff=256)
    >>> kerasllm.save(kerasllm.models.CausalLM(config), tokenizer, "my-model")
    >>> model, tokenizer = kerasllm.load("my-model")
    """
    _check_saveable(model, tokenizer)
    with new_folder(folder) as draft:
        add_model(model, tokenizer, draft)
        seal(draft)


@uncollected()
def load(
    folder: str | os.PathLike,
    dtype: str | keras.DTypePolicy | None = None,
    quantize: str | Literal[False] | None = None,
) -> tuple[keras.Model, Any]:
    """Reads a model and its tokenizer from a run folder, from what is in Hugging Face's format, or from a GGUF file.

    Args:
        folder: path of a folder that `kerasllm.save` or `kerasllm train` wrote, on any Keras backend, or a folder or
            name of a repository, "owner/name", that `kerasllm.huggingface.load` reads, or a file, "name.gguf", that
            `kerasllm.gguf.load` reads.
        dtype: str or `keras.DTypePolicy`, of the model; when absent that with which it was saved, and of other formats
            Keras' default.
        quantize: str, one of the kinds of `kerasllm.quantization.quantize`: kernels are quantized one after the other
            while they are read, so that the whole model is never held in float. None leaves them as they were saved,
            and False has a base that was quantized while it was tuned in float, as adapters are merged into.

    Returns:
        The pair `(model, tokenizer)`. The model is not compiled. With adapters, what was trained with them is
        trainable, and nothing else. A model that sees has an `image_processor`, where the folder says what it is.

    Raises:
        FileNotFoundError: if there is no such folder, or it is not a finished run folder; if the base of a tuned model
            is not found beside its folder, where it was, or on the hub.
        ValueError: if a file differs from what was saved, the weights do not fit the config, or what is in the place of
            the base is another model; the message names the file and the tensor. Also if `quantize` is unknown, or
            asked of a model that was saved quantized.

    Example:

    >>> model, tokenizer = kerasllm.load("my-model")
    >>> print(kerasllm.generate(model, tokenizer, "to be", max_new_tokens=20))
    """
    form = quantize or None
    check_kind(form)
    folder = Path(folder)
    if folder.suffix.lower() == gguf.SUFFIX and not folder.is_dir():
        model, tokenizer = gguf.load(folder, dtype, form)
        model.base = Base.of(model, folder, quantize=form)
        return model, tokenizer
    if _is_huggingface(folder):
        path = folder_of(folder.as_posix())
        model, tokenizer = huggingface.load(path, dtype, quantize=form)
        model.base = Base.of(model, path, None if folder.exists() else folder.as_posix(), form)
        return model, tokenizer
    _check_files(folder)
    description = read_json(folder / CONFIG)
    if lacking := {"kind", "config", "dtype_policy"} - description.keys():
        raise ValueError(f"{folder / CONFIG} lacks {min(lacking)!r}; copy the folder again.")
    kind, kinds = description["kind"], model_classes()
    if kind not in kinds:
        raise ValueError(
            f"{folder / CONFIG} describes a model of kind {kind!r}; this version of kerasllm knows {', '.join(kinds)}."
        )
    dtype = description["dtype_policy"] if dtype is None else dtype
    if quantize is False and "base" in description:
        description.pop("kernel_layers", None)
    parts = {name: parts for name, parts in description.items() if name in PART_SETTINGS}
    if form and parts.keys() & {"kernel_layers", "quantized_parts"}:
        raise ValueError(f"{folder} holds a model that is quantized already: load it without quantize={quantize!r}.")
    if "base" in description:
        model = _tuned(folder, description, dtype, quantize)
    else:
        settings = {"config": description["config"], "dtype": dtype, "random_weights": False, **parts}
        with built_quantized(form):
            model = kinds[kind].from_config({**settings, **description.get("options", {})})
        read_tensors(folder / WEIGHTS, weights_in_float(model) if form else weight_names(model))
        model.base = Base.of(model, folder, quantize=form)
    if "origin" in description:
        model.origin = Origin(**description["origin"])
    model.generation_settings = description.get("generation_settings", {})
    if (folder / PROCESSOR).is_file():
        model.image_processor = ImageProcessor.load(folder)
    return model, load_tokenizer(folder) if (folder / TOKENIZER_FILES[0]).exists() else None


def _tuned(folder, description, dtype, quantize):
    """The model that a run folder holds what was learned of: its base is read, and given that."""
    path, name = bases.find(description["base"], folder)
    if (path / CONFIG).is_file() and "base" in read_json(path / CONFIG):
        raise ValueError(f"{path} cannot be the base of {folder}: it is tuned from another itself.")
    model, _ = load(path, dtype, description["base"].get("quantize") if quantize is None else quantize)
    model.base = dataclasses.replace(model.base, id=name, revision=description["base"].get("revision"))
    model = bases.with_all_tokens(model, description["base"])
    if description["base"].get("new_head"):
        options = {name: value for name, value in description.get("options", {}).items() if name != "causal"}
        model = model_classes()[description["kind"]].from_model(model, quantized=True, **options)
    here, there = (
        logit_fields(config) for config in (model.config, TransformerConfig.from_dict(description["config"]))
    )
    differing = sorted(name for name in there if here.get(name) != there[name])
    if type(model).__name__ != description["kind"] or differing:
        what = f"its {differing[0]} is another" if differing else f"it holds a {type(model).__name__}"
        raise ValueError(f"{path} is not the base that {folder} was tuned from: {what}.")
    model.take_parts(description)
    weights = weight_names(model)
    read_tensors(folder / WEIGHTS, weights, needed=weights.keys() - model.base.sums.keys())
    return model


def _is_huggingface(folder):
    if not folder.exists():  # what looks like a name of the hub may be one
        return not folder.is_absolute() and len(folder.parts) == 2
    if (folder / MANIFEST).is_file() or not (folder / CONFIG).is_file():
        return False
    values = read_json(folder / CONFIG)
    return "model_type" in values or type_of(values) is not None  # Old files do not name it.


def add_model(
    model: keras.Model, tokenizer: Tokenizer | tuple[Tokenizer, Tokenizer] | None, folder: str | os.PathLike
) -> None:
    """Writes config, weights and tokenizer into a folder that exists, each file whole or not at all.

    `kerasllm train` opens its run folder before it trains and calls this when it has; follow it with `seal`. Of several
    processes that train one model all call it, and each writes the part of the weights that its devices have.

    Args:
        model: a model of `kerasllm.models`.
        tokenizer: the `Tokenizer` that the model was trained with, or the pair (source, target).
        folder: path of the folder to add to.
    """
    _check_saveable(model, tokenizer)
    folder, (number, count) = Path(folder), backend.process()
    if count > 1:
        write_part(folder / WEIGHTS, own_pieces(model), number, count)
        if number:
            return
    else:
        arrays = {name: array() for name, array in weights_to_save(model).items()}
        if (base := base_of_tuned(model)) is not None:
            arrays = {name: array for name, array in arrays.items() if not base.holds(name, array)}
        write_tensors(folder / WEIGHTS, arrays)
    write_config(folder, describe(model))
    save_processor(getattr(model, "image_processor", None), folder)
    if tokenizer is not None and not (folder / TOKENIZER_FILES[0]).exists():
        save_tokenizer(tokenizer, folder)


def save_processor(processor: ImageProcessor | None, folder: str | os.PathLike) -> None:
    """Writes the `ImageProcessor` of a model into a folder, where it has one."""
    if processor is not None:
        processor.save(folder)


def own_pieces(model: keras.Model) -> dict[str, Pieces]:
    """What this process has, of several that train one model, of the weights that a folder holds, by name."""
    base = base_of_tuned(model)
    return {
        name: Pieces(tuple(weight.shape), backend.own_parts(weight))
        for name, weight in weight_names(model).items()
        if base is None or weight.trainable or name not in base.sums
    }


def describe(model: keras.Model) -> dict[str, Any]:
    """What `config.json` says of a model of `kerasllm.models`: a dict of plain JSON types."""
    origin = getattr(model, "origin", None)
    settings, base = getattr(model, "generation_settings", None), base_of_tuned(model)
    parts = model.get_config()
    kept = PART_SETTINGS if "adapters" in parts else PART_SETTINGS[1:]
    return {
        **({"generation_settings": dict(settings)} if settings else {}),
        "kind": type(model).__name__,
        "config": model.config.to_dict(),
        **({"options": {name: parts[name] for name in model.settings}} if model.settings else {}),
        "dtype_policy": model.dtype_policy.name,
        "kerasllm": kerasllm.__version__,
        **({"origin": dataclasses.asdict(origin)} if origin else {}),
        **({"base": base.describe()} if base else {}),
        **{name: parts[name] for name in kept if name in parts},
    }


def write_config(folder, description):
    """Writes what `describe` says into a folder, with the way from there to the base."""
    if "base" in description:
        way = os.path.relpath(description["base"]["path"], folder)
        description = {**description, "base": {**description["base"], "relative": Path(way).as_posix()}}
    write_json(folder / CONFIG, description)


def _check_saveable(model, tokenizer):
    kinds = model_classes()
    if type(model).__name__ not in kinds:
        raise TypeError(
            f"A run folder holds a model of kind {', '.join(kinds)}, not {type(model).__name__}; "
            "save any other Keras model with model.save('model.keras')."
        )
    if tokenizer is None and not hasattr(model.config, "vocab_size"):
        return
    source, target = as_pair(tokenizer)
    if getattr(model, "origin", None) and model.origin.has(tokenizer):
        return  # It may have come with more ids than it has rows.
    known = model.config.vocab_size
    for side, size in ((target, known), (source, model.config.source_vocab_size or known)):
        if side.vocab_size > size:
            raise ValueError(
                f"The tokenizer has {side.vocab_size} ids and the model only {size}; save the model with the tokenizer "
                f"it was trained with."
            )


def _check_files(folder):
    """Refuses a folder that is not a finished run, or whose model files are not those that were saved."""
    is_sealed = (folder / MANIFEST).is_file()
    lost_config = is_sealed and CONFIG in (folder / MANIFEST).read_text(errors="replace")
    if not (folder / CONFIG).is_file() and not lost_config and (found := what_it_is(folder)):
        raise FileNotFoundError(found)
    if not is_sealed:
        raise FileNotFoundError(
            f"{folder} is not a finished run folder: it has no {MANIFEST}, which is written last when a run ends well."
        )
    saved = sealed_files(folder)
    weights = [path.name for path in parts_of(folder / WEIGHTS)] or [WEIGHTS]
    optional = (*TOKENIZER_FILES, PROCESSOR)
    names = [CONFIG, *weights, *optional]
    if f"{SOURCE}/{TOKENIZER_FILES[0]}" in saved:
        names += [f"{SOURCE}/{name}" for name in TOKENIZER_FILES]
    for name in names:
        is_optional = name.endswith(optional) and name not in saved and not (folder / name).exists()
        if not is_optional:
            check_file(folder, name, saved.get(name))
