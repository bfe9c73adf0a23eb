"""Adapters: what they compute, what they leave alone, and how they come and go. PEFT is beside them in parity/."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_dense import IDS, dense_layers, products, trained

import kerasllm
from kerasllm import adapters
from kerasllm.generation import generate_ids
from kerasllm.layers import LowRank
from kerasllm.layers.dense import Dense
from kerasllm.models import CausalLM, MaskedLM, TransformerConfig
from kerasllm.models.weights import weight_names

GPT2 = TransformerConfig(
    40,
    positions="learned",
    num_layers=2,
    d_model=16,
    num_heads=2,
    dff=24,
    max_length=32,
    activation="gelu_tanh",
    tie_embeddings=True,
)
LLAMA = dataclasses.replace(
    GPT2,
    **{"num_heads": 4, "num_kv_heads": 2, "positions": "rotary", "norm": "rms", "gated": True},
    **{"use_bias": False, "activation": "silu"},
)
ATTENTION = "transformer/block_0/attention"


def far(model, seed=1):
    """A model with weights far from their initial values, adapters' too."""
    draw = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        weight.assign(draw.normal(scale=0.4, size=weight.shape) + ("magnitude" in weight.path))
    return model


def learned(config=LLAMA, model=CausalLM, **options):
    model = far(model(config))
    adapters.add(model, 2, 6, **options)
    return far(model, 2)


@pytest.fixture(scope="module")
def tokenizer():
    return kerasllm.tokenizers.Tokenizer.train(["abcdefghijklmnopqrstuvwxyz"], kind="char", progress=False)


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_what_an_adapter_computes(kind):
    layer, draw = Dense(7), np.random.default_rng(0)
    x = draw.normal(size=(2, 5, 4)).astype("float32")
    layer(x)
    slices = [{"name": "a", "width": 2, "rank": 3, "alpha": 5}, {"name": "b", "width": 4}]
    member = LowRank([*slices, {"name": "c", "width": 1, "rank": 1, "alpha": 2}], kind, name="low_rank")
    layer.set_adapter(kerasllm.layers.NamedAdapters([member], "low_rank"))
    member.measure(layer.kernel)
    layer.bias.assign(draw.normal(size=7))
    np.testing.assert_allclose(layer(x), x @ np.array(layer.kernel) + layer.bias, rtol=1e-6, atol=1e-6)
    for weight in member.weights:
        weight.assign(draw.normal(size=weight.shape))
    kernel, (a, c), (a_up, c_up) = (
        np.array(layer.kernel),
        *([np.array(w) for w in ws] for ws in (member.downs, member.ups)),
    )
    root = np.sqrt(3) if kind == "rslora" else 3
    kernel[:, :2] += 5 / root * a @ a_up
    kernel[:, 6:] += 2 * c @ c_up
    if kind == "dora":
        for part, length in ((slice(0, 2), member.magnitudes[0]), (slice(6, 7), member.magnitudes[1])):
            kernel[:, part] *= np.array(length) / np.linalg.norm(kernel[:, part], axis=0)
    for training in (False, True):
        np.testing.assert_allclose(layer(x, training=training), x @ kernel + layer.bias, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(member.merged(layer.kernel), kernel, rtol=1e-5, atol=1e-5)


def test_adapters_alone_are_trained_and_kept(tokenizer, tmp_path):
    model = far(MaskedLM(dataclasses.replace(GPT2, num_layers=1)))
    base, everything = np.array(model(IDS)), {weight.path: np.array(weight) for weight in model.weights}
    adapters.add(model, 2, kind="dora", dropout=0.25)
    assert all("/adapters/default/" in path for path in trained(model)) and len(trained(model)) == 6 * 3
    np.testing.assert_array_equal(model(IDS), base)
    model.compile()
    assert not products(model) & {tuple(layer.kernel.shape) for layer in dense_layers(model)}
    model.compile(kerasllm.optimizers.AdamW(0.03))
    losses = model.fit(IDS, IDS, epochs=12, verbose=0).history["loss"]
    assert losses[-1] < 0.97 * losses[0]
    for weight in model.weights:
        if weight.path in everything:
            np.testing.assert_array_equal(weight, everything[weight.path], err_msg=weight.path)

    tuned, loss = np.array(model(IDS)), model.evaluate(IDS, IDS, verbose=0)[0]
    with adapters.disabled(model):
        np.testing.assert_array_equal(model(IDS), base)
        assert model.evaluate(IDS, IDS, verbose=0)[0] > 1.02 * loss
    model.save(tmp_path / "model.keras")
    kerasllm.save(model, tokenizer, tmp_path / "run")
    for again in (keras.models.load_model(tmp_path / "model.keras"), kerasllm.load(tmp_path / "run")[0]):
        np.testing.assert_array_equal(again(IDS), tuned)
    assert trained(keras.models.load_model(tmp_path / "model.keras")) == trained(model)
    adapters.remove(model)
    np.testing.assert_array_equal(model(IDS), base)
    assert {weight.path for weight in model.weights} == everything.keys()
    assert len(trained(model)) == len(everything)


def test_adapters_are_float32_over_any_precision():
    layer, x = Dense(1, dtype="mixed_bfloat16", kernel_initializer="zeros"), np.ones((3, 2))
    layer(x)
    for kind in ("lora", "dora"):
        member = LowRank([{"name": "", "width": 1, "rank": 1, "alpha": 1}], kind, name=kind)
        layer.set_adapter(kerasllm.layers.NamedAdapters([member], kind))
        member.downs[0].assign([[1 + 2.0**-12], [-1]])  # whose sum would be 0 in bfloat16
        member.ups[0].assign([[3 * 2.0**12]])
        length = 1 if kind == "lora" else 1 / np.linalg.norm(np.array(member.downs[0]) * 3 * 2.0**12)
        np.testing.assert_allclose(keras.ops.cast(layer(x), "float32"), np.full((3, 1), 3 * length), rtol=5e-3)
        assert layer(x).dtype == "bfloat16" and {weight.dtype for weight in member.weights} == {"float32"}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.soak
def test_rows_of_some_tokens_are_trained_alone(tied, tokenizer, tmp_path):
    config = dataclasses.replace(LLAMA, num_layers=1, tie_embeddings=tied, logit_soft_cap=9.0)
    model, table = far(CausalLM(config)), "token_embedding/embeddings"
    base, before = np.array(model(IDS)), np.array(weight_names(model)[table])
    adapters.add(model, 2, train_tokens=[7, 39])
    np.testing.assert_array_equal(model(IDS), base)
    assert sum("token_embedding/adapters/default" in path for path in trained(model)) == (1 if tied else 2)
    model.compile(kerasllm.optimizers.AdamW(0.02), kerasllm.losses.TokenCrossentropy(chunk_size=8))
    losses = model.fit(IDS, IDS, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    tuned = np.array(model(IDS))
    np.testing.assert_array_equal(weight_names(model)[table], before)
    member = model.token_embedding.adapter.member("default")
    assert all(np.abs(np.array(member.rows) - before[[7, 39]]).max(axis=1) > 0.01)
    with adapters.disabled(model):
        np.testing.assert_array_equal(model(IDS), base)
    model.save(tmp_path / "model.keras")
    kerasllm.save(model, tokenizer, tmp_path / "run")
    for again in (keras.models.load_model(tmp_path / "model.keras"), kerasllm.load(tmp_path / "run")[0]):
        np.testing.assert_array_equal(again(IDS), tuned)
        assert trained(again) == trained(model)
    in_loss = model.evaluate(IDS, IDS, verbose=0)[0]
    adapters.merge(model)
    np.testing.assert_allclose(model(IDS), tuned, rtol=1e-4, atol=1e-4)
    model.compile(loss=kerasllm.losses.TokenCrossentropy())
    assert model.evaluate(IDS, IDS, verbose=0)[0] == pytest.approx(in_loss, rel=1e-5)
    for ids in ([-1], [40]):
        with pytest.raises(ValueError, match="Tokens to train have ids from 0 to 39"):
            adapters.add(model, 2, train_tokens=ids)


@pytest.mark.parametrize(("tied", "kind"), [pytest.param(True, "rslora", marks=pytest.mark.soak), (False, "dora")])
def test_embedding_and_output_layer_are_adapted(tied, kind, tokenizer, tmp_path):
    config = dataclasses.replace(LLAMA, num_layers=1, tie_embeddings=tied, logit_soft_cap=9.0)
    model = far(CausalLM(config))
    base = np.array(model(IDS))
    adapters.add(
        model, 2, 6, kind, layers=["token_embedding"] if tied else ["token_embedding", "output_layer"], dropout=0.3
    )
    np.testing.assert_array_equal(model(IDS), base)
    assert all("token_embedding/adapters/default/" in path for path in trained(model))
    assert len(trained(model)) == (2 if tied else 6)
    tuned = np.array(far(model, 2)(IDS))
    assert np.abs(tuned - base).max() > 0.1
    with adapters.disabled(model):
        np.testing.assert_array_equal(model(IDS), base)
    before, after = [np.array(weight) for weight in model.trainable_weights], []
    for chunk_size in (None, 8):  # whose gradients are made by hand
        model.compile(keras.optimizers.SGD(0.5), kerasllm.losses.TokenCrossentropy(chunk_size=chunk_size))
        model.fit(IDS, IDS, batch_size=len(IDS), verbose=0)
        after.append([np.array(weight) for weight in model.trainable_weights])
        for weight, value in zip(model.trainable_weights, before, strict=True):
            weight.assign(value)
    for start, whole, chunked in zip(before, *after, strict=True):
        np.testing.assert_allclose(chunked, whole, rtol=1e-4, atol=1e-5)
        assert np.abs(whole - start).max() > 1e-3
    model.save(tmp_path / "model.keras")
    kerasllm.save(model, tokenizer, tmp_path / "run")
    for again in (keras.models.load_model(tmp_path / "model.keras"), kerasllm.load(tmp_path / "run")[0]):
        np.testing.assert_array_equal(again(IDS), tuned)
        assert trained(again) == trained(model)
    adapters.merge(model)
    np.testing.assert_allclose(model(IDS), tuned, rtol=1e-4, atol=1e-4)


@pytest.mark.soak
def test_several_adapters_are_used_by_name():
    model = far(CausalLM(dataclasses.replace(LLAMA, num_layers=1)))
    found, texts = {None: np.array(model(IDS))}, {None: generate_ids(model, [3, 4, 5], 6)}
    for name, layers in (("first", ["query", "value"]), ("second", "feed_forward/*")):
        adapters.add(model, 2, layers=layers, name=name)
        assert all(f"/{name}/" in path for path in trained(model))
        far(model, len(found))
        found[name], texts[name] = np.array(model(IDS)), generate_ids(model, [3, 4, 5], 6)
    assert adapters.names(model) == ["first", "second"] and len(set(map(tuple, texts.values()))) == 3
    for _ in range(2):
        for name in adapters.names(model):
            adapters.use(model, name)
            assert all(f"/{name}/" in path for path in trained(model)) and trained(model)
            np.testing.assert_array_equal(model(IDS), found[name])
            assert generate_ids(model, [3, 4, 5], 6) == texts[name]
            with adapters.disabled(model):
                np.testing.assert_array_equal(model(IDS), found[None])
                assert generate_ids(model, [3, 4, 5], 6) == texts[None]
    assert len(vars(model)["_compiled_decoders"]) == 3  # each of them is kept
    adapters.remove(model, "first")
    np.testing.assert_array_equal(model(IDS), found["second"])
    adapters.merge(model)
    np.testing.assert_allclose(model(IDS), found["second"], rtol=1e-5, atol=1e-5)
    assert adapters.names(model) == [] and generate_ids(model, [3, 4, 5], 6) == texts["second"]
    assert len(trained(model)) == len(model.weights)


@pytest.mark.parametrize("remat", ["block", "attention"])
def test_dropout_is_the_same_where_it_is_computed_again(remat):
    model = learned(dataclasses.replace(LLAMA, remat=remat), dropout=0.5)
    seeds = [layer.seed_generator.state for layer in model._flatten_layers() if getattr(layer, "rate", 0) == 0.5]
    weights, draw = model.trainable_weights, np.random.default_rng(3)
    values = [np.array(weight) for weight in weights]
    directions = [draw.normal(size=value.shape).astype("float32") for value in values]

    def loss(step=0.0):
        for seed in seeds:
            seed.assign([1, 2])
        for weight, value, direction in zip(weights, values, directions, strict=True):
            weight.assign(value + step * direction)
        return tf.reduce_sum(tf.sin(model(IDS, training=True)))

    with tf.GradientTape() as tape:
        total = loss()
    gradients = tape.gradient(total, [weight.value for weight in weights])
    slope = sum(float(tf.reduce_sum(g * d)) for g, d in zip(gradients, directions, strict=True))
    assert slope == pytest.approx(float(loss(1e-4) - loss(-1e-4)) / 2e-4, rel=0.01)


def test_what_shares_a_function_is_as_exact_as_what_does_not():
    def outputs(remat):
        model = learned(LLAMA, lambda config: CausalLM(config, dtype="mixed_bfloat16"))  # adapters are float32 in it
        model.remat = remat
        return np.array(tf.function(lambda ids: model(ids, training=True))(IDS))

    np.testing.assert_array_equal(outputs("block"), outputs(None))


def test_slices_are_named_as_here_and_as_in_hugging_face():
    def adapted(config, layers):
        model = CausalLM(config)
        adapters.add(model, 2, layers=layers, train_also="final_norm")
        return {path.removeprefix("transformer/").replace("adapters/default/", "") for path in trained(model)}

    qkv = {f"block_{i}/attention/query_key_value/{part}_lora_{m}" for i in range(2) for part in "qv" for m in "ab"}
    full = {name.replace("/q_", "/query_").replace("/v_", "/value_") for name in qkv} | {"final_norm/scale"}
    assert adapted(LLAMA, ["query", "value"]) == adapted(LLAMA, ["q_proj", "self_attn.v_proj"]) == full
    up = {f"block_1/feed_forward/inner/up_lora_{matrix}" for matrix in "ab"} | {"final_norm/scale"}
    assert adapted(LLAMA, "block_1/*/up") == up
    whole = {f"block_{i}/attention/query_key_value/lora_{m}" for i in range(2) for m in "ab"}
    assert adapted(GPT2, "c_attn") - whole == {"final_norm/gamma", "final_norm/beta"}


def test_a_folder_of_peft_holds_it_all(tmp_path):
    model = learned(kind="dora", layers=["query", "feed_forward/*"], train_also="final_norm")
    expected = np.array(model(IDS))
    adapters.save(model, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["down_proj", "gate_proj", "q_proj", "up_proj"]
    assert config["modules_to_save"] == ["model.norm"]
    assert (config["r"], config["lora_alpha"], config["use_dora"], config["task_type"]) == (2, 6, True, "CAUSAL_LM")
    again = far(CausalLM(LLAMA))
    adapters.load(again, tmp_path / "adapter", "poems")
    np.testing.assert_array_equal(again(IDS), expected)
    assert len(trained(again)) == len(trained(model)) and adapters.names(again) == ["poems"]
    for other, message in (
        (CausalLM(GPT2), r"adapter_model.safetensors holds '\S+', for which \w+ has no place"),
        (CausalLM(dataclasses.replace(LLAMA, dff=20)), r"gate_proj.lora_B.weight' with shape \(24, 2\), .* \(20, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            adapters.load(other, tmp_path / "adapter")
        assert adapters.names(other) == [] and len(trained(other)) == len(other.weights)
    for setting, message in (
        ({"peft_type": "IA3"}, "of type 'IA3'; 'LORA' can be read"),
        ({"bias": "all"}, "has bias='all'"),
        ({"trainable_token_indices": [3]}, r"says trainable_token_indices=\[3\], and holds no such"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4', which changes the base"),
    ):
        (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({**config, **setting}))
        with pytest.raises(ValueError, match=message):
            adapters.load(CausalLM(LLAMA), tmp_path / "adapter")
    with pytest.raises(FileNotFoundError, match=r"has no adapter_config\.json"):
        adapters.load(again, tmp_path)


@pytest.fixture(scope="module")
def with_first():
    return learned(name="first", layers="query")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rank": 0}, "`rank` must be an integer of at least 1, got 0"),
        ({"alpha": 0}, "`alpha` must be above 0, got 0"),
        ({"kind": "ia3"}, "`kind` must be 'lora', 'rslora' or 'dora', got 'ia3'"),
        ({"dropout": 1}, "`dropout` must be at least 0 and below 1, got 1"),
        ({"layers": ["query", "qury"]}, "to adapt is called 'qury': it has attention/query, attention/key"),
        (
            {"layers": "lm_head"},
            "'lm_head', has the table of its embedding: name 'token_embedding', and both are adapted",
        ),
        ({"layers": "token_embedding", "kind": "dora"}, "one table with its output layer, of which DoRA would train"),
        ({"layers": "token_embedding", "train_tokens": [3]}, "rows of the embedding trained, which `layers` adapts"),
        ({"layers": []}, "No layer of causal_lm.* to adapt was named: it has attention/query"),
        ({"train_also": "norm"}, "`train_also` names 'norm', which no layer is called: there are token_embedding"),
        ({"name": "my/own"}, "a word without '/' and '.', got 'my/own'"),
        ({"name": "first"}, "has an adapter 'first' already"),
    ],
)
def test_what_cannot_be_added_is_refused(options, message, with_first):
    model, before = with_first, trained(with_first)
    with pytest.raises(ValueError, match=message):
        adapters.add(model, **options)
    assert trained(model) == before and adapters.names(model) == ["first"]


def test_what_does_not_go_together_is_refused(tmp_path):
    model = CausalLM(LLAMA)
    for call in (adapters.merge, adapters.remove, lambda model: adapters.use(model, "a")):
        with pytest.raises(ValueError, match=r"has no adapters: kerasllm\.adapters\.add gives it some"):
            call(model)
    adapters.add(model, 2, layers="query", train_also="token_embedding")
    with pytest.raises(ValueError, match="has no adapter 'a': it has default"):
        adapters.use(model, "a")
    with pytest.raises(ValueError, match="token_embedding/embeddings is trained beside the adapter, for which PEFT"):
        adapters.save(model, tmp_path / "adapter")
    with adapters.disabled(model), pytest.raises(ValueError, match=r"No adapter of .* is in use: choose one by `use`"):
        adapters.merge(model)
    layer = dense_layers(model)[0]
    adapters.remove(model)
    layer.enable_lora(2)
    with pytest.raises(ValueError, match="feed_forward/outer has LoRA by `enable_lora`"):
        adapters.add(model)
    model = CausalLM(LLAMA)
    dense_layers(model)[1].quantize("int8")
    with pytest.raises(ValueError, match="feed_forward/inner is quantized by 'int8', so it cannot be given an adapter"):
        adapters.add(model)
    assert adapters.names(model) == []
