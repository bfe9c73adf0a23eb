"""Hugging Face's format without torch: models trained here go out and come back, and damaged folders are refused."""

import json
import shutil
import struct

import numpy as np
import pytest

import kerasllm
from kerasllm.huggingface import tensors
from kerasllm.models import CausalLM, MaskedLM, Seq2SeqLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer

IDS = np.random.default_rng(0).integers(0, 20, (2, 9))
SIZES = {"num_layers": 2, "d_model": 24, "num_heads": 4, "dff": 36, "max_length": 32}
MODELS = {
    "gpt2": lambda vocab: CausalLM(TransformerConfig.preset("gpt2", vocab_size=vocab, **SIZES)),
    "llama": lambda vocab: CausalLM(TransformerConfig.preset("llama", vocab_size=vocab, **SIZES, num_kv_heads=2)),
    "bert": lambda vocab: MaskedLM(TransformerConfig.preset("bert", vocab_size=vocab, **SIZES)),
}


def made(kind):
    tokenizer = Tokenizer.train(["the quick brown fox jumps over a lazy dog"], kind="char", progress=False)
    model, draw = MODELS[kind](tokenizer.vocab_size), np.random.default_rng(1)
    model.set_weights([draw.normal(scale=0.4, size=weight.shape) for weight in model.get_weights()])
    return model, tokenizer


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("huggingface") / "llama"
    kerasllm.huggingface.save(*made("llama"), folder)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    """A checkpoint to be damaged."""
    return shutil.copytree(whole, tmp_path / "checkpoint")


@pytest.mark.parametrize("kind", MODELS)
def test_what_is_saved_is_loaded(kind, tmp_path, monkeypatch):
    model, tokenizer = made(kind)
    monkeypatch.setattr(tensors, "SHARD_BYTES", 5000)
    kerasllm.huggingface.save(model, tokenizer, tmp_path / kind)
    assert json.loads((tmp_path / kind / "config.json").read_text())["model_type"] == kind
    assert len(list((tmp_path / kind).glob("model-*.safetensors"))) > 3
    for load in (kerasllm.huggingface.load, kerasllm.load):
        loaded, loaded_tokenizer = load(tmp_path / kind)
        np.testing.assert_array_equal(loaded(IDS), model(IDS))
        assert loaded_tokenizer.encode("a fox") == tokenizer.encode("a fox")


def test_any_precision_goes_into_any_other(tmp_path):
    model, tokenizer = made("llama")
    kerasllm.huggingface.save(model, tokenizer, tmp_path / "float32")
    narrow, _ = kerasllm.huggingface.load(tmp_path / "float32", dtype="bfloat16")
    assert {weight.dtype for weight in narrow.weights} == {"bfloat16"}
    kerasllm.huggingface.save(narrow, tokenizer, tmp_path / "bfloat16")
    assert json.loads((tmp_path / "bfloat16" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    wide, _ = kerasllm.huggingface.load(tmp_path / "bfloat16", dtype="float32")
    for before, after in zip(model.get_weights(), wide.get_weights(), strict=True):
        np.testing.assert_allclose(after, before, rtol=2**-8)


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def huge_header(folder):
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 2**60) + path.read_bytes()[8:])


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def index(folder, name):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))


def other_shape(folder):
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "model.norm.weight": np.ones(5, "float32")}, folder / "model.safetensors")


def without(folder, name="model.norm.weight", **more):
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file({**weights, **more}, folder / "model.safetensors")


DAMAGES = {
    "truncated": (cut, r"model.safetensors is not a whole safetensors file"),
    "a header of 2^60 bytes": (huge_header, r"model.safetensors is not a whole safetensors file"),
    "a pickle": (pickled, r"in pytorch_model.bin only, a pickle, which can run code"),
    "an index that leaves the folder": (lambda f: index(f, "../model.safetensors"), "names the file '../model.safe"),
    "a missing shard": (lambda f: index(f, "model-1.safetensors"), "lacks model-1.safetensors, which"),
    "another shape": (other_shape, r"model.norm.weight with shape \(5,\), which do not make 'transformer/final_norm"),
    "a missing tensor": (without, "lacks the tensor 'model.norm.weight', which its config.json asks for"),
    "a tensor too many": (
        lambda f: without(f, "model.norm.weight", **{"model.norm.weight": np.ones(24, "float32"), "x": np.ones(2)}),
        "holds the tensor 'x', which its config.json has no place for",
    ),
    "an unknown type": (lambda f: change_config(f, model_type="gpt5"), "type 'gpt5'; kerasllm reads gpt2, llama"),
    "foreign code": (lambda f: change_config(f, auto_map={}), "asks to run code that comes with the checkpoint"),
    "quantized weights": (lambda f: change_config(f, quantization_config={"bits": 4}), "describes quantized weights"),
    "another activation": (lambda f: change_config(f, hidden_act="tanhshrink"), "hidden_act='tanhshrink'; kerasllm kn"),
    "another rotation": (
        lambda f: change_config(f, rope_parameters={"rope_type": "yarn", "factor": 2.0}),
        "asks for rope_type='yarn', and kerasllm computes only 'default', 'linear' or 'llama3'",
    ),
    "biases": (lambda f: change_config(f, attention_bias=True), "asks for attention_bias=True, and kerasllm computes"),
    "an unknown setting": (
        lambda f: change_config(f, mystery=3),
        "the setting mystery=3, which kerasllm does not know",
    ),
    "heads that do not divide": (lambda f: change_config(f, num_key_value_heads=3), "describes no model that kerasllm"),
    "a small table": (lambda f: change_config(f, vocab_size=7), "ids, and the model's table 7 rows"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json: it is not a checkpoint"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "No tokenizer at"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_what_cannot_be_loaded_is_refused_in_one_sentence(folder, damage, message):
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        kerasllm.huggingface.load(folder)


def test_what_the_format_cannot_say_is_not_written(tmp_path):
    _, tokenizer = made("gpt2")
    config = TransformerConfig(vocab_size=tokenizer.vocab_size, **SIZES, activation="relu_squared", parallel=True)
    with pytest.raises(ValueError, match=r"None of gpt2, llama, .* computes what TransformerConfig"):
        kerasllm.huggingface.save(CausalLM(config), tokenizer, tmp_path / "out")
    translator = Seq2SeqLM(TransformerConfig(vocab_size=tokenizer.vocab_size, **SIZES))
    with pytest.raises(TypeError, match="written of a CausalLM or MaskedLM, got a Seq2SeqLM"):
        kerasllm.huggingface.save(translator, tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()
