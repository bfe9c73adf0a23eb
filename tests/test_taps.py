"""Taps: what happens inside a model, recorded and changed by name, in every way in which a model is called."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from oracles import scramble

from kerasllm import generation
from kerasllm.layers import taps
from kerasllm.models import CausalLM, MaskedLM, Seq2SeqLM, TransformerConfig

SIZES = {"vocab_size": 19, "num_layers": 2, "d_model": 16, "num_heads": 4, "dff": 20, "max_length": 32}
IDS = np.random.default_rng(0).integers(1, 19, (2, 7))
numpy = ops.convert_to_numpy


@pytest.fixture
def model():
    return scramble(CausalLM(TransformerConfig(**SIZES, num_kv_heads=2, norm="rms")))


def test_what_is_recorded_is_what_the_model_computes(model):
    with taps.recording("*") as found:
        logits = model(IDS)
    prefix = f"{model.name}/"
    block, attention = f"{prefix}transformer/block_1/", f"{prefix}transformer/block_1/attention/"
    values = {name: numpy(value) for name, (value,) in found.items()}
    B, T, D, H, K, h = 2, 7, 16, 4, 2, 4
    shapes = {
        **{
            attention + name: (B, heads, T, h) for name, heads in [("query", H), ("key", K), ("value", K), ("heads", H)]
        },
        **{attention + name: (B, H, T, T) for name in ("scores", "probabilities")},
        **{block + name: (B, T, D) for name in ("input", "before_feed_forward", "output", "attention_norm")},
        **{block + name: (B, T, D) for name in ("feed_forward_norm", "attention/output", "feed_forward/output")},
        block + "feed_forward/inner": (B, T, 20),
    }
    assert {name: values[name].shape for name in values if name.startswith(block)} == shapes
    others = ("transformer/embedding", "transformer/final_norm", "logits")
    assert {name.removeprefix(prefix) for name in values if "block" not in name} == set(others)

    def close(name, expected):
        np.testing.assert_allclose(values[name], expected, rtol=1e-4, atol=1e-5)

    close(prefix + "logits", logits)
    close(block + "input", values[f"{prefix}transformer/block_0/output"])
    close(block + "before_feed_forward", values[block + "input"] + values[attention + "output"])
    close(block + "output", values[block + "before_feed_forward"] + values[block + "feed_forward/output"])
    probabilities, value = values[attention + "probabilities"], np.repeat(values[attention + "value"], H // K, axis=1)
    close(attention + "heads", probabilities @ value)
    hidden = np.triu(np.full((T, T), 1e9), 1)
    close(attention + "probabilities", numpy(ops.softmax(values[attention + "scores"] - hidden)))
    close(prefix + "transformer/final_norm", numpy(model.hidden_states(IDS)))


def test_cross_attention_and_post_norm_have_names_too():
    model = Seq2SeqLM(TransformerConfig(**SIZES, norm_placement="post"))
    with taps.recording("decoder/block_0/*") as found:
        model({"source_ids": IDS, "target_ids": IDS[:, :5]})
    ends = {name.partition("block_0/")[2]: value[0].shape for name, value in found.items()}
    assert ends["cross_attention/probabilities"] == (2, 4, 5, 7)
    assert {"after_attention", "before_feed_forward", "cross_attention_norm", "cross_attention/key"} <= ends.keys()


def test_without_a_listener_the_graph_is_what_it_would_be(model, monkeypatch):
    def operations():
        model.compile(keras.optimizers.SGD())
        model.train_function = None
        model.make_train_function()
        data = (tf.constant(IDS), tf.constant(IDS), None)
        graph = tf.function(lambda: model.train_step(data), autograph=False).get_concrete_function().graph
        return [
            (operation.type, [tuple(o.shape.as_list()) for o in operation.outputs])
            for operation in graph.get_operations()
        ]

    expected = operations()
    for module in ("attention", "block", "dot_product", "feed_forward", "transformer"):
        monkeypatch.setattr(f"kerasllm.layers.{module}.tap", lambda x, *_: x)
    monkeypatch.setattr("kerasllm.models.language_model.tap", lambda x, *_: x)
    assert operations() == expected
    monkeypatch.setattr("kerasllm.layers.block.tap", lambda x, *_: x + 0)
    assert operations() != expected  # so this would be seen


def without_attention(model):
    """The same model, whose first block's attention adds nothing."""
    twin = CausalLM(model.config)
    twin.set_weights(model.get_weights())
    for weight in twin.transformer.blocks[0].attention.output_projection.weights:
        weight.assign(ops.zeros_like(weight))
    return twin


@pytest.mark.soak
def test_changes_act_wherever_a_model_is_called():
    model = scramble(CausalLM(TransformerConfig(**SIZES, remat="block")))
    twin, nothing = without_attention(model), {"block_0/attention/output": lambda x: 0 * x}
    before = generation.generate_ids(model, [[3, 4, 5]], 8)
    for part in (model, twin):
        part.compile(keras.optimizers.SGD(0.0))
    expected, loss = numpy(twin(IDS)), model.evaluate(IDS, IDS, verbose=0)[0]
    with taps.changing(nothing):
        for logits in (model(IDS), tf.function(model)(IDS), model.predict(IDS, verbose=0)):
            np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
        changed = [model.fit(IDS, IDS, verbose=0).history["loss"][0], model.evaluate(IDS, IDS, verbose=0)[0]]
        assert generation.generate_ids(model, [[3, 4, 5]], 8) == generation.generate_ids(twin, [[3, 4, 5]], 8)
    assert changed == pytest.approx([twin.evaluate(IDS, IDS, verbose=0)[0]] * 2, rel=1e-5)
    assert changed[1] != pytest.approx(loss, rel=1e-2)
    assert model.evaluate(IDS, IDS, verbose=0)[0] == loss
    assert generation.generate_ids(model, [[3, 4, 5]], 8) == before


def test_what_is_compiled_tells_what_passed(model):
    model.compile(keras.optimizers.SGD(0.0))
    with taps.recording("logits") as eager:
        model(IDS)
    with taps.recording("logits", "block_*/attention/scores") as found:
        model.fit(np.repeat(IDS, 2, axis=0), np.repeat(IDS, 2, axis=0), batch_size=2, shuffle=False, verbose=0)
    assert [name.partition("/")[2] for name in found] == [
        *(f"transformer/block_{i}/attention/scores" for i in range(2)),
        "logits",
    ]
    steps = found[f"{model.name}/logits"]
    assert len(steps) == 2 and all(isinstance(step, np.ndarray) for step in steps)
    np.testing.assert_allclose(np.concatenate(steps)[::2], eager[f"{model.name}/logits"][0], rtol=1e-4, atol=1e-5)
    with taps.recording("logits") as found:
        (new,) = generation.generate_ids(model, [[3, 4, 5]], 6)[0:1]
    (steps,) = found.values()
    assert [int(step[0, -1].argmax()) for step in steps] == new


def test_a_function_of_ones_own_may_return_what_it_recorded():
    model = scramble(MaskedLM(TransformerConfig(**SIZES)))

    @tf.function(jit_compile=True)
    def middle(ids):
        with taps.recording("block_0/output") as found:
            model(ids)
        return found

    with taps.recording("block_0/output") as expected:
        model(IDS)
    for name, values in middle(IDS).items():
        np.testing.assert_allclose(values[0], expected[name][0], rtol=1e-5, atol=1e-5)
