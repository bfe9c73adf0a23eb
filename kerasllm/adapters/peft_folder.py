"""Adapters as PEFT keeps them: a folder with `adapter_config.json` and `adapter_model.safetensors`.

PEFT has an adapter for each linear layer of Hugging Face's model, which is one slice of a kernel of ours. Its rows of
B and its magnitudes are the outputs of that layer, in the order that these have there; A is of inputs, whose order is
the same. See https://huggingface.co/docs/peft/developer_guides/checkpoint.
"""

import collections
import os
import re
from pathlib import Path

import keras
import numpy as np

from kerasllm.adapters.changing import attach, check_has, check_name, low_rank_members, members_of, name_in_use
from kerasllm.adapters.peft_modules import read_modules, written_modules
from kerasllm.adapters.peft_tables import check_tables, written_output
from kerasllm.adapters.peft_tokens import INDICES, read_rows, written_rows
from kerasllm.adapters.places import EMBEDDING, family_of_model, is_tied, places_of, tables_of
from kerasllm.files import new_folder, read_json, write_json
from kerasllm.huggingface import tensors
from kerasllm.layers.embedding import ReversibleEmbedding
from kerasllm.layers.low_rank import Slice
from kerasllm.layers.low_rank_tables import LowRankTables
from kerasllm.layers.token_rows import TokenRows
from kerasllm.models import CausalLM, Seq2SeqLM, SequenceClassifier, TextEmbedder, TokenClassifier

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_KEYS = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
_KEYS_OF_TABLE = ".lora_embedding_A", ".lora_embedding_B", _KEYS[2]
# What changes what an adapter computes, or its base, in ways that ours do not know.
_UNKNOWN = (
    *("lora_bias", "target_parameters", "layer_replication"),
    *("alora_invocation_tokens", "use_qalora", "use_bdlora"),
    *("arrow_config", "kasa_config", "monteclora_config", "velora_config"),
)
_TASKS = {
    CausalLM: "CAUSAL_LM",
    Seq2SeqLM: "SEQ_2_SEQ_LM",
    SequenceClassifier: "SEQ_CLS",
    TokenClassifier: "TOKEN_CLS",
    TextEmbedder: "FEATURE_EXTRACTION",
}
_CHANGE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # values of `init_lora_weights`


def save(model: keras.Model, folder: str | os.PathLike, name: str | None = None) -> None:
    """Writes an adapter as PEFT reads it: `peft.PeftModel.from_pretrained(base, folder)`.

    Args:
        model: a model of `kerasllm.models` with adapters.
        folder: path of a folder to make; it must not exist, and appears whole or not at all.
        name: str, of the adapter; the one in use when absent.

    Raises:
        FileExistsError: if `folder` exists; it is not touched.
        ValueError: if the model has no such adapter, no architecture of Hugging Face computes what it does, or what is
            trained beside the adapter has no place in such a folder.

    Example:

    >>> kerasllm.adapters.save(model, "my-adapter")
    """
    name = name_in_use(model) if name is None else name
    check_has(model, name)
    members, arrays, settings = {path: member for path, _, member in members_of(model, name)}, {}, {}
    places, tables, indices = places_of(model), tables_of(model), None
    if isinstance(members.get(EMBEDDING), TokenRows):
        arrays, indices = written_rows(members.pop(EMBEDDING), family_of_model(model)[1], _PREFIX)
    for place in (*places, *tables):
        if (member := _in_place(members, place)) is not None:
            for module, part in _written(place, member, arrays):
                settings[module] = part.rank, part.alpha
    ties = EMBEDDING in members and is_tied(model)
    arrays |= written_output(model, arrays, _PREFIX) if ties else {}
    whole, saved = written_modules(model, _PREFIX)
    (rank, alpha), _ = collections.Counter(settings.values()).most_common(1)[0]
    others = {module: of_module for module, of_module in settings.items() if of_module != (rank, alpha)}
    kind = next(iter(members.values())).kind
    config = {
        "peft_type": "LORA",
        "task_type": _task(model),
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {module: of_module[0] for module, of_module in others.items() if of_module[0] != rank},
        "alpha_pattern": {module: of_module[1] for module, of_module in others.items() if of_module[1] != alpha},
        "use_rslora": kind == "rslora",
        "use_dora": kind == "dora",
        "lora_dropout": next((m.dropout.rate for m in members.values() if getattr(m, "dropout", None)), 0.0),
        "bias": "none",
        "modules_to_save": saved or None,
        INDICES: indices,
        "fan_in_fan_out": not all(place.source.transposed for place in places if place.path in members),
        "target_modules": _shortest(settings, [*_modules((*places, *tables)), *_unread(model)]),
        **({"ensure_weight_tying": True} if ties else {}),
    }
    arrays |= whole
    with new_folder(folder) as draft:
        write_json(draft / CONFIG, config)
        specs = {key: (array.dtype, array.shape) for key, array in arrays.items()}
        tensors.write(draft, specs, arrays.__getitem__, WEIGHTS)


def load(model: keras.Model, folder: str | os.PathLike, name: str = "default") -> None:
    """Puts an adapter that PEFT or `save` wrote into its base model, in use; the rest is frozen, as by `add`.

    Args:
        model: a model of `kerasllm.models`, such as `kerasllm.load` reads.
        folder: path of a folder with adapter_config.json and adapter_model.safetensors.
        name: str, what the adapter is to be called.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the adapter is of another kind of PEFT's, or does not fit the model; the message names what does
            not, and the model is as it was.

    Example:

    >>> model, tokenizer = kerasllm.load("HuggingFaceTB/SmolLM2-135M")
    >>> kerasllm.adapters.load(model, "my-adapter")
    """
    check_name(model, name)
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG}: it is not an adapter as PEFT writes it.")
    config = read_json(folder / CONFIG)
    _check_config(config, folder / CONFIG)
    family, table = family_of_model(model)
    renames = () if family is None else (*family.renames, (f"^{re.escape(family.root)}", ""))
    checkpoint = tensors.Checkpoint(folder, ((f"^{re.escape(_PREFIX)}", ""), *renames), WEIGHTS)
    left = {name for name in checkpoint.names if not name.startswith(_unread(model))}
    found, values = [], []
    for place in (*places_of(model), *tables_of(model)):
        slices = [_slice(place, *item, config, checkpoint, left) for item in place.modules.items()]
        if any(part.rank for part in slices):
            found.append((place, slices))
            values.append(_read(place, slices, checkpoint))
    check_tables(model, [place for place, _ in found], config, checkpoint, left)
    members = low_rank_members(model, found, _kind(config), config.get("lora_dropout") or 0.0, name)
    rows, of_rows = read_rows(model, table, config, checkpoint, left, name)
    whole = read_modules(model, table, checkpoint, left) if config.get("modules_to_save") else {}
    if left:
        raise ValueError(f"{folder / WEIGHTS} holds {min(left)!r}, for which {model.name} has no place.")
    if not members:
        raise ValueError(f"{folder / WEIGHTS} holds no adapter.")
    attach(model, name, {**members, **rows}, sorted({name.rpartition("/")[0] for name in whole}))
    for weight, array in whole.values():
        weight.assign(array)
    for member in rows.values():
        for weight, array in of_rows.items():
            getattr(member, weight).assign(array)
    for (place, _), arrays in zip(found, values, strict=True):
        for weight, array in zip(_weights(_in_place(members, place)), arrays, strict=True):
            weight.assign(array)


def _in_place(members, place):
    """The `LowRank` among members by path that is put into a place, or None."""
    if not isinstance(place.layer, ReversibleEmbedding):
        return members.get(place.path)
    tables = members.get(place.layer.name)
    if not isinstance(tables, LowRankTables):
        return None
    return tables.table if place.path == EMBEDDING else tables.head


def _weights(member):
    """Those of a `LowRank`, slice by slice: A, B and the magnitude where there is one."""
    of_slices = zip(*filter(None, (member.downs, member.ups, member.magnitudes)), strict=True)
    return [weight for of_slice in of_slices for weight in of_slice]


def _written(place, member, arrays):
    """Adds the tensors of a layer to others by name; gives the pairs (module, `Slice`)."""
    weights, (a, b, magnitude) = iter(_weights(member)), _keys(place)
    for index, (module, part) in enumerate(zip(place.modules.values(), member.slices, strict=True)):
        if not part.rank:
            continue
        if module is None:
            raise ValueError(f"{place.name_of(part.name)} has no name in Hugging Face's format: a run folder holds it.")
        outputs = place.source.part(index)._replace(transposed=True)
        name = f"{_PREFIX}{module}"
        arrays[name + a] = np.array(next(weights)).T
        ((_, arrays[name + b]),) = outputs.write(np.array(next(weights)), []).items()
        if member.magnitudes:
            ((_, arrays[name + magnitude]),) = _unsigned(outputs).write(np.array(next(weights)), []).items()
        yield module, part


def _read(place, slices, checkpoint):
    """What the weights of a layer are to hold, as `_weights` has them."""
    arrays, (a, b, magnitude) = [], _keys(place)
    for index, (module, part) in enumerate(zip(place.modules.values(), slices, strict=True)):
        if part.rank:
            outputs = place.source.part(index)._replace(transposed=True)
            arrays.append(checkpoint.read(module + a).T)
            arrays.append(outputs.read(lambda _, key=module + b: checkpoint.read(key)))
            if module + magnitude in checkpoint.names:
                key = module + magnitude
                arrays.append(_unsigned(outputs).read(lambda _, key=key: checkpoint.read(key)))
    return [np.asarray(array, "float32") for array in arrays]


def _keys(place):
    """What the names of the tensors of a module end in."""
    return _KEYS_OF_TABLE if place.path == EMBEDDING else _KEYS


def _unsigned(source):
    """The same order of outputs, for lengths, which have no sign."""
    return source._replace(mirrored=())


def _slice(place, part, module, config, checkpoint, left):
    """The `Slice` that a checkpoint has for a module; takes its tensors from the names of those that are left."""
    width, (a, b, magnitude) = place.widths[part], _keys(place)
    names = {module + key for key in _keys(place)} & left if module else set()
    if not names:
        return Slice(part, width)
    rank = checkpoint.shape(module + a)[0] if module + a in left else None
    expected = {module + a: (rank, place.inputs), module + b: (width, rank)}
    if config.get("use_dora"):
        expected[module + magnitude] = (width,)
    for key, shape in expected.items():
        if key not in left:
            raise ValueError(f"{checkpoint.folder / WEIGHTS} lacks the tensor {key!r}.")
        if checkpoint.shape(key) != shape:
            raise ValueError(
                f"{checkpoint.path(key)} holds {key!r} with shape {checkpoint.shape(key)}, where the model asks for "
                f"{shape}: it belongs to another base."
            )
    left.difference_update(expected)
    alpha = _of_module(config.get("alpha_pattern"), module, config.get("lora_alpha", 8))
    both = config.get("use_dora") and config.get("use_rslora")
    return Slice(part, width, rank, alpha * rank**0.5 if both else alpha)


def _kind(config):
    return "dora" if config.get("use_dora") else "rslora" if config.get("use_rslora") else "lora"


def _of_module(patterns, module, default):
    """What a dict by regular expressions of names says of a module, as PEFT reads it."""
    found = (value for pattern, value in (patterns or {}).items() if re.match(rf"(.*\.)?({pattern})$", module))
    return next(found, default)


def _check_config(config, path):
    if config.get("peft_type") != "LORA":
        raise ValueError(f"{path} describes an adapter of type {config.get('peft_type')!r}; 'LORA' can be read.")
    for name in _UNKNOWN:
        if config.get(name):
            raise ValueError(f"{path} has {name}={config[name]!r}, which kerasllm does not compute.")
    if config.get("bias", "none") != "none":
        raise ValueError(f"{path} has bias={config['bias']!r}; adapters whose biases are the base's can be read.")
    if str(config.get("init_lora_weights")).startswith(_CHANGE_BASE):
        raise ValueError(
            f"{path} has init_lora_weights={config['init_lora_weights']!r}, which changes the base: have PEFT "
            "convert it by save_pretrained(..., path_initial_model_for_weight_conversion=...)."
        )


def _task(model):
    return next((task for kind, task in _TASKS.items() if isinstance(model, kind)), None)


def _modules(places):
    return [module for place in places for module in place.modules.values()]


def _unread(model):
    """The modules that there are in Hugging Face's classes, of which a model of ours makes nothing."""
    return ("pooler.dense",) if isinstance(model, TextEmbedder) else ()


def _shortest(adapted, modules):
    """The shortest ends of names that are those of the adapted modules and of no others."""
    for shorten in (lambda name: name.rpartition(".")[2], lambda name: re.split(r"\.\d+\.", name)[-1]):
        ends = sorted({shorten(module) for module in adapted})
        if {m for m in modules if m and any(m == end or m.endswith(f".{end}") for end in ends)} == adapted.keys():
            return ends
    return sorted(adapted)
