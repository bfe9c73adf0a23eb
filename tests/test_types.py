"""What users call has types: each parameter and each result, and for editors what loads on first use."""

import ast
import inspect

import pytest
from conftest import ROOT

import kerasllm

ROOMS = ("adapters", "data", "evaluation", "export", "generation", "huggingface", "runs", "tokenizers")
FUNCTIONS = {
    f"{room}.{name}": value
    for room in ROOMS
    for name in getattr(kerasllm, room).__all__
    if inspect.isfunction(value := getattr(getattr(kerasllm, room), name))
}
METHODS = ("train", "load", "save", "encode", "encode_masked", "encode_chat", "encode_batch", "decode")
METHODS += ("encode_chat_with_mask",)
FUNCTIONS |= {f"tokenizers.Tokenizer.{name}": getattr(kerasllm.tokenizers.Tokenizer, name) for name in METHODS}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_is_annotated(name):
    signature = inspect.signature(FUNCTIONS[name])
    bare = [p.name for p in signature.parameters.values() if p.annotation is p.empty and p.name != "self"]
    assert not bare
    assert signature.return_annotation is not signature.empty


def test_the_stub_names_what_the_package_loads():
    stub = ast.parse((ROOT / "kerasllm" / "__init__.pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    named = {alias.asname: node.module for node in imports for alias in node.names}
    functions = {name: f"kerasllm.{room}" for name, room in kerasllm._FUNCTIONS.items()}
    assert named == {**dict.fromkeys(kerasllm._MODULES, "kerasllm"), **functions}
