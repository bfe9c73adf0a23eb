"""Which architecture a config.json describes, and which one computes what a model of ours does."""

import dataclasses
import re

from kerasllm.huggingface.classifiers import HEAD_OPTIONS, classifier_families
from kerasllm.huggingface.embedders import embedder_families
from kerasllm.huggingface.families import FAMILIES
from kerasllm.huggingface.families.family import explicit
from kerasllm.huggingface.pictures import SIGHTED
from kerasllm.huggingface.settings import Settings
from kerasllm.models import TransformerConfig

_NOT_OF_LOGITS = ("dropout", "attention_dropout", "router_loss", "remat", "decoder_start_id", "forced_bos_id")
# Settings that only files of a type have, and those that they share with other types and never have themselves.
_KEYS = {
    "gpt2": ({"n_embd", "n_layer", "n_head"}, {"afn", "dff"}),
    "distilbert": ({"dim", "n_layers", "n_heads", "hidden_dim"}, set()),
    "bert": (
        {"hidden_size", "num_hidden_layers", "attention_probs_dropout_prob", "type_vocab_size"},
        {"embedding_size", "relative_attention", "attention_window"},
    ),
}


def type_of(values):
    """The `model_type` of a config.json that does not name it: by its class, or by its settings; None if neither tells.

    Args:
        values: dict of config.json.
    """
    for name in values.get("architectures") or []:
        for kind, family in FAMILIES.items():
            if _stem(name) == _stem(family.architecture):
                return kind
    found = [kind for kind, (has, lacks) in _KEYS.items() if has <= values.keys() and not lacks & values.keys()]
    # RoBERTa's files have the settings of BERT's, two positions more, which are never used, and one kind of token.
    if found == ["bert"] and values["type_vocab_size"] == 1 and values.get("max_position_embeddings", 0) % 8 == 2:
        return "roberta"
    return found[0] if found else None


def _stem(name):
    return re.split(r"(?<=[a-z0-9])(?:For[A-Z]|LMHead|MTModel|Model|DoubleHeads)", name)[0]


def family_of(model_class, config, first=None, model=None):
    """The family of Hugging Face that computes what a model does.

    Args:
        model_class: class of `kerasllm.models`.
        config: its `TransformerConfig`.
        first: str, the `model_type` to try first, for several compute the same.
        model: the model itself, where its head is to be the same too.

    Returns:
        (model_type, `Family`, dict of its config.json).

    Raises:
        ValueError: if there is none; the message names what keeps the model from the nearest one.
        TypeError: if there are none of such models.
    """
    if model_class in {sighted.model for sighted in SIGHTED.values()}:
        return _sighted(model, first)
    families = {kind: family for kind, family in FAMILIES.items() if issubclass(model_class, family.model)}
    families |= classifier_families(model_class) | embedder_families(model_class)
    if not families:
        kinds = sorted({family.model.__name__ for family in (FAMILIES | SIGHTED).values()})
        raise TypeError(f"Hugging Face's format is written of a {' or '.join(kinds)}, got a {model_class.__name__}.")
    return _find(families, config, first, model)


def _sighted(model, first):
    """The same of a model that sees."""
    text_type = getattr(getattr(model, "origin", None), "text_type", "")
    kinds = [kind for kind, sighted in SIGHTED.items() if type(model) is sighted.model]
    reasons = []
    for kind in sorted(kinds, key=lambda kind: kind != first):
        try:
            values = SIGHTED[kind].settings(kind, model, text_type, _find)
        except (ValueError, TypeError, StopIteration) as error:
            reasons.append(str(error))
            continue
        return kind, SIGHTED[kind].family(values), {name: v for name, v in values.items() if name != "model_type"}
    raise ValueError(
        f"No architecture of Hugging Face computes what this model does ({', '.join(kinds)} are known): "
        f"{' '.join(reasons)}"
    )


def _find(families, config, first, model=None):
    """Of some families, a dict, that which computes what a model of a config does; for the rest see `family_of`."""
    differences = {}
    for kind in sorted(families, key=lambda kind: kind != first):
        try:
            settings, found = _round_trip(families[kind], kind, config)
        except (ValueError, TypeError, StopIteration):
            continue
        ours, theirs = logit_fields(config), logit_fields(found)
        if model is not None:
            of_head = _head_there(families[kind], settings, model)
            ours |= {name: getattr(model, name) for name in of_head}
            theirs |= of_head
        differences[kind] = {n: (value, theirs[n]) for n, value in ours.items() if n in theirs and value != theirs[n]}
        if not differences[kind]:
            return kind, families[kind], settings
    nearest = min(differences, key=lambda kind: len(differences[kind]), default=None)
    if nearest is None:
        raise ValueError(f"No architecture of Hugging Face is like this model: {', '.join(families)} cannot say it.")
    fields = " and ".join(f"{n}={ours!r} (there {theirs!r})" for n, (ours, theirs) in differences[nearest].items())
    raise ValueError(
        f"No architecture of Hugging Face computes what this model does: from the nearest, {nearest}, it differs in "
        f"{fields}. Only a run folder can hold it."
    )


def _head_there(family, settings, model):
    """The options of a head that are read of what config.json would say of a model's."""
    found = family.read_options({**settings, **family.write_options(model)})
    return {name: found[name] for name in HEAD_OPTIONS if name in found}


def _round_trip(family, kind, config):
    """What config.json would say of a model, and the config that is read of that."""
    settings = family.settings(config)
    fields = family.fields(Settings({**settings, "model_type": kind}, kind))
    fields |= {name: getattr(config, name) for name in family.from_weights}
    return settings, TransformerConfig.from_dict(fields)


def logit_fields(config):
    """The fields of a `TransformerConfig` that change logits, with nothing left to be inferred, as a dict."""
    fields = {name: value for name, value in dataclasses.asdict(explicit(config)).items() if name not in _NOT_OF_LOGITS}
    if config.positions == "relative":
        del fields["max_length"]  # which sets no limit then
    if config.positions != "disentangled":
        del fields["position_buckets"]
    if config.positions != "rotary":
        del fields["rope_theta"], fields["rope_scaling"], fields["partial_rotary_factor"]
    return fields
