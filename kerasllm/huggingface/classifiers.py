"""The classes of transformers that put a head for labels on an architecture, `…ForSequenceClassification` and
`…ForTokenClassification`: what their heads are called, and what config.json says of labels."""

import re
from typing import NamedTuple

from kerasllm.huggingface.families import FAMILIES
from kerasllm.huggingface.families.family import ACTIVATIONS
from kerasllm.huggingface.names import dense, layer_norm
from kerasllm.models import SequenceClassifier, TokenClassifier

_PROBLEMS = {
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}
_ACTIVATIONS = {**ACTIVATIONS, "tanh": "tanh"}
_LABEL_HEAD = re.compile(r"(classifier|pre_classifier|score)\.")
_TOKEN_HEAD = re.compile(r"(cls\.predictions|predictions|generator_\w+|lm_head|vocab_transform|head|decoder)\.")
_SUFFIXES = {SequenceClassifier: "ForSequenceClassification", TokenClassifier: "ForTokenClassification"}


# What models say of a head, which a config.json has to say too.
HEAD_OPTIONS = ("head_activation", "head_norm", "pooling")
_POOLINGS = {"cls": "first", "mean": "mean"}


class _Head(NamedTuple):
    """The names of a head: of its one layer on tokens, and on texts of the last, and of the one before it, or ""; and
    of the norm between them, or "", which one on tokens has too, with both layers.

    `setting` is that of config.json which names the activation, where it is not always the same.
    """

    on_tokens: str
    on_texts: str
    before: str = ""
    activation: str | None = None
    setting: str = ""
    norm: str = ""


_ROBERTA = _Head("classifier", "classifier.out_proj", "classifier.dense", "tanh")
_DECODER = _Head("score", "score")
_HEADS = {
    "bert": _Head("classifier", "classifier", "bert.pooler.dense", "tanh"),
    "ernie": _Head("classifier", "classifier", "ernie.pooler.dense", "tanh"),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "mpnet": _ROBERTA,
    "deberta-v2": _Head("classifier", "classifier", "pooler.dense", "gelu", "pooler_hidden_act"),
    "distilbert": _Head("classifier", "classifier", "pre_classifier", "relu"),
    "albert": _Head("classifier", "classifier", "albert.pooler", "tanh"),
    "electra": _Head("classifier", "classifier.out_proj", "classifier.dense", "gelu"),
    "modernbert": _Head("classifier", "classifier", "head.dense", "gelu", "classifier_activation", "head.norm"),
    "gpt2": _Head("classifier", "score"),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3"), _DECODER),
}


def classifier_families(model_class):
    """The families of a class of classifiers, by `model_type`; none of another class."""
    kind = next((kind for kind in _SUFFIXES if issubclass(model_class, kind)), None)
    return {} if kind is None else {name: _classifier_family(name, kind) for name in _HEADS}


def head_of(architectures):
    """The class of classifiers that an entry "architectures" of config.json asks for, or None."""
    names = [str(name) for name in architectures or ()]
    return next((kind for kind, suffix in _SUFFIXES.items() if any(name.endswith(suffix) for name in names)), None)


def holds_a_head(names, of_labels):
    """Whether some tensors are of a head for labels, or else of one for tokens."""
    return any((_LABEL_HEAD if of_labels else _TOKEN_HEAD).match(name) for name in names)


def heads_of(values):
    """What classes of classifiers are called with, by their names, so that their heads are those of transformers.

    Args:
        values: dict, of config.json.
    """
    head = _HEADS.get(values["model_type"])
    causal = head is not None and FAMILIES[values["model_type"]].model.predicts_next
    return {} if head is None else {kind.__name__: _head_options(kind, head, causal, values) for kind in _SUFFIXES}


def _head_options(kind, head, causal, values):
    """Those of `HEAD_OPTIONS` that a class has."""
    activation = _read_activation(head, values)
    of_texts = kind is SequenceClassifier
    options = {"head_activation": activation if of_texts or head.norm else None, "head_norm": bool(head.norm)}
    if not of_texts:
        return options
    pooling = values.get("classifier_pooling", "cls") if head.norm else "cls"
    if pooling not in _POOLINGS:
        raise ValueError(
            f"config.json asks for classifier_pooling={pooling!r}; kerasllm knows {' and '.join(_POOLINGS)}."
        )
    return {**options, "pooling": "last" if causal else _POOLINGS[pooling]}


def _read_activation(head, values):
    name = values.get(head.setting, head.activation)
    if head.setting and name not in _ACTIVATIONS:
        raise ValueError(f"config.json asks for {head.setting}={name!r}; kerasllm knows {', '.join(_ACTIVATIONS)}.")
    return _ACTIVATIONS[name] if head.setting else name


def _classifier_family(name, kind):
    family, head = FAMILIES[name], _HEADS[name]
    stem = family.architecture.split("ForMaskedLM")[0].split("ForCausalLM")[0].split("LMHeadModel")[0]

    def weights(config, values):
        last = head.on_texts if kind is SequenceClassifier else head.on_tokens
        before = dense("head_dense", head.before) if head.before else {}
        norm = layer_norm("head_norm", head.norm) if head.norm else {}
        return {**family.weights(config, values), **before, **norm, **dense("head_output", last)}

    return family._replace(
        architecture=stem + _SUFFIXES[kind],
        model=kind,
        weights=weights,
        zeros=family.zeros_of_body,
        output_bias=(),
        read_options=lambda values: _read(kind, head, family.model.predicts_next, values),
        write_options=lambda model: _write(model, head),
    )


def _read(kind, head, causal, values):
    """What the class of a model is called with, of a config.json."""
    count, labels = labels_of(values)
    options = {"num_labels": count, "labels": labels, "causal": causal}
    options |= _head_options(kind, head, causal, values)
    if kind is TokenClassifier:
        return options
    problem = values.get("problem_type")
    if problem is not None and problem not in _PROBLEMS:
        raise ValueError(f"config.json asks for problem_type={problem!r}; kerasllm knows {', '.join(_PROBLEMS)}.")
    return {**options, "problem": _PROBLEMS.get(problem)}


def labels_of(values):
    """How many labels a config.json has, and their names, a list or None."""
    names = values.get("id2label") or {}
    count = len(names) or values.get("num_labels") or 2  # as transformers has it
    labels = [names[key] for key in sorted(names, key=int)]
    if labels and sorted(map(int, names)) != list(range(count)):
        raise ValueError(
            f"config.json has labels for the ids {', '.join(names)}, which leave some out: correct id2label."
        )
    return count, labels or None


def _write(model, head):
    """What config.json says of the labels of a model, and of its head where it may differ."""
    labels = model.labels or [f"LABEL_{i}" for i in range(model.num_labels)]
    problem = getattr(model, "problem", None)
    pooling = next((theirs for theirs, ours in _POOLINGS.items() if ours == getattr(model, "pooling", "first")), "cls")
    return {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        "problem_type": next((theirs for theirs, ours in _PROBLEMS.items() if ours == problem), None),
        **({"classifier_pooling": pooling} if head.norm else _write_activation(model, head)),
    }


def _write_activation(model, head):
    """What config.json says of the activation of a head; ModernBERT's is that of its layers, which say it."""
    activation = getattr(model, "head_activation", None)
    name = next((theirs for theirs, ours in _ACTIVATIONS.items() if ours == activation), None)
    return {head.setting: name} if head.setting and name else {}
