"""A model of ours as a checkpoint that transformers and what follows it read."""

import dataclasses
import json

import numpy as np

from kerasllm.files import new_folder
from kerasllm.huggingface import tensors
from kerasllm.huggingface.families import FAMILIES
from kerasllm.huggingface.names import source_of, widths_of
from kerasllm.huggingface.settings import Settings, attention_bias
from kerasllm.huggingface.tokenizer_files import GENERATION, check_sizes, write_tokenizer
from kerasllm.models import MaskedLM, Seq2SeqLM, TransformerConfig
from kerasllm.models.weights import weights_to_save
from kerasllm.tokenizers.sides import Sides

_NOT_OF_LOGITS = ("dropout", "attention_dropout", "remat", "decoder_start_id", "forced_bos_id")


def save(model, tokenizer, path):
    """Writes a model and its tokenizer as `transformers.AutoModel….from_pretrained` reads them.

    Args:
        model: a `CausalLM`, `MaskedLM` or `Seq2SeqLM`, loaded or trained here.
        tokenizer: its `Tokenizer`, one for both sides where there are two; a model of Marian's architecture may have
            the pair (source, target) that it was loaded with.
        path: folder to make; it must not exist, and appears whole or not at all.

    Raises:
        FileExistsError: if `path` exists; it is not touched.
        TypeError: if the model is of another kind, or the tokenizer is not a `Tokenizer`.
        ValueError: if no architecture of transformers computes what the model does, or the tokenizer does not fit it.

    Example:

    >>> kerasllm.huggingface.save(model, tokenizer, "my-gpt2")
    >>> transformers.AutoModelForCausalLM.from_pretrained("my-gpt2")
    """
    kind, family, settings = _family_of(model)
    source, target = check_sizes(tokenizer, model.config)
    if source is not target and kind != "marian":
        raise ValueError("Hugging Face's format has room for one tokenizer, got one for sources and one for targets.")
    table, weights = family.weights(model.config, settings), weights_to_save(model, quantized=False)
    kinds, owners = {}, {}
    for name, weight in weights.items():
        for tensor, array in _parts(table, name, weight, model.config).items():
            kinds[tensor], owners[tensor] = (array.dtype, array.shape), name
    zeros = family.zeros(model.config)
    kinds |= {name: (np.dtype("float32"), shape) for name, shape in zeros.items()}

    def read(name):
        if name in zeros:
            return np.zeros(zeros[name], "float32")
        return _parts(table, owners[name], weights[owners[name]], model.config)[name]

    with new_folder(path) as folder:
        special = {f"{role}_token_id": getattr(target, f"{ours}_id") for role, ours in _ROLES.items()}
        if isinstance(model, Seq2SeqLM):
            ours, theirs = model.config.decoder_start_id, Sides(source, target).start_id
            special["decoder_start_token_id"] = theirs if ours is None else ours
            special["forced_bos_token_id"] = model.config.forced_bos_id
        special = {role: number for role, number in special.items() if number is not None}
        dtype = model.variable_dtype
        config = {"architectures": [family.architecture], "model_type": kind, **special, **settings}
        _write_json(folder / "config.json", {**config, "dtype": dtype, "torch_dtype": dtype})
        if family.model is not MaskedLM:
            ends = {"eos_token_id": target.end_ids} if len(target.end_ids) > 1 else {}
            _write_json(folder / GENERATION, {**special, **ends})
        tensors.write(folder, kinds, read)
        write_tokenizer(tokenizer, folder)


_ROLES = {"bos": "start", "eos": "end", "pad": "pad"}


def _parts(table, name, weight, config):
    array = weight()
    return source_of(table, name).write(array, widths_of(name, array.shape, config))


def _family_of(model):
    """The first family that reads its own settings back as this very config; that of a loaded model comes first."""
    if not any(isinstance(model, family.model) for family in FAMILIES.values()):
        kinds = sorted({family.model.__name__ for family in FAMILIES.values()})
        raise TypeError(f"Hugging Face's format is written of a {' or '.join(kinds)}, got a {type(model).__name__}.")
    loaded_as = getattr(model, "huggingface_type", None)
    for kind in sorted(FAMILIES, key=lambda kind: kind != loaded_as):
        family = FAMILIES[kind]
        if not isinstance(model, family.model):
            continue
        try:
            settings = family.settings(model.config)
            fields = family.fields(Settings(settings, kind))
            found = TransformerConfig.from_dict(fields)
        except (ValueError, TypeError, StopIteration):
            continue
        if _essence(found) == _essence(model.config):
            return kind, family, settings
    raise ValueError(
        f"None of {', '.join(FAMILIES)} computes what {model.config} does. Save it as a run folder with kerasllm.save."
    )


def _essence(config):
    """What changes logits, with nothing left to be inferred."""
    fields = {name: value for name, value in dataclasses.asdict(config).items() if name not in _NOT_OF_LOGITS}
    fields["head_dim"] = config.head_dim or config.d_model // config.num_heads
    fields["num_kv_heads"] = config.num_kv_heads or config.num_heads
    fields["attention_bias"] = attention_bias(config)
    fields["qkv_bias"] = fields["attention_bias"] if config.qkv_bias is None else config.qkv_bias
    fields["attention_scale"] = config.attention_scale or fields["head_dim"] ** -0.5
    if config.positions == "relative":
        del fields["max_length"]  # which sets no limit then
    if config.positions != "rotary":
        del fields["rope_theta"], fields["rope_scaling"], fields["partial_rotary_factor"]
    return fields


def _write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
