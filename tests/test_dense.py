"""What can be put into dense layers: adapters, and kernels in another form."""

import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import kerasllm
from kerasllm.generation import generate_ids
from kerasllm.layers.dense import Dense
from kerasllm.models import CausalLM, TransformerConfig

CONFIG = TransformerConfig(40, num_layers=1, d_model=16, num_heads=2, dff=24, max_length=32)
IDS = np.random.default_rng(0).integers(3, 29, (3, 12)).astype("int32")
PROMPT = [[3, 4, 5], [6] * 9]


@keras.saving.register_keras_serializable("tests")
class LowRank(keras.layers.Layer):
    """LoRA (https://arxiv.org/abs/2106.09685), as short as it can be."""

    def __init__(self, rank, **options):
        super().__init__(**options)
        self.rank = rank

    def build(self, inputs_shape, product_shape):
        self.down = self.add_weight((inputs_shape[-1], self.rank), "he_uniform", name="lora_down")
        self.up = self.add_weight((self.rank, product_shape[-1]), "zeros", name="lora_up")

    def call(self, inputs, product, kernel):
        return product + ops.matmul(ops.matmul(inputs, self.down), self.up)

    def get_config(self):
        return {**super().get_config(), "rank": self.rank}


class Decomposed(LowRank):
    """DoRA (https://arxiv.org/abs/2402.09353): the columns of the sum have lengths of their own."""

    def build(self, inputs_shape, product_shape):
        super().build(inputs_shape, product_shape)
        self.length = self.add_weight(product_shape[-1:], "ones", name="length")

    def call(self, inputs, product, kernel):
        whole = kernel() + ops.matmul(self.down, self.up)
        return super().call(inputs, product, kernel) * self.length / ops.norm(whole, axis=0)


@keras.saving.register_keras_serializable("tests")
class Int8Kernel(keras.layers.Layer):
    """Whole numbers from -127 to 127, with a scale for each column."""

    def build(self, shape):
        self.whole = self.add_weight(shape, "zeros", "int8", trainable=False, name="whole")
        self.scale = self.add_weight(shape[-1:], "ones", trainable=False, name="scale")

    def assign(self, kernel):
        kernel = ops.convert_to_tensor(kernel)
        self.scale.assign(ops.maximum(ops.max(ops.abs(kernel), axis=0), 1e-9) / 127)
        self.whole.assign(ops.cast(ops.round(kernel / self.scale), "int8"))

    def matmul(self, inputs):
        return ops.matmul(inputs, ops.cast(self.whole, inputs.dtype)) * ops.cast(self.scale, inputs.dtype)

    @property
    def kernel(self):
        return ops.cast(self.whole, self.scale.dtype) * self.scale


def base_model(**options):
    model, draw = CausalLM(CONFIG, **options), np.random.default_rng(1)
    model.set_weights([draw.normal(scale=0.4, size=weight.shape) for weight in model.weights])
    for layer in model._flatten_layers(include_self=False):
        layer.trainable = False
    return model


def dense_layers(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, Dense)]


def adapted(model):
    for layer in dense_layers(model):
        if layer.name == "query_key_value":
            layer.set_adapter(LowRank(2, name="lora", dtype="float32"))
    return model


def products(model):
    """The shapes of all matrices that a training step multiplies to."""

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, y, model(x, training=True), None)
        return tape.gradient(loss, [weight.value for weight in model.trainable_weights])

    graph = tf.function(step, autograph=False).get_concrete_function(IDS[:, :-1], IDS[:, 1:]).graph
    return {tuple(op.outputs[0].shape)[-2:] for op in graph.get_operations() if "MatMul" in op.type}


def trained(model):
    return [weight.path.partition("/")[2] for weight in model.trainable_weights]


@pytest.mark.soak
def test_an_adapter_alone_is_trained_and_kept(tmp_path):
    base, model = base_model(), adapted(base_model())
    names = [f"transformer/block_0/attention/query_key_value/lora/lora_{side}" for side in ("down", "up")]
    assert trained(model) == names
    np.testing.assert_array_equal(model(IDS), base(IDS))
    np.testing.assert_array_equal(model(IDS, training=True), base(IDS, training=True))
    before = {weight.path: np.array(weight) for weight in model.weights}

    model.compile(kerasllm.optimizers.AdamW(0.03))
    kernels = {tuple(layer.kernel.shape) for layer in dense_layers(model)}
    assert not products(model) & kernels
    base.transformer.trainable = True
    base.compile()
    assert kernels <= products(base)
    losses = model.fit(IDS[:, :-1], IDS[:, 1:], epochs=15, verbose=0).history["loss"]
    assert losses[-1] < 0.97 * losses[0]
    changed = [weight.path for weight in model.weights if not np.array_equal(weight, before[weight.path])]
    assert [path.partition("/")[2] for path in changed] == names

    assert generate_ids(model, PROMPT, 8) == generate_ids(model, PROMPT, 8, cached=False)
    model.save(tmp_path / "model.keras")
    tokenizer = kerasllm.tokenizers.Tokenizer.train(["abcdefghijklmnopqrstuvwxyz"], kind="char", progress=False)
    kerasllm.save(model, tokenizer, tmp_path / "run")
    for again in (keras.models.load_model(tmp_path / "model.keras"), kerasllm.load(tmp_path / "run")[0]):
        np.testing.assert_array_equal(again(IDS), model(IDS))
        assert [weight.path.partition("/")[2] for weight in again.weights] == [
            weight.path.partition("/")[2] for weight in model.weights
        ]
    assert trained(keras.models.load_model(tmp_path / "model.keras")) == names
    with pytest.raises(ValueError, match="block_0/attention/query_key_value has an adapter, for which there is no"):
        kerasllm.huggingface.save(model, tokenizer, tmp_path / "hf")

    for layer in dense_layers(model):
        layer.set_adapter(None)
    np.testing.assert_array_equal(model(IDS), base_model()(IDS))
    assert len(model.weights) == len(base.weights)


def test_a_kernel_in_another_form_makes_every_product(tmp_path):
    base, model = base_model(), base_model()
    kernels = {tuple(layer.kernel.shape) for layer in dense_layers(model)}
    values = [weakref.ref(layer.kernel.value) for layer in dense_layers(model)]
    for layer, plain in zip(dense_layers(model), dense_layers(base), strict=True):
        layer.replace_kernel(Int8Kernel(name="int8"))
        plain.kernel.assign(layer.kernel)
    adapted(model)
    assert not any(weight.name == "kernel" for weight in model.weights)
    assert all(value() is None for value in values)  # Their memory is free.
    for training in (False, True):
        np.testing.assert_allclose(model(IDS, training=training), base(IDS, training=training), atol=1e-5)
    assert generate_ids(model, PROMPT, 8) == generate_ids(base, PROMPT, 8)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(IDS), model(IDS))
    assert trained(again) == trained(model)
    model.compile()
    assert not products(model) & kernels


def test_an_adapter_may_compute_in_float32_over_a_model_in_bfloat16():
    layer, x = Dense(3, dtype="mixed_bfloat16"), ops.ones((2, 4))
    expected = layer(x)
    layer.set_adapter(LowRank(2, dtype="float32"))
    assert layer(x).dtype == layer(x, training=True).dtype == "bfloat16"
    np.testing.assert_array_equal(ops.cast(layer(x), "float32"), ops.cast(expected, "float32"))


def test_an_adapter_may_need_the_kernel_too():
    layer, draw = Dense(3), np.random.default_rng(0)
    x = draw.normal(size=(5, 4)).astype("float32")
    layer(x)
    layer.set_adapter(Decomposed(2))
    kernel, bias, down, up, length = weights = [draw.normal(size=weight.shape) for weight in layer.weights]
    layer.set_weights(weights)
    whole = kernel + down @ up
    expected = x @ (whole / np.linalg.norm(whole, axis=0) * length) + bias
    for training in (False, True):
        np.testing.assert_allclose(layer(x, training=training), expected, atol=1e-5)


def test_what_does_not_go_together_is_refused():
    layer = Dense(3, name="unready")
    with pytest.raises(ValueError, match="unready is not built yet, so it cannot be given an adapter"):
        layer.set_adapter(LowRank(2))
    layer.build((None, 4))
    layer.set_adapter(LowRank(2))
    with pytest.raises(ValueError, match="unready has an adapter or another form of its kernel, so it cannot be quant"):
        layer.quantize("int8")
    layer.set_adapter(None)
    layer.enable_lora(2)
    with pytest.raises(ValueError, match="unready has LoRA by `enable_lora`"):
        layer.replace_kernel(Int8Kernel())
    other = Dense(3)
    other.build((None, 4))
    other.replace_kernel(Int8Kernel())
    with pytest.raises(ValueError, match="is in another form: give it LoRA by `set_adapter`"):
        other.enable_lora(2)
    quantized = Dense(3)
    quantized.build((None, 4))
    quantized.quantize("int8")
    with pytest.raises(ValueError, match="is quantized by 'int8', so it cannot be given an adapter"):
        quantized.set_adapter(LowRank(2))
