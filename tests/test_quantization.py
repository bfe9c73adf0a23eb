"""Kernels in 4 and 8 bits: what they are, and what a model with them does."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import kerasllm
from kerasllm import backend
from kerasllm.generation import generate_ids
from kerasllm.layers.dense import Dense
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.models.weights import weight_names
from kerasllm.quantization import kernels, quantize
from kerasllm.quantization.blocks import LEVELS, quantize_4bit
from kerasllm.quantization.quantizing import KINDS

CONFIG = TransformerConfig.preset(
    "llama", vocab_size=40, num_layers=1, d_model=64, num_heads=4, num_kv_heads=2, dff=96, max_length=64
)
IDS = np.random.default_rng(0).integers(3, 29, (3, 12)).astype("int32")


def float_model(config=CONFIG, **options):
    model, draw = CausalLM(config, **options), np.random.default_rng(1)
    model.set_weights([draw.normal(scale=0.2, size=weight.shape) for weight in model.weights])
    return model


def dense_layers(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, Dense)]


def dequantized(model):
    """The same model with kernels in float, which have the values of the quantized ones."""
    plain = float_model(model.config)
    for layer, quantized in zip(dense_layers(plain), dense_layers(model), strict=True):
        layer.kernel.assign(quantized.kernel)
    return plain


def tokenizer():
    return kerasllm.tokenizers.Tokenizer.train(["abcdefghijklmnopqrstuvwxyz"], kind="char", progress=False)


def expected_levels(rows, levels, block=64):
    """Independent of the package: each number's nearest level, block by block, of float (U, D)."""
    flat = rows.reshape(-1).astype("float64")
    blocks = [flat[i : i + block] for i in range(0, flat.size, block)]
    nearest = [levels[np.abs(b[:, None] / np.abs(b).max() - levels).argmin(1)] * np.abs(b).max() for b in blocks]
    return np.concatenate(nearest).reshape(rows.shape)


@pytest.mark.parametrize(
    "kind, shape, at_once",
    [
        *[(kind, (64, 30), 320) for kind in KINDS],
        *[(kind, shape, 320) for kind in ("nf4-dq", "int8") for shape in ((20, 48), (7, 9))],
    ],
)
def test_a_kernel_multiplies_with_the_nearest_levels(kind, shape, at_once, monkeypatch):
    monkeypatch.setattr(kernels, "_VALUES_AT_ONCE", at_once)  # in groups of 5 and 16 outputs, and all
    draw = np.random.default_rng(0)
    values, kernel = draw.normal(size=shape).astype("float32"), KINDS[kind](kind)
    kernel.build(shape)
    kernel.assign(values)
    found = np.array(kernel.kernel)
    if kind == "int8":
        scale = np.abs(values).max(0) / 127
        np.testing.assert_allclose(found, np.round(values / scale) * scale, atol=1e-6)
    else:
        expected = expected_levels(values.T, LEVELS[kind.removesuffix("-dq")]).T
        np.testing.assert_allclose(found, expected, atol=0.04 if kind.endswith("-dq") else 1e-6)
    for rows in (1, 4):
        x = tf.constant(draw.normal(size=(rows, shape[0])), "float32")
        upstream = draw.normal(size=(rows, shape[1])).astype("float32")
        with tf.GradientTape() as tape:
            tape.watch(x)
            product = kernel.matmul(x)
            loss = ops.sum(product * upstream)
        np.testing.assert_allclose(product, x @ found, atol=1e-4)
        np.testing.assert_allclose(tape.gradient(loss, x), upstream @ found.T, atol=1e-4)
        if rows > 1:
            with backend.plain_graph():
                np.testing.assert_allclose(kernel.matmul(x), product, atol=1e-4)


def test_codes_are_those_of_the_paper():
    codes, absmax = quantize_4bit(np.float32([[-2, 2, 0, 0.1]]), LEVELS["nf4"])
    assert codes.tolist() == [0x0F, 0x78] and absmax.tolist() == [2]
    assert quantize_4bit(np.zeros((3, 1), "float32"), LEVELS["nf4"])[0].tolist() == [0x77, 0x77]


def test_a_quantized_model_is_saved_loaded_and_exported(tmp_path):
    model = float_model()
    quantize(model, "nf4-dq")
    assert len([layer for layer in dense_layers(model) if layer.kernel_layer is not None]) == 4
    assert not any(weight.name == "kernel" for weight in model.weights)
    plain = dequantized(model)
    np.testing.assert_allclose(model(IDS), plain(IDS), atol=1e-4)
    assert generate_ids(model, [3, 4, 5], 8) == generate_ids(plain, [3, 4, 5], 8)

    model.save(tmp_path / "model.keras")
    kerasllm.save(model, tokenizer(), tmp_path / "run")
    for again in (keras.models.load_model(tmp_path / "model.keras"), kerasllm.load(tmp_path / "run")[0]):
        np.testing.assert_array_equal(again(IDS), model(IDS))
        assert weight_names(again).keys() == weight_names(model).keys()
    kerasllm.huggingface.save(model, tokenizer(), tmp_path / "hf")
    np.testing.assert_allclose(kerasllm.load(tmp_path / "hf")[0](IDS), plain(IDS), atol=1e-5)
    model.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(exported.serve(tf.constant(IDS)), model(IDS), atol=1e-4)
    assert b"_XlaMustCompile" not in (tmp_path / "exported" / "saved_model.pb").read_bytes()
    grown = kerasllm.models.with_new_tokens(model, [40])
    np.testing.assert_array_equal(grown(IDS)[..., :40], model(IDS))


def test_adapters_over_a_quantized_model_are_trained(tmp_path):
    model = float_model(dtype="mixed_bfloat16")
    quantize(model)
    kernels_before = [np.array(layer.kernel) for layer in dense_layers(model)]
    kerasllm.adapters.add(model, rank=4)
    model.compile(kerasllm.optimizers.AdamW(0.01))
    losses = model.fit(IDS[:, :-1], IDS[:, 1:], epochs=8, verbose=0).history["loss"]
    assert losses[-1] < 0.9 * losses[0]
    for layer, before in zip(dense_layers(model), kernels_before, strict=True):
        np.testing.assert_array_equal(layer.kernel, before)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(ops.cast(again(IDS), "float32"), ops.cast(model(IDS), "float32"))
    assert len(again.trainable_weights) == len(model.trainable_weights) == 2 * 7
    with pytest.raises(ValueError, match="is in another form, into which the adapter 'default' cannot go without loss"):
        kerasllm.adapters.merge(model)


def test_what_cannot_be_quantized_is_refused(tmp_path):
    model = float_model()
    with pytest.raises(ValueError, match=r"quantized by is 'nf4', .* or 'int8', got 'nf3'"):
        quantize(model, "nf3")
    with pytest.raises(ValueError, match="has no attention or feed-forward layers of kerasllm's"):
        quantize(keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)]))
    quantize(model, "int4")
    with pytest.raises(ValueError, match="block_0/attention/query_key_value is quantized by 'int4' already"):
        quantize(model, "nf4")
    mixed = float_model()
    mixed.transformer.blocks[0].attention.query_key_value.enable_lora(2)
    with pytest.raises(ValueError, match="block_0/attention/query_key_value has LoRA by `enable_lora`"):
        quantize(mixed)
    assert all(layer.kernel_layer is None for layer in dense_layers(mixed))


def test_a_model_is_quantized_while_it_is_loaded(tmp_path, monkeypatch):
    model = float_model()
    kerasllm.save(model, tokenizer(), tmp_path / "run")
    kerasllm.huggingface.save(model, tokenizer(), tmp_path / "hf")
    quantize(model, "nf4")
    monkeypatch.delattr(keras.layers.Dense, "build")  # which makes kernels in float
    for folder in ("run", "hf"):
        again, _ = kerasllm.load(tmp_path / folder, quantize="nf4")
        weights = weight_names(model)
        assert weight_names(again).keys() == weights.keys()
        for name, weight in weight_names(again).items():
            np.testing.assert_array_equal(weight, weights[name])
    kerasllm.save(again, tokenizer(), tmp_path / "quantized")
    with pytest.raises(ValueError, match="holds a model that is quantized already: load it without quantize='int8'"):
        kerasllm.load(tmp_path / "quantized", quantize="int8")
    with pytest.raises(ValueError, match="or 'int8', got '4bit'"):
        kerasllm.load(tmp_path / "hf", quantize="4bit")
