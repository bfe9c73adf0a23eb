"""Hugging Face's format without torch: models trained here go out and come back, and damaged folders are refused."""

import hashlib
import http.server
import json
import shutil
import struct
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import kerasllm
from kerasllm.huggingface import tensors
from kerasllm.huggingface.families import FAMILIES
from kerasllm.models import CausalLM, MaskedLM, Seq2SeqLM, TransformerConfig
from kerasllm.tasks.task import DEFAULT_MODEL
from kerasllm.tokenizers import Tokenizer

IDS = np.random.default_rng(0).integers(0, 20, (2, 9))
SIZES = {"num_layers": 2, "d_model": 24, "num_heads": 4, "dff": 36, "max_length": 32}
ENCODER_DECODER = {**SIZES, "num_encoder_layers": 3}
GEMMA_3 = {
    "attention_window": (3, None),
    "rope_theta": (100.0, 10000.0),
    "norm": "rms",
    "norm_placement": "sandwich",
    "qk_norm": True,
    "gated": True,
    "use_bias": False,
    "scale_embeddings": True,
}
MODELS = {
    "gpt2": lambda vocab: CausalLM(TransformerConfig.preset("gpt2", vocab_size=vocab, **SIZES)),
    "llama": lambda vocab: CausalLM(TransformerConfig.preset("llama", vocab_size=vocab, **SIZES, num_kv_heads=2)),
    "gpt_neox": lambda vocab: CausalLM(
        TransformerConfig(vocab_size=vocab, **SIZES, parallel=True, shared_norm=False, partial_rotary_factor=0.4)
    ),
    "arcee": lambda vocab: CausalLM(TransformerConfig(**{**DEFAULT_MODEL, **SIZES}, vocab_size=vocab)),
    "nanochat": lambda vocab: CausalLM(TransformerConfig.preset("speedrun", vocab_size=vocab, **SIZES)),
    "gemma3_text": lambda vocab: CausalLM(TransformerConfig(vocab_size=vocab, **SIZES, **GEMMA_3)),
    "bert": lambda vocab: MaskedLM(TransformerConfig.preset("bert", vocab_size=vocab, **SIZES)),
    "bart": lambda vocab: Seq2SeqLM(TransformerConfig.preset("bart", vocab_size=vocab, **ENCODER_DECODER)),
    "t5": lambda vocab: Seq2SeqLM(TransformerConfig.preset("t5", vocab_size=vocab, **ENCODER_DECODER)),
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
        inputs = {"source_ids": IDS, "target_ids": IDS} if isinstance(model, Seq2SeqLM) else IDS
        np.testing.assert_allclose(loaded(inputs), model(inputs), rtol=1e-5, atol=1e-5)
        assert loaded_tokenizer.encode("a fox") == tokenizer.encode("a fox")


RECORDED = Path(__file__).parent / "fixtures" / "huggingface"  # by tests/parity/record_fixtures.py


@pytest.mark.parametrize("kind", sorted(path.name for path in RECORDED.iterdir()))
def test_logits_are_those_that_transformers_gave(kind, tmp_path):
    folder = shutil.copytree(RECORDED / kind, tmp_path / kind)
    Tokenizer.train(["abc"], kind="char", progress=False).save(folder)
    recorded = load_file(folder / "expected.safetensors")
    ids, visible, expected = recorded["ids"], recorded["visible"], recorded["logits"]
    model, _ = kerasllm.huggingface.load(folder)
    if isinstance(model, Seq2SeqLM):
        found = model({"source_ids": ids, "source_mask": visible, "target_ids": recorded["targets"]})
    else:
        found, expected = np.array(model(ids, padding_mask=visible))[visible], expected[visible]
    np.testing.assert_allclose(found, expected, atol=1e-4)


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

    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "model.norm.weight": np.ones(5, "float32")}, folder / "model.safetensors")


def without(folder, name="model.norm.weight", **more):

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
    "an unknown type": (lambda f: change_config(f, model_type="gpt5"), "type 'gpt5'; kerasllm reads gpt2, gpt_neox"),
    "quantized weights": (
        lambda f: change_config(f, quantization_config={"bits": 4}),
        "quantized by a way without a name with bits=4",
    ),
    "another activation": (lambda f: change_config(f, hidden_act="tanhshrink"), "hidden_act='tanhshrink'; kerasllm kn"),
    "another rotation": (
        lambda f: change_config(f, rope_parameters={"rope_type": "ntk", "factor": 2.0}),
        "asks for rope_type='ntk', and kerasllm computes only 'default', 'linear', 'dynamic', 'yarn', 'longrope', 'll",
    ),
    "no epsilon": (lambda f: change_config(f, rms_norm_eps=None), "rms_norm_eps=None where there must be float"),
    "a word for a truth": (
        lambda f: change_config(f, attention_bias="false"),
        "attention_bias='false' where there must be bool",
    ),
    "pictures too": (
        lambda f: change_config(f, model_type="qwen2_vl", text_config={"model_type": "qwen2_vl_text"}),
        "type 'qwen2_vl', of pictures or sounds as well as of text \\('qwen2_vl_text'\\); kerasllm reads gpt2",
    ),
    "heads rotated in part": (
        lambda f: change_config(
            f, rope_parameters={"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}
        ),
        "asks for partial_rotary_factor=0.5, and kerasllm computes only 1.0",
    ),
    "biases without values": (
        lambda f: change_config(f, attention_bias=True),
        "lacks the tensor 'model.layers.0.self_attn.k_proj.bias'",
    ),
    "a setting that is not computed": (
        lambda f: change_config(f, is_causal=False),
        "asks for is_causal=False, and kerasllm computes only True, which gives other logits",
    ),
    "heads that do not divide": (lambda f: change_config(f, num_key_value_heads=3), "describes no model that kerasllm"),
    "a small table": (
        lambda f: change_config(f, vocab_size=7),
        r"do not make 'token_embedding/embeddings' of shape \(7",
    ),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json: it is not a checkpoint"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "No tokenizer at"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_what_cannot_be_loaded_is_refused_in_one_sentence(folder, damage, message):
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        kerasllm.huggingface.load(folder)


class Hub(http.server.BaseHTTPRequestHandler):
    """What a download asks of the hub: what a repository holds, and a file of it."""

    folder, asked, commit = None, [], "c0ffee" + 34 * "0"

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.wfile.write(self.answer() or b"")

    def answer(self):
        path = self.path.partition("?")[0]
        self.asked.append(path)
        if path.startswith("/api/models/somebody/llama"):
            files = list(self.folder.iterdir())
            tree = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": self.commit} for f in files]
            about = {"id": "somebody/llama", "sha": self.commit, "siblings": [{"rfilename": f.name} for f in files]}
            content = json.dumps(tree if "/tree/" in path else about).encode()
        elif path.startswith("/somebody/llama/resolve/"):
            content = (self.folder / path.rpartition("/")[2]).read_bytes()
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.end_headers()
        return content

    def log_message(self, *_):
        pass


@pytest.mark.soak
def test_a_repository_of_the_hub_is_downloaded_once(folder, run_python, tmp_path):
    (folder / "pytorch_model.bin").write_bytes(b"not asked for")
    Hub.folder = folder
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = f"""
        import os
        os.environ["HF_ENDPOINT"] = "http://127.0.0.1:{server.server_port}"
        os.environ["HF_HOME"] = {str(tmp_path / "cache")!r}
        import kerasllm, numpy as np
        model, tokenizer = kerasllm.load("somebody/llama")
        logits = np.array(model(np.ones((1, 3), "int32")))
        print("LOGITS", float(logits.sum()), tokenizer.decode(tokenizer.encode("a fox")))
        try:
            kerasllm.load("somebody/else")
        except FileNotFoundError as error:
            print("REFUSED", error)
    """
    written = run_python(code)
    model, _ = kerasllm.huggingface.load(folder)
    assert f"LOGITS {float(np.array(model(np.ones((1, 3), 'int32'))).sum())} a fox" in written
    assert "REFUSED There is no folder somebody/else, and the hub did not give a repository of that name" in written
    assert not any(path.endswith(".bin") for path in Hub.asked)
    server.shutdown()
    offline = code.replace("import os\n", 'import os\n        os.environ["HF_HUB_OFFLINE"] = "1"\n', 1)
    assert written.partition("REFUSED")[0] in run_python(offline)


def test_what_the_format_cannot_say_is_not_written(tmp_path):
    _, tokenizer = made("gpt2")
    config = TransformerConfig(vocab_size=tokenizer.vocab_size, **SIZES, activation="relu_squared", parallel=True)
    with pytest.raises(
        ValueError, match=r"nearest, gpt_neox, it differs in shared_norm=True \(there False\)\. Only a run"
    ):
        kerasllm.huggingface.save(CausalLM(config), tokenizer, tmp_path / "out")
    with pytest.raises(TypeError, match=r"written of a CausalLM or Contrastive.*, got a Sequential"):
        kerasllm.huggingface.save(keras.Sequential(), tokenizer, tmp_path / "out")
    with pytest.raises(ValueError, match="room for one tokenizer, got one for sources and one for targets"):
        kerasllm.huggingface.save(made("bart")[0], (tokenizer, made("bart")[1]), tmp_path / "out")
    with pytest.raises(ValueError, match=r"the tokenizer has .* ids and the model's table 9 rows: save the model"):
        kerasllm.huggingface.save(MODELS["gpt2"](9), tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_documentation_names_what_is_read():
    page = Path(__file__).parents[1] / "docs" / "how-to" / "hugging-face.md"
    rows = page.read_text(encoding="utf-8").partition("| `model_type` |")[2].partition("\n\n")[0]
    named = [tuple(row.strip("| ").split(" | ")) for row in rows.splitlines()[2:]]
    assert named == [(kind, family.architecture, family.model.__name__) for kind, family in FAMILIES.items()]
