"""What layers do in fewer ops when they train, beside what Keras' own layers do: the same values and gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasllm import backend
from kerasllm.layers import FeedForward
from kerasllm.layers.dense import Dense
from kerasllm.layers.normalization import LayerNormalization, RMSNormalization

LAYERS = {
    "dense": lambda dtype: Dense(12, dtype=dtype),
    "dense without bias": lambda dtype: Dense(12, use_bias=False, dtype=dtype),
    "layer norm": lambda dtype: LayerNormalization(epsilon=1e-5, dtype=dtype),
    "layer norm without offset": lambda dtype: LayerNormalization(center=False, dtype=dtype),
    "rms norm": lambda dtype: RMSNormalization(epsilon=1e-6, dtype=dtype),
    "gelu": lambda dtype: FeedForward(16, 32, dtype=dtype),
    "gelu by tanh": lambda dtype: FeedForward(16, 32, activation="gelu_tanh", dtype=dtype),
    "squared relu": lambda dtype: FeedForward(16, 32, activation="relu_squared", use_bias=False, dtype=dtype),
    "swiglu": lambda dtype: FeedForward(16, 32, activation="silu", gated=True, dtype=dtype),
}


def result_and_gradients(layer, x, training, known_shape=True):
    @tf.function(input_signature=[tf.TensorSpec(x.shape if known_shape else (None, None, x.shape[-1]))])
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
            loss = tf.reduce_sum(tf.tanh(tf.cast(y, "float32") / 9))
        return y, tape.gradient(loss, [x, *(weight.value for weight in layer.trainable_variables)])

    y, gradients = run(x)
    return [np.array(tf.cast(part, "float32")) for part in (y, *gradients)]


def made(kind, dtype="float32"):
    layer, draw = LAYERS[kind](dtype), np.random.default_rng(0)
    x = (3 * draw.normal(size=(3, 50, 16)) + 1).astype("float32")
    layer(x)
    layer.set_weights([draw.normal(scale=0.5, size=weight.shape) for weight in layer.get_weights()])
    return layer, x


def distances(found, expected):
    return [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(found, expected, strict=True)]


@pytest.mark.parametrize("kind", LAYERS)
def test_training_computes_the_same(kind):
    layer, x = made(kind)
    plain = result_and_gradients(layer, x, training=False)
    assert max(distances(result_and_gradients(layer, x, training=True), plain)) < 1e-5
    assert max(distances(result_and_gradients(layer, x, training=True, known_shape=False), plain)) < 1e-5


@pytest.mark.parametrize("kind", LAYERS)
def test_bfloat16_is_rounded_no_worse_than_by_keras(kind):
    exact, x = made(kind)
    rounded, _ = made(kind, "mixed_bfloat16")
    expected = result_and_gradients(exact, x, training=False)
    ours = distances(result_and_gradients(rounded, x, training=True), expected)
    keras_own = distances(result_and_gradients(rounded, x, training=False), expected)
    assert np.all(np.array(ours) <= np.array(keras_own) * 1.2 + 1e-3)


@pytest.mark.parametrize("width", [16, 15])
def test_a_token_by_itself_gets_what_it_gets_among_others(width):
    layer, x = Dense(12), np.random.default_rng(0).normal(size=(1, 4, width)).astype("float32")
    layer(x)
    layer.bias.assign(np.arange(12.0))
    alone = tf.function(layer, jit_compile=True)(tf.constant(x[:, 2:3]))
    assert max(distances([alone], [layer(x)[:, 2:3]])) < 1e-6


def test_a_function_is_compiled_once_for_all_layers_of_a_shape():
    traces = []

    def double(x):
        traces.append(x.shape)
        return 2 * x

    for _ in range(3):
        assert np.allclose(backend.fused(double, tf.ones((2, 3))), 2)
    assert len(traces) == 1


def test_what_is_exported_holds_nothing_that_only_xla_can_run(tmp_path):
    model = keras.Sequential([keras.Input((8, 16), batch_size=2), FeedForward(16, 32), LayerNormalization()])
    model.export(tmp_path / "model", verbose=False)
    functions = tf.saved_model.load(tmp_path / "model").signatures["serving_default"].graph.as_graph_def().library
    assert not any("_XlaMustCompile" in function.attr for function in functions.function)
