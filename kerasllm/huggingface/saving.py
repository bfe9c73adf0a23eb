"""A model of ours as a checkpoint that transformers and what follows it read."""

import functools
import os
from pathlib import Path

import keras
import numpy as np

from kerasllm.files import new_folder, read_utf8, write_json
from kerasllm.huggingface import embedders, tensors
from kerasllm.huggingface.choosing import family_of
from kerasllm.huggingface.names import source_of, widths_of
from kerasllm.huggingface.pictures import classifying
from kerasllm.huggingface.tokenizer_files import GENERATION, more_ids, write_tokenizer
from kerasllm.models import ImageClassifier, TextEmbedder
from kerasllm.models.weights import weight_names, weights_to_save
from kerasllm.tokenizers import Tokenizer
from kerasllm.tokenizers.sides import Sides, as_pair

CARD = "README.md"  # where the hub looks for a model card
AUDIT = Path("audit") / CARD  # and where `kerasllm audit` leaves one, in the folder of the model


def save(
    model: keras.Model,
    tokenizer: Tokenizer | tuple[Tokenizer, Tokenizer] | None,
    path: str | os.PathLike,
    card: str | os.PathLike | None = None,
) -> None:
    """Writes a model and its tokenizer as `transformers.AutoModel….from_pretrained` reads them.

    Args:
        model: a `CausalLM`, `MaskedLM`, `Seq2SeqLM`, `VisionLanguageModel` or another of `kerasllm.models`, loaded or
            trained here.
        tokenizer: its `Tokenizer`, one for both sides where there are two; a model of Marian's architecture may have
            the pair (source, target) that it was loaded with, and an `ImageClassifier` has none, None.
        path: folder to make; it must not exist, and appears whole or not at all.
        card: path of a model card, a Markdown file, to go along as README.md. When absent that which `kerasllm audit`
            left in the folder that the model was loaded from, if its weights are still those that were audited.

    Raises:
        FileExistsError: if `path` exists; it is not touched.
        FileNotFoundError: if there is no such card.
        TypeError: if the model is of another kind, or the tokenizer is not a `Tokenizer`.
        ValueError: if no architecture of transformers computes what the model does, or the tokenizer does not fit it.

    Example:

    >>> kerasllm.huggingface.save(model, tokenizer, "my-gpt2")
    >>> transformers.AutoModelForCausalLM.from_pretrained("my-gpt2")
    """
    if isinstance(model, ImageClassifier):
        return _save_classifier(model, path, card)
    origin = getattr(model, "origin", None)  # of a model that was loaded
    first = origin and origin.model_type
    model_type, family, settings = family_of(type(model), getattr(model, "config", None), first, model)
    source, target = as_pair(tokenizer)
    if (surplus := more_ids(tokenizer, model.config)) and not (origin and origin.has(tokenizer)):
        raise ValueError(f"Here {surplus}: save the model with the tokenizer that it was trained with.")
    if source is not target and model_type != "marian":
        raise ValueError("Hugging Face's format has room for one tokenizer, got one for sources and one for targets.")
    specs, read = tensors_of(model, family, settings)
    card = _card_of(model) if card is None else read_utf8(Path(card))
    with new_folder(path) as folder:
        ids, of_generation = _ids(model, source, target, origin)
        dtype = model.variable_dtype
        config = {"architectures": [family.architecture], "model_type": model_type, **ids, **settings}
        config |= family.write_options(model)
        write_json(folder / "config.json", {**config, "dtype": dtype, "torch_dtype": dtype})
        if model.predicts_next:
            write_json(folder / GENERATION, {**getattr(model, "generation_settings", {}), **of_generation})
        if isinstance(model, TextEmbedder):
            specs = embedders.write_modules(model, folder, specs, read)
        named = {name.removeprefix(family.root): name for name in specs}
        tensors.write(folder, {name: specs[own] for name, own in named.items()}, lambda name: read(named[name]))
        write_tokenizer(tokenizer, folder, origin.tokenizer if origin else {})
        _save_processor(model, folder)
        if card is not None:
            (folder / CARD).write_text(card, encoding="utf-8")


def _save_classifier(model, path, card):
    """The same of a model that reads no text."""
    settings = classifying.write_model(model)
    specs, read = tensors_of(model, classifying.FAMILY, settings)
    with new_folder(path) as folder:
        write_json(folder / "config.json", settings)
        tensors.write(folder, specs, read)
        _save_processor(model, folder)
        if card is not None:
            (folder / CARD).write_text(read_utf8(Path(card)), encoding="utf-8")


def _save_processor(model, folder):
    if (processor := getattr(model, "image_processor", None)) is not None:
        processor.save(folder)


def tensors_of(model, family, settings):
    """The tensors that hold a model's weights.

    Args:
        model: a model.
        family: `Family`.
        settings: dict, its config.json.

    Returns:
        dict from names to pairs (dtype, shape), and function (name) -> array.
    """
    table, weights = family.weights(model.config, settings), weights_to_save(model, plain=True)
    specs, owners = {}, {}
    for name, weight in weights.items():
        for tensor, array in _parts(table, name, weight, model.config).items():
            specs[tensor], owners[tensor] = (array.dtype, array.shape), name
    zeros = family.zeros(model.config)
    specs |= {name: (np.dtype("float32"), shape) for name, shape in zeros.items()}

    @functools.lru_cache(maxsize=1)  # A weight may be of hundreds of tensors, one behind the other.
    def parts(owner):
        return _parts(table, owner, weights[owner], model.config)

    def read(name):
        if name in zeros:
            return np.zeros(zeros[name], "float32")
        return parts(owners[name])[name]

    return specs, read


def _card_of(model):
    """The model card in the folder that a model was loaded from, if it is about these weights; or None."""
    base = getattr(model, "base", None)
    if base is None or not (base.path / AUDIT).is_file():
        return None
    weights = weight_names(model)
    is_the_same = weights.keys() == base.sums.keys() and all(base.holds(name, weights[name]) for name in weights)
    return read_utf8(base.path / AUDIT) if is_the_same else None


_ROLES = {"bos": "start", "eos": "end", "pad": "pad"}


def _ids(model, source, target, origin):
    """The ids that config.json and generation_config.json name: those that were read, or else the tokenizer's.

    What has no id is null: what is left out would be an id of another vocabulary.
    """
    ids = {f"{role}_token_id": getattr(target, f"{ours}_id") for role, ours in _ROLES.items()}
    if model.has_encoder:
        ours, theirs = model.config.decoder_start_id, Sides(source, target).start_id
        ids["decoder_start_token_id"] = theirs if ours is None else ours
        ids["forced_bos_token_id"] = model.config.forced_bos_id
    of_generation = {role: number for role, number in ids.items() if number is not None}
    if len(target.end_ids) > 1:
        of_generation["eos_token_id"] = target.end_ids
    if origin is not None and origin.has((source, target)):
        ids, of_generation = {**ids, **origin.config}, {**of_generation, **origin.generation}
    if (ids["pad_token_id"] or 0) >= model.config.vocab_size:
        ids["pad_token_id"] = None  # transformers makes no model whose table lacks that row.
    return ids, of_generation


def _parts(table, name, weight, config):
    array = weight()
    return source_of(table, name).write(array, widths_of(name, array.shape, config))
