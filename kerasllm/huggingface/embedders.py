"""Encoders without a head, and folders of sentence-transformers: what their modules are called, in and out.

modules.json                     the modules, one after the other, and their folders
1_Pooling/config.json            what the vector of a text is made of
2_Dense/                         a layer behind it, where there is one
sentence_bert_config.json        to how many tokens texts are cut
config_sentence_transformers.json  what may stand before texts
"""

import re

from kerasllm.files import read_json, write_json
from kerasllm.huggingface import tensors
from kerasllm.huggingface.families import FAMILIES
from kerasllm.huggingface.names import dense
from kerasllm.models import MaskedLM, TextEmbedder
from kerasllm.tokenizers import tokenizer_config

MODULES, SENTENCES, PROMPTS = "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"
_NO_LIMIT = 10**9  # what transformers writes for none is larger
DENSE = "2_Dense"  # the name that the tensors of a dense layer begin with here, whatever its folder's name
_POOLINGS = {"mean_tokens": "mean", "cls_token": "first", "lasttoken": "last", "max_tokens": "max"}
_ACTIVATIONS = {"Tanh": "tanh", "Identity": None, "ReLU": "relu", "GELU": "gelu"}
_ROOTS = {  # those first that are to be written where several compute the same
    "bert": "bert.",
    "ernie": "ernie.",
    "roberta": "roberta.",
    "xlm-roberta": "roberta.",
    "distilbert": "distilbert.",
    "albert": "albert.",
    "electra": "electra.",
    "mpnet": "mpnet.",
    "deberta-v2": "deberta.",
}
_ROOTS |= dict.fromkeys(("modernbert", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3"), "model.")
_OF_TOKENS = r"cls|predictions|\w+_predictions|lm_head|generator_lm_head|vocab_\w+|head|decoder"
_HEADS = rf"|^({_OF_TOKENS}|score|classifier|pre_classifier)\."  # of what it was pretrained with


def embedder_families(model_class=TextEmbedder):
    """The families of text embedders, by `model_type`; none of another class."""
    return {kind: _family(kind) for kind in _ROOTS} if issubclass(model_class, TextEmbedder) else {}


def is_bare(values):
    """Whether a config.json is of an encoder without a head, such as `BertModel`; or with one of which nothing is left
    afterwards, as ELECTRA's, which says what was exchanged."""
    family = FAMILIES.get(values["model_type"])
    names = values.get("architectures") or []
    is_encoder = family is not None and family.model is MaskedLM
    return is_encoder and bool(names) and names[0].endswith(("Model", "ForPreTraining"))


def read_options(folder, values):
    """What `TextEmbedder` is called with, of a folder of sentence-transformers or of a bare encoder.

    Args:
        folder: Path.
        values: dict, its config.json.

    Raises:
        ValueError: for modules that are not computed here.
    """
    causal = FAMILIES[values["model_type"]].model.predicts_next
    if not (folder / MODULES).is_file():
        return {"causal": causal, "normalize": False}
    first, *modules = [_checked(module, folder) for module in read_json(folder / MODULES, list)]
    kinds = [kind for kind, _ in modules]
    if first[0] != "Transformer" or kinds not in (["Pooling", *more] for more in _ORDERS):
        raise ValueError(
            f"{folder / MODULES} has the modules {', '.join([first[0], *kinds])}; kerasllm computes Transformer, "
            "Pooling, and behind these Dense and Normalize."
        )
    folders = dict(modules)
    options = {"causal": causal, "normalize": "Normalize" in folders}
    options |= {"pooling": _pooling(folders["Pooling"] / "config.json")}
    if "Dense" in folders:
        options |= _dense_options(folders["Dense"] / "config.json")
    options["max_tokens"] = _max_tokens(folder)
    if (folder / PROMPTS).is_file():
        options["prompts"] = read_json(folder / PROMPTS).get("prompts") or {}
    return options


_ORDERS: tuple[list[str], ...] = ([], ["Normalize"], ["Dense"], ["Dense", "Normalize"])


def add_dense(folder, checkpoint):
    """Adds the tensors of the dense layer of a folder, if there is one, to those of its Transformer."""
    for kind, place in (
        (_checked(m, folder) for m in read_json(folder / MODULES, list)) if (folder / MODULES).is_file() else ()
    ):
        if kind == "Dense":
            checkpoint.add(place, f"{DENSE}.")


def write_modules(model, folder, specs, read):
    """Writes what sentence-transformers reads beside a Transformer and its tokenizer.

    Args:
        model: TextEmbedder.
        folder: Path.
        specs: dict from names of tensors to pairs (dtype, shape).
        read: function (name) -> array.

    Returns:
        dict, `specs` without what is written here.
    """
    names = ["Transformer", "Pooling", *(["Dense"] if model.width else []), *(["Normalize"] if model.normalize else [])]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{name}" if i else "", "type": f"sentence_transformers.models.{name}"}
        for i, name in enumerate(names)
    ]
    write_json(folder / MODULES, modules)
    (folder / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{theirs}": ours == model.pooling for theirs, ours in _POOLINGS.items()}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": model.config.d_model, **modes})
    longest = model.max_tokens or model.config.max_length
    write_json(folder / SENTENCES, {"max_seq_length": longest, "do_lower_case": False})
    write_json(folder / PROMPTS, {"prompts": model.prompts, "default_prompt_name": None})
    if not model.width:
        return specs
    name = next(name for name, ours in _ACTIVATIONS.items() if ours == model.activation)
    config = {"in_features": model.config.d_model, "out_features": model.width, "bias": True}
    kind = "linear" if name == "Identity" else "activation"
    (folder / DENSE).mkdir()
    write_json(folder / DENSE / "config.json", {**config, "activation_function": f"torch.nn.modules.{kind}.{name}"})
    inner = {name.removeprefix(f"{DENSE}."): spec for name, spec in specs.items() if name.startswith(DENSE)}
    tensors.write(folder / DENSE, inner, lambda name: read(f"{DENSE}.{name}"))
    return {name: spec for name, spec in specs.items() if not name.startswith(DENSE)}


def _checked(module, folder):
    """The kind of a module and its folder, which is one of this folder's own."""
    kind, path = str(module.get("type", "")).rpartition(".")[2], module.get("path", "")
    if not re.fullmatch(r"\w*", str(path)):
        raise ValueError(f"{folder / MODULES} names the folder {path!r}, which is not one of its own.")
    return kind, folder / path


def _max_tokens(folder):
    """To how many tokens texts are cut, or None; newer folders leave that to their tokenizer."""
    sentences = read_json(folder / SENTENCES) if (folder / SENTENCES).is_file() else {}
    longest = sentences.get("max_seq_length") or tokenizer_config.read_settings(folder).get("model_max_length")
    return longest if isinstance(longest, int) and longest < _NO_LIMIT else None


def _pooling(path):
    config = read_json(path)
    modes = [
        name.removeprefix("pooling_mode_")
        for name, is_on in config.items()
        if name.startswith("pooling_mode_") and is_on is True
    ]
    if isinstance(config.get("pooling_mode"), str):  # as newer files have it
        modes = [
            {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}.get(
                config["pooling_mode"], config["pooling_mode"]
            )
        ]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise ValueError(
            f"{path} asks for {' and '.join(modes) or 'no pooling'}; kerasllm has one of {', '.join(_POOLINGS)}."
        )
    return _POOLINGS[modes[0]]


def _dense_options(path):
    config = read_json(path)
    name = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    if name not in _ACTIVATIONS:
        raise ValueError(f"{path} asks for the activation {name!r}; kerasllm has {', '.join(_ACTIVATIONS)}.")
    return {"width": config["out_features"], "activation": _ACTIVATIONS[name]}


def _family(kind):
    family, root = FAMILIES[kind], _ROOTS[kind]
    stem = family.architecture.split("ForMaskedLM")[0].split("ForCausalLM")[0]

    def weights(config, values):
        return {**family.weights(config, values), **dense("head_dense", f"{DENSE}.linear")}

    return family._replace(
        architecture=f"{stem}Model",
        model=TextEmbedder,
        weights=weights,
        unused=family.unused + _HEADS,
        zeros=family.zeros_of_body,
        output_bias=(),
        root=root,
    )
