"""LiteRT: the graph writes what the model writes in Python, and LiteRT-LM's own runner runs what is packed."""

import sys

import keras
import numpy as np
import pytest

import kerasllm
from kerasllm.export.running import Graph, check_graph
from kerasllm.generation import generate_ids
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer

CONTEXT = 48
CHAT = "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|answer|>{% endif %}"


@pytest.fixture(scope="module")
def tokenizer():
    text = "to be or not to be, that is the question: " * 20
    tokenizer = Tokenizer.train([text], vocab_size=290, kind="bpe", progress=False)
    tokenizer.chat_template = CHAT
    return tokenizer


def drawn_anew(model):
    for weight in model.trainable_variables:
        weight.assign(weight + 0.3 * np.random.default_rng(weight.shape[-1]).standard_normal(weight.shape))
    return model


@pytest.fixture(scope="module")
def model(tokenizer):
    """Of Llama's architecture, with a window in one of its layers."""
    keras.utils.set_random_seed(0)
    shape = {"num_layers": 2, "d_model": 32, "num_heads": 4, "num_kv_heads": 2, "dff": 64, "max_length": CONTEXT}
    config = TransformerConfig.preset("llama", vocab_size=tokenizer.vocab_size, **shape, attention_window=(None, 8))
    return drawn_anew(CausalLM(config))


@pytest.fixture(scope="module")
def graph(model, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("litert") / "model.tflite"
    kerasllm.export.litert(model, tokenizer, path)
    return Graph(path)


@pytest.mark.parametrize("length", [1, 5, 33, 46])
def test_the_graph_writes_what_python_writes(graph, model, length):
    """Prompts that need no piece, one, one filled up, and two of which the second reaches past the context."""
    prompt = np.random.default_rng(length).integers(0, 290, length).tolist()
    new_tokens = min(12, CONTEXT - length)
    assert graph.generate_ids(prompt, new_tokens) == generate_ids(model, prompt, new_tokens)


def test_a_model_in_16_bits_is_computed_in_32(tokenizer, tmp_path):
    """As `generate` does it on processors."""
    config = TransformerConfig(tokenizer.vocab_size, 1, 32, 4, 64, max_length=16)
    model = drawn_anew(CausalLM(config, dtype="mixed_bfloat16"))
    kerasllm.export.litert(model, tokenizer, tmp_path / "model.tflite")
    assert Graph(tmp_path / "model.tflite").generate_ids([5, 6, 7], 8) == generate_ids(model, [5, 6, 7], 8)


def test_a_graph_of_other_weights_is_refused(model, tokenizer, tmp_path):
    kerasllm.export.litert(model, tokenizer, tmp_path / "model.tflite", context=16)
    other = CausalLM(model.config)
    with pytest.raises(ValueError, match="its logits differ by up to"):
        check_graph(other, tmp_path / "model.tflite")


@pytest.mark.parametrize(("kind", "tolerance"), [("int8", 0.05), ("int4", 0.5)])
def test_quantized_graphs_predict_nearly_the_same(graph, model, tokenizer, tmp_path, kind, tolerance):
    pytest.importorskip("litert_quantizer")
    path = tmp_path / "small.tflite"
    kerasllm.export.litert(model, tokenizer, path, kind)
    ids = np.random.default_rng(0).integers(0, 290, CONTEXT).tolist()
    found, expected = (keras.ops.softmax(some.logits(ids, CONTEXT // 2)) for some in (Graph(path), graph))
    distance = np.abs(found - expected).sum(axis=-1).mean() / 2
    assert 0 < distance < tolerance


def test_litert_lm_writes_the_same_text(model, tokenizer, tmp_path):
    litert_lm = pytest.importorskip("litert_lm")
    pytest.importorskip("litert_lm_builder")
    kerasllm.export.litert(model, tokenizer, tmp_path / "model.litertlm")
    with litert_lm.Engine(str(tmp_path / "model.litertlm")) as engine:
        greedy = litert_lm.SamplerConfig(top_k=1)
        assert engine.eos_token_ids == [[tokenizer.end_id]]
        for text in ("to be or not", "that is the question: to be or", "é 🙂"):
            assert engine.tokenize(text) == tokenizer.encode(text)
            session = engine.create_session(apply_prompt_template=False, sampler_config=greedy, max_output_tokens=12)
            session.run_prefill([text])
            assert session.run_decode().texts[0] == kerasllm.generate(model, tokenizer, text, 12)
        chat = engine.create_conversation(sampler_config=greedy)
        assert chat.render_message_to_string({"role": "user", "content": "to be"}) == "<|user|>to be<|answer|>"


def test_a_chain_of_layers_is_exported_too(tokenizer, tmp_path):
    layers = [
        keras.layers.Embedding(tokenizer.vocab_size, 16),
        kerasllm.layers.Transformer(1, 32, 4, 64),
        keras.layers.Dense(tokenizer.vocab_size),
    ]
    model = drawn_anew(keras.Sequential([keras.Input((None,), dtype="int32"), *layers]))
    kerasllm.export.litert(model, tokenizer, tmp_path / "model.tflite", context=16)
    assert Graph(tmp_path / "model.tflite").generate_ids([5, 6, 7], 8) == generate_ids(model, [5, 6, 7], 8)


def test_what_cannot_be_exported_is_refused_and_nothing_is_left(model, tokenizer, tmp_path, monkeypatch):
    file = tmp_path / "model.litertlm"
    for arguments, options, error, message in [
        ([file.with_suffix(".bin")], {}, ValueError, r"named ….litertlm or ….tflite"),
        ([file, "int2"], {}, ValueError, "`quantize` is one of int8, int4 or None"),
        ([file], {"context": 64}, ValueError, "`context` must be between 2 and 48, got 64"),
    ]:
        with pytest.raises(error, match=message):
            kerasllm.export.litert(model, tokenizer, *arguments, **options)
    for package, quantize in [("litert_lm_builder", None), ("litert_quantizer.quantizer", "int8")]:
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(ImportError, match=r"not installed: pip install litert-"):
                kerasllm.export.litert(model, tokenizer, file, quantize)
    ids = keras.Input((None,), dtype="int32")
    recurrent = keras.Model(
        ids, keras.layers.Dense(290)(keras.layers.GRU(4, return_sequences=True)(keras.layers.Embedding(290, 4)(ids)))
    )
    with pytest.raises(ValueError, match="is not decoded with a cache, which LiteRT has as an input"):
        kerasllm.export.litert(recurrent, tokenizer, file)
    assert not list(tmp_path.iterdir())
    file.write_text("keep")
    with pytest.raises(FileExistsError, match="exists, and is left as it is"):
        kerasllm.export.litert(model, tokenizer, file)
    assert file.read_text() == "keep"
