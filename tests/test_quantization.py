"""Kernels in 4 and 8 bits: what they are, and what a model with them does."""

import dataclasses
import json
import re
import shutil
import time

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from safetensors.numpy import load_file, save_file

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
        *[(kind, (7 * 192, 3), 2**21) for kind in ("int4", "int8")],  # a row in chains and in several groups
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
        np.testing.assert_allclose(backend.compile_function(kernel.matmul, kernel.weights)(x), product, atol=1e-4)


def test_codes_are_those_of_the_paper():
    codes, absmax = quantize_4bit(np.float32([[-2, 2, 0, 0.1]]), LEVELS["nf4"])
    assert codes.tolist() == [0x0F, 0x78] and absmax.tolist() == [2]
    assert quantize_4bit(np.zeros((3, 1), "float32"), LEVELS["nf4"])[0].tolist() == [0x77, 0x77]


@pytest.mark.soak
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
    grown = kerasllm.models.with_new_tokens(model, [40])
    np.testing.assert_array_equal(grown(IDS)[..., :40], model(IDS))


@pytest.mark.soak
def test_a_table_that_is_embedding_and_output_is_quantized_too(tmp_path):
    tied = dataclasses.replace(CONFIG, tie_embeddings=True)
    model, plain = float_model(tied), float_model(tied)
    kerasllm.save(plain, tokenizer(), tmp_path / "plain")
    quantize(model, "int4")
    table = model.token_embedding
    assert table.kernel_layer.kind == "int8" and not any(weight.name == "embeddings" for weight in model.weights)
    scales = np.abs(np.array(plain.token_embedding.embeddings)).max(1, keepdims=True) / 127
    assert (np.abs(table.embeddings - plain.token_embedding.embeddings) < 0.51 * scales).all()
    plain.token_embedding.embeddings.assign(table.embeddings)
    for layer, quantized in zip(dense_layers(plain), dense_layers(model), strict=True):
        layer.kernel.assign(quantized.kernel)
    np.testing.assert_allclose(model(IDS), plain(IDS), atol=1e-4)
    assert generate_ids(model, [3, 4, 5], 8) == generate_ids(plain, [3, 4, 5], 8)

    model.save(tmp_path / "model.keras")
    kerasllm.save(model, tokenizer(), tmp_path / "run")
    again = [keras.models.load_model(tmp_path / "model.keras"), kerasllm.load(tmp_path / "run")[0]]
    for loaded in (*again, kerasllm.load(tmp_path / "plain", quantize="int4")[0]):
        np.testing.assert_array_equal(loaded(IDS), model(IDS))
    kerasllm.huggingface.save(model, tokenizer(), tmp_path / "hf")
    np.testing.assert_allclose(kerasllm.load(tmp_path / "hf")[0](IDS), plain(IDS), atol=1e-4)
    grown = kerasllm.models.with_new_tokens(model, [40])
    np.testing.assert_allclose(grown(IDS)[..., :40], model(IDS), atol=1e-5)
    model.compile(loss=kerasllm.losses.TokenCrossentropy(chunk_size=5))
    expected = plain.compile() or plain.evaluate(IDS[:, :-1], IDS[:, 1:], verbose=0, return_dict=True)["loss"]
    found = model.evaluate(IDS[:, :-1], IDS[:, 1:], verbose=0, return_dict=True)["loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_saved_models_hold_codes_and_adapters(kind, tmp_path):
    model = float_model()
    quantize(model, kind)
    kerasllm.adapters.add(model, 2)
    for weight in model.trainable_weights:
        weight.assign(np.random.default_rng(0).normal(scale=0.3, size=weight.shape))
    kerasllm.export.saved_model(model, tokenizer(), tmp_path / "saved")
    signatures = tf.saved_model.load(str(tmp_path / "saved")).signatures
    np.testing.assert_allclose(signatures["forward"](token_ids=tf.constant(IDS))["logits"], model(IDS), atol=1e-4)
    (made,) = signatures["serving_default"](text=tf.constant(["abc"]))["text"].numpy()
    assert made.decode() == kerasllm.generate(model, tokenizer(), "abc")
    size = sum(path.stat().st_size for path in (tmp_path / "saved" / "variables").iterdir())
    assert size < 0.5 * 4 * float_model().count_params()


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


LAYER = re.compile(r"model\.layers\.\d+\..*_proj\.weight")


@pytest.fixture(scope="module")
def huggingface_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "hf"
    kerasllm.huggingface.save(float_model(), tokenizer(), folder)
    return folder


def packed_folder(folder, to, pack, config):
    """A copy in which the weights of linear layers are packed; gives the same copy with what they stand for."""
    tensors, plain = load_file(folder / "model.safetensors"), {}
    for name in [name for name in tensors if LAYER.fullmatch(name)]:
        parts, plain[name] = pack(tensors.pop(name))
        tensors |= {name.removesuffix("weight") + part: np.ascontiguousarray(array) for part, array in parts.items()}
    for copy, changed in ((to, tensors), (to.with_name("plain"), load_file(folder / "model.safetensors") | plain)):
        shutil.copytree(folder, copy)
        save_file(changed, copy / "model.safetensors", {"format": "pt"})
    settings = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**settings, "quantization_config": config}))
    return to.with_name("plain")


def gptq(weight, bits=4, group=32):
    """Written anew from the format's description, number by number in Python's own integers."""
    draw, (U, D) = np.random.default_rng(0), weight.shape
    codes, zeros = draw.integers(0, 2**bits, (D, U)), draw.integers(1, 2**bits, (D // group, U))
    scales, groups = draw.random((D // group, U)).astype("float16") / 8, draw.permutation(D) // group
    each = 32 // bits
    qweight = np.zeros((D // each, U), "uint32")
    qzeros = np.zeros((D // group, U // each), "uint32")
    for i in range(each):
        qweight |= (codes[i::each] << bits * i).astype("uint32")
        qzeros |= (zeros[:, i::each] - 1 << bits * i).astype("uint32")
    parts = {"qweight": qweight.view("int32"), "qzeros": qzeros.view("int32"), "scales": scales}
    values = (codes - zeros[groups]) * scales.astype("float32")[groups]
    return {**parts, "g_idx": groups.astype("int32")}, np.ascontiguousarray(values.T.astype("float32"))


def awq(weight, group=32):
    draw, (U, D) = np.random.default_rng(0), weight.shape
    codes, zeros = draw.integers(0, 16, (D, U)), draw.integers(0, 16, (D // group, U))
    scales = draw.random((D // group, U)).astype("float16") / 8

    def packed(numbers):
        order = (0, 2, 4, 6, 1, 3, 5, 7)
        return sum(numbers[:, order[i] :: 8].astype("uint32") << np.uint32(4 * i) for i in range(8)).view("int32")

    parts = {"qweight": packed(codes), "qzeros": packed(zeros), "scales": scales}
    values = (codes - zeros.repeat(group, 0)) * scales.astype("float32").repeat(group, 0)
    return parts, np.ascontiguousarray(values.T.astype("float32"))


def fp8(weight, name, shape, spread):
    scale = np.random.default_rng(0).random(shape).astype("float32") / 8
    codes = np.clip(weight * 8, -448, 448).astype(ml_dtypes.float8_e4m3fn)
    return {"weight": codes, name: scale}, codes.astype("float32") * spread(scale, weight)


PACKED = {
    "gptq": (gptq, {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True}),
    "gptq in 8 bits": (lambda w: gptq(w, 8), {"quant_method": "gptq", "bits": 8, "group_size": 32}),
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}),
    "fp8, one scale": (
        lambda w: fp8(w, "weight_scale", (), lambda scale, _: scale),
        {"quant_method": "compressed-tensors", "format": "float-quantized"},
    ),
    "fp8, a scale for each output": (
        lambda w: fp8(w, "weight_scale", (len(w), 1), lambda scale, _: scale),
        {"quant_method": "fbgemm_fp8"},
    ),
    "fp8 in blocks": (
        lambda w: fp8(
            w,
            "weight_scale_inv",
            (-(-w.shape[0] // 48), -(-w.shape[1] // 40)),
            lambda s, w: s.repeat(48, 0)[: w.shape[0]].repeat(40, 1)[:, : w.shape[1]],
        ),
        {"quant_method": "fp8", "weight_block_size": [48, 40]},
    ),
}


@pytest.mark.parametrize("pack, config", PACKED.values(), ids=PACKED)
def test_what_others_quantized_is_read(pack, config, huggingface_folder, tmp_path):
    plain = packed_folder(huggingface_folder, tmp_path / "packed", pack, config)
    expected = weight_names(kerasllm.load(plain)[0])
    for name, weight in weight_names(kerasllm.load(tmp_path / "packed")[0]).items():
        np.testing.assert_allclose(weight, expected[name], rtol=1e-6)


def test_what_others_quantized_and_cannot_be_read_is_named(huggingface_folder, tmp_path):
    packed_folder(huggingface_folder, tmp_path / "packed", gptq, PACKED["gptq"][1])
    path = tmp_path / "packed" / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("q_proj.scales"))
    save_file({other: array for other, array in tensors.items() if other != name}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=f"lacks the tensor {name!r}"):
        kerasllm.load(tmp_path / "packed")
    config = json.loads((tmp_path / "packed" / "config.json").read_text())
    for method, words in ({"quant_method": "hqq"}, "hqq"), ({"quant_method": "gptq", "bits": 3}, "gptq with bits=3"):
        (tmp_path / "packed" / "config.json").write_text(json.dumps({**config, "quantization_config": method}))
        with pytest.raises(ValueError, match=f"describes weights quantized by {words}; kerasllm reads those of bits"):
            kerasllm.load(tmp_path / "packed")


@pytest.mark.soak
@pytest.mark.optimised
def test_another_seed_compiles_nothing_new():
    """XLA compiles anew, unseen by TensorFlow, for each value of what it has to know; so time tells."""
    config = TransformerConfig(40, num_layers=2, d_model=32, num_heads=2, dff=64, max_length=64)
    model = CausalLM(config)
    quantize(model, "nf4")
    seconds = []
    for seed in (1, 2, 3):
        begin = time.perf_counter()
        generate_ids(model, [[1, 2, 3]], 4, sampler="random", seed=seed)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds[1:]) < seconds[0] / 5
