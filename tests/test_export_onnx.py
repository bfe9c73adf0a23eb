"""ONNX: onnxruntime and OpenVINO write what the model writes in Python, a batch of uneven prompts too."""

import json
import sys

import keras
import numpy as np
import pytest

import kerasllm
from kerasllm.generation import generate_ids
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer

PROMPTS = [[5, 6, 7], [8] * 12, [7]]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["to be or not to be: " * 9], vocab_size=270, kind="bpe", progress=False)


@pytest.fixture(scope="module")
def model(tokenizer):
    """Of Llama's architecture, with a window in one of its layers."""
    keras.utils.set_random_seed(0)
    shape = {"num_layers": 2, "d_model": 32, "num_heads": 4, "num_kv_heads": 2, "dff": 64, "max_length": 48}
    config = TransformerConfig.preset("llama", vocab_size=tokenizer.vocab_size, **shape, attention_window=(None, 8))
    model = CausalLM(config)
    for weight in model.trainable_variables:
        weight.assign(weight + 0.3 * np.random.default_rng(weight.shape[-1]).standard_normal(weight.shape))
    return model


@pytest.fixture(scope="module")
def folder(model, tokenizer, tmp_path_factory):
    pytest.importorskip("tf2onnx")
    folder = tmp_path_factory.mktemp("onnx") / "model"
    kerasllm.export.onnx(model, tokenizer, folder)
    return folder


def run_by_onnxruntime(path):
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def run_by_openvino(path):
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = pytest.importorskip("openvino").Core().compile_model(str(path), "CPU", exact)
    return lambda inputs: {output.any_name: value for output, value in compiled(inputs).items()}


@pytest.mark.parametrize("runtime", [run_by_onnxruntime, run_by_openvino])
def test_runtimes_write_what_python_writes(folder, model, runtime):
    run = runtime(folder / "model.onnx")
    length = max(map(len, PROMPTS))
    rows = np.array([[0] * (length - len(prompt)) + prompt for prompt in PROMPTS])
    mask = np.array([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS])
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    past = {
        f"past_key_values.{layer}.{part}": np.zeros((3, 2, 0, 8), "float32")
        for layer in range(2)
        for part in ("key", "value")
    }
    written = []
    for _ in range(12):
        outputs = run({"input_ids": rows, "attention_mask": mask, "position_ids": positions, **past})
        rows = outputs.pop("logits").argmax(axis=-1)
        written.append(rows[:, 0])
        past = {name.replace("present", "past_key_values"): value for name, value in outputs.items()}
        mask, positions = np.pad(mask, [(0, 0), (0, 1)], constant_values=1), positions[:, -1:] + 1
    assert np.stack(written, axis=1).tolist() == generate_ids(model, PROMPTS, 12)


def test_onnxruntime_genai_writes_the_same(folder, model, tokenizer):
    genai = pytest.importorskip("onnxruntime_genai")
    loaded = genai.Model(str(folder))
    settings = genai.GeneratorParams(loaded)
    settings.set_search_options(max_length=20)
    generator = genai.Generator(loaded, settings)
    generator.append_tokens(PROMPTS[0])
    while not generator.is_done():
        generator.generate_next_token()
    expected = generate_ids(model, PROMPTS[0], 17, end_ids=tokenizer.end_ids)
    assert generator.get_sequence(0)[3 : 3 + len(expected)].tolist() == expected
    assert Tokenizer.load(folder).encode("to be") == tokenizer.encode("to be")
    assert json.loads((folder / "genai_config.json").read_text())["model"]["eos_token_id"] == tokenizer.end_ids


def test_what_cannot_be_exported_is_refused_and_nothing_is_left(model, tokenizer, tmp_path, monkeypatch):
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.GRU(4, return_sequences=True)(keras.layers.Embedding(290, 4)(ids))
    with pytest.raises(ValueError, match="is not decoded with a cache, which ONNX has as an input"):
        kerasllm.export.onnx(keras.Model(ids, keras.layers.Dense(290)(x)), tokenizer, tmp_path / "new")
    monkeypatch.setitem(sys.modules, "tf2onnx.convert", None)
    with pytest.raises(ImportError, match="not installed: pip install tf2onnx"):
        kerasllm.export.onnx(model, tokenizer, tmp_path / "new")
    assert not list(tmp_path.iterdir())
