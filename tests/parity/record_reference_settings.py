"""Records which settings transformers reads, of every architecture that is read and written here.

    python tests/parity/record_reference_settings.py

writes kerasllm/huggingface/reference_settings.json: of the source of a model's class, and of what it calls in its own
module and in those of masks and rotations, every attribute of a config that it looks at; of the config's class, what
it makes of its settings, with their types, their defaults and their other names. What draws weights is left out.
"""

import ast
import dataclasses
import functools
import inspect
import json
import re
import sys
from pathlib import Path

import transformers

import kerasllm.huggingface
from kerasllm.huggingface.families import FAMILIES
from kerasllm.huggingface.pictures.encoders import ENCODERS

PATH = Path(kerasllm.huggingface.__file__).parent / "reference_settings.json"
_ROTATIONS = "transformers.modeling_rope_utils"
_SHARED_MODULES = ("transformers.masking_utils", _ROTATIONS)
_CONFIGS = ("config", "self.config")
_NOT_OF_LOGITS = ("_init_weights", "to_dict", "_validate", "validate_")
# What the classes look at that all models and all configs are made of.
_OF_ALL = {"tie_word_embeddings": None, "per_layer_config": None}


def recorded():
    """The content of the file."""
    types = {kind: _of_type(kind, family.architecture) for kind, family in {**FAMILIES, **ENCODERS}.items()}
    return {"transformers": transformers.__version__, "types": types}


def _of_type(kind, architecture):
    config_class = transformers.CONFIG_MAPPING[kind]
    fields, other_names = {field.name: field for field in dataclasses.fields(config_class)}, config_class.attribute_map
    read = {**_OF_ALL, **_read_by_model(getattr(transformers, architecture)), **_read_by_config(config_class)}
    read = {other_names.get(name, name): default for name, default in read.items()}
    return {
        "settings": {
            name: [_annotation(config_class, name), fields[name].default] if name in fields else ["", read[name]]
            for name in sorted(read)
            if name in fields or not name.startswith("_")
        },
        "aliases": {name: theirs for name, theirs in sorted(other_names.items()) if theirs in read},
    }


def _annotation(config_class, name):
    owner = next(base for base in config_class.__mro__ if name in vars(base).get("__annotations__", {}))
    nodes = _definitions(owner.__module__)[owner.__name__].body
    return next(
        ast.unparse(node.annotation) for node in nodes if getattr(node, "target", None) and node.target.id == name
    )


def _read_by_config(config_class):
    """The attributes and keyword arguments that a config's own class makes something of, and their defaults."""
    bases = config_class.__mro__[: config_class.__mro__.index(transformers.PreTrainedConfig)]
    nodes = [node for base in bases for node in _definitions(base.__module__)[base.__name__].body]
    made = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    if hasattr(config_class, "rope_parameters") and "convert_rope_params_to_dict" not in made:
        mixin = _definitions(_ROTATIONS)["RotaryEmbeddingConfigMixin"].body
        nodes += [node for node in mixin if getattr(node, "name", "") == "convert_rope_params_to_dict"]
    own = {name: value for node in nodes for name, value in _looked_at(node, ("self",))}
    given = {name: value for node in nodes for name, value in _looked_at(node, ("kwargs",))}
    fields = {field.name for field in dataclasses.fields(config_class)}
    return {name: value for name, value in own.items() if name in fields or not hasattr(config_class, name)} | given


def _read_by_model(model_class):
    """The attributes of configs in the source of a model and of all that it is made of, and their defaults."""
    names, seen, todo = {}, set(), [(model_class.__module__, model_class.__name__)]
    while todo:
        module, name = todo.pop()
        if (module, name) in seen or name not in _definitions(module):
            continue
        seen.add((module, name))
        names = dict(_looked_at(_definitions(module)[name], _CONFIGS)) | names  # What is made first decides.
        for node in ast.walk(_definitions(module)[name]):
            if isinstance(node, ast.Name):
                home = getattr(getattr(sys.modules[module], node.id, None), "__module__", module)
                todo += [(home, node.id)] if home in (model_class.__module__, *_SHARED_MODULES) else []
    return names


@functools.cache
def _definitions(module):
    """The classes and functions of a module by name, without those of their methods that say nothing of logits."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    found = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    for node in found.values():
        node.body = [child for child in node.body if not getattr(child, "name", "").startswith(_NOT_OF_LOGITS)]
    return found


def _looked_at(tree, owners):
    """What stands in `owner.name`, `getattr(owner, name, default)`, `owner.pop(name, default)` and `owner.get(...)`."""
    called = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    functions = [node.func for node in called]
    for node in ast.walk(tree):
        is_read = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node not in functions
        if is_read and ast.unparse(node.value) in owners:
            yield node.attr, None
    for call in called:
        function, arguments = ast.unparse(call.func), call.args
        if function in ("getattr", "hasattr") and ast.unparse(arguments[0]) in owners:
            arguments = arguments[1:]
        elif function.rpartition(".")[0] not in owners or not function.endswith((".pop", ".get")):
            continue
        name, default = (*(getattr(argument, "value", None) for argument in arguments), None)[:2]
        if isinstance(name, str):
            yield name, default if isinstance(default, bool | int | float | str) else None


if __name__ == "__main__":
    text = json.dumps(recorded(), indent=1)
    PATH.write_text(re.sub(r"\[\s+(.*),\s+(.*)\s+\]", r"[\1, \2]", text) + "\n", encoding="utf-8")  # a line for each
