"""The JAX backend, in a process of its own: the same numbers as TensorFlow, and no need of TensorFlow at all."""

import inspect
import json

import keras
import numpy as np
import pytest

from kerasllm.generation import generate_ids
from kerasllm.layers import tiles
from kerasllm.losses import TokenCrossentropy
from kerasllm.models import CausalLM, TransformerConfig


def logits_text_and_training(config, weights, ids, documents):
    """What both backends do from the same weights. The second process runs this very text."""
    model = CausalLM(TransformerConfig.from_dict(config))
    model.set_weights(weights)
    model.transformer.blocks[0].feed_forward.inner.activity_regularizer = keras.regularizers.L2(1e-3)
    inputs = {"token_ids": ids[:, :-1], "document_ids": documents[:, :-1]}
    logits = keras.ops.convert_to_numpy(model(inputs))
    texts = generate_ids(model, [[3, 4, 5], [6] * 9], max_new_tokens=8)
    model.compile(keras.optimizers.SGD(0.5))  # Adam would blow up gradients that are zero but for rounding.
    counted = (documents[:, 1:] != 0).astype("float32")
    loss = model.train_on_batch(inputs, ids[:, 1:], counted, return_dict=True)["loss"]
    tiles.LONG, tiles.OF_ONE, tiles.FEWEST_QUERIES = 8, 4, 4
    model.compile(keras.optimizers.SGD(0.5), TokenCrossentropy(0.1, chunk_size=7))
    chunked = model.train_on_batch(inputs, ids[:, 1:], counted, return_dict=True)["loss"]
    losses = np.array([loss, chunked])
    return {"logits": logits, "texts": np.array(texts), "losses": losses, "weights": model.get_weights()}


SECOND_PROCESS = """
import json
import re
import keras
import numpy as np
from kerasllm import adapters
from kerasllm.generation import generate_ids
from kerasllm.layers import taps, tiles
from kerasllm.losses import TokenCrossentropy
from kerasllm.models import CausalLM, TransformerConfig

{function}

with np.load({path!r}) as file:
    weights = [file[f"weight_{{i}}"] for i in range(int(file["count"]))]
    ids, documents = file["ids"], file["documents"]
result = logits_text_and_training(json.loads({config!r}), weights, ids, documents)
moved = {{f"moved_{{i}}": weight for i, weight in enumerate(result.pop("weights"))}}
np.savez({path!r}, **result, **moved)
print(keras.backend.backend())
"""

# What does not depend on the options: behind it, for one of them.
ONCE = """
import jax
from kerasllm.backend import flash
from kerasllm.layers import masks
from kerasllm.losses.likelihood import OutputLayer, chunked_log_probabilities, log_probabilities
hidden, kernel, bias, upstream = (np.random.default_rng(1).normal(size=n) for n in ((2, 5, 8), (9, 8), 9, (2, 2, 5)))
labels = np.arange(10).reshape(2, 5) % 9

def weighted(in_chunks, hidden, kernel, bias):
    if in_chunks:
        values = chunked_log_probabilities(labels, hidden, OutputLayer(kernel, bias, 2.0), 4, with_mean=True)
    else:
        values = log_probabilities(labels, 2 * jax.numpy.tanh((hidden @ kernel.T + bias) / 2), with_mean=True)
    return (values * upstream).sum()

tensors = [jax.numpy.array(x, "float32") for x in (hidden, kernel, bias)]
whole, chunks = (jax.jit(jax.grad(weighted, (1, 2, 3)), static_argnums=0)(c, *tensors) for c in (False, True))
for found, expected in zip(chunks, whole, strict=True):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

# The kernel for TPUs, interpreted, beside what runs where there is none.
draw, documents = np.random.default_rng(2), jax.numpy.array([[1] * 60 + [2] * 40 + [0] * 28])
query, key, value, upstream = (jax.numpy.array(draw.normal(size=(1, n, 128, 128)), "float32") for n in (2, 1, 1, 2))
sight = masks.Sight(True, 40, documents, documents)
assert flash.flash_attention(query, key, value, *sight, 2.0) is None
options = sight, 2.0, keras.layers.Dropout(0.0), False
ways = lambda *x: flash._on_tpu(*x, *sight[:3], 2.0, interpret=True), lambda *x: tiles.attend_in_tiles(*x, *options)
(found, found_by), (expected, expected_by) = (jax.vjp(way, 0.1 * query, key, value) for way in ways)
for one, other in zip((found, *found_by(upstream)), (expected, *expected_by(upstream)), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)

class Adapter(keras.layers.Layer):
    def build(self, inputs_shape, product_shape):
        self.scale = self.add_weight((1,), "ones", name="scale")

    def call(self, inputs, product, kernel):
        return product * self.scale

model = CausalLM(TransformerConfig.from_dict(json.loads({config!r})))
with taps.recording("logits") as passed, taps.changing({{"block_0/attention/output": lambda x: 0 * x}}):
    text = generate_ids(model, [3, 4, 5], max_new_tokens=4)
    model.predict(ids[:2], verbose=0)
(steps,) = passed.values()
assert [int(step[0, -1].argmax()) for step in steps[:4]] == text and len(steps) == 5
for weight in model.transformer.blocks[0].attention.output_projection.weights:
    weight.assign(0 * weight)
np.testing.assert_allclose(steps[-1], model(ids[:2]), rtol=1e-4, atol=1e-5)
for layer in model._flatten_layers(include_self=False):
    layer.trainable = False
layer = model.transformer.blocks[0].attention.query_key_value
expected = model(ids)
layer.set_adapter(Adapter())
np.testing.assert_array_equal(model(ids), expected)

def summed(values):
    with keras.StatelessScope(zip(model.trainable_variables, values, strict=True)):
        return model(ids, training=True).sum()

def multiplies_to_a_kernel():
    traced = jax.make_jaxpr(jax.grad(summed))([v.value for v in model.trainable_variables])
    shapes = re.findall(r"f32\\[(\\d+),(\\d+)\\] = dot_general", str(traced))
    return sorted(map(str, layer.kernel.shape)) in map(sorted, shapes)

assert len(model.trainable_variables) == 1 and not multiplies_to_a_kernel()
layer.trainable = True
assert multiplies_to_a_kernel()

if "dynamic" not in {config!r}:
    layer.set_adapter(None)
    before = np.array(model(ids))
    adapters.add(model, 2, kind="dora", dropout=0.5)
    np.testing.assert_array_equal(model(ids), before)
    model.compile(keras.optimizers.SGD(3.0), TokenCrossentropy(chunk_size=7), micro_batches=3)
    model.train_on_batch(ids[:, :-1], ids[:, 1:])
    model.train_on_batch(ids[:, :-1], ids[:, 1:])
    tuned = np.array(model(ids))
    assert abs(tuned - before).max() > 1e-3
    with adapters.disabled(model):
        np.testing.assert_array_equal(model(ids), before)
        np.testing.assert_allclose(model.predict(ids, verbose=0), before, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.predict(ids, verbose=0), tuned, rtol=1e-4, atol=1e-5)
    adapters.merge(model)
    np.testing.assert_allclose(model(ids), tuned, rtol=1e-4, atol=1e-5)

before = model.get_weights()
try:
    model.predict(ids + 30, verbose=0)
except ValueError as error:
    print(error)
for found, expected in zip(model.get_weights(), before, strict=True):
    np.testing.assert_array_equal(found, expected)
"""


GEMMA = {
    "attention_window": [3, None],
    "partial_rotary_factor": 0.5,
    "rope_scaling": [
        {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 5},
        {
            "rope_type": "longrope",
            "factor": 2.0,
            "original_max_position_embeddings": 7,
            "short_factor": [1.0, 1.1],
            "long_factor": [2.0, 3.0],
        },
    ],
    "norm_scale": False,
    "attention_soft_cap": 2.0,
    "norm_placement": "sandwich",
}
RECOMPUTED = {
    "num_layers": 1,
    "positions": "learned",
    "num_kv_heads": 2,
    "attention_window": 4,
    "gated": True,
    "norm": "rms",
    "remat": "block",
}


@pytest.mark.soak
@pytest.mark.parametrize("options", [GEMMA, RECOMPUTED])
def test_without_tensorflow_come_the_same_numbers(options, run_python, tmp_path, monkeypatch, other_backend):
    config = {"vocab_size": 30, "num_layers": 2, "d_model": 32, "num_heads": 4, "dff": 64, "max_length": 32, **options}
    generator = np.random.default_rng(0)
    weights = [
        weight + 0.2 * generator.standard_normal(weight.shape)
        for weight in CausalLM(TransformerConfig.from_dict(config)).get_weights()
    ]
    ids = generator.integers(1, 30, (3, 13))
    documents = np.repeat([[1] * 5 + [2] * 5 + [0] * 3], 3, axis=0)
    for name in ("LONG", "OF_ONE", "FEWEST_QUERIES"):  # which are changed, and restored by this
        monkeypatch.setattr(tiles, name, getattr(tiles, name))
    expected = logits_text_and_training(config, weights, ids, documents)

    path = str(tmp_path / "numbers.npz")
    arrays = {f"weight_{i}": weight for i, weight in enumerate(weights)}
    np.savez(path, count=len(weights), ids=ids, documents=documents, **arrays)
    with_once = options is RECOMPUTED and other_backend == "jax"
    function = inspect.getsource(logits_text_and_training)
    code = (SECOND_PROCESS + (ONCE if with_once else "")).format(
        function=function, path=path, config=json.dumps(config)
    )
    printed = run_python(code, backend=other_backend, hide=["tensorflow"])
    assert other_backend in printed
    if with_once:  # `predict` leaves the model its weights
        assert "outside the model's vocabulary" in printed

    with np.load(path) as result:
        real = documents[:, :-1] != 0
        assert np.allclose(result["logits"][real], expected["logits"][real], atol=2e-5)
        assert result["texts"].tolist() == expected["texts"].tolist()
        assert np.allclose(result["losses"], expected["losses"], atol=1e-5)
        for i, weight in enumerate(expected["weights"]):
            assert np.allclose(result[f"moved_{i}"], weight, atol=5e-5)
