"""The layers one by one: Keras' contract, numbers against NumPy, and what mistakes are told."""

import re

import keras
import numpy as np
import oracles
import pytest
from keras import ops
from keras_contract import check_layer
from oracles import scramble, weights_of

from kerasllm import layers
from kerasllm.layers import MultiHeadAttention, RelativePositionBias, Transformer, TransformerBlock

B, T, S, D, H, F = 2, 7, 5, 12, 6, 20
VISIBLE = np.array([[1, 1, 1, 1, 1, 0, 0], [1, 0, 1, 1, 1, 1, 1]], bool)
DOCUMENTS = np.array([[1, 1, 1, 2, 2, 0, 0], [1, 2, 2, 2, 2, 2, 3]], "int32")
POSITIONS = ["rotary", "learned", "sinusoidal", "relative", "learned_relative"]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


X, CONTEXT = normal(B, T, D), normal(B, S, 9, seed=1)


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def assert_close(actual, desired):
    np.testing.assert_allclose(numpy(actual), numpy(desired), atol=1e-5, rtol=1e-5)


# Keras' contract.

CONTRACTS = [
    ("MixtureOfExperts", {"d_model": D, "dff": F, "num_experts": 3, "gated": True}, {"x": CONTEXT}, (B, S, D)),
    ("FeedForward", {"d_model": D, "dff": F, "gated": True, "activation": "relu_squared"}, {"x": CONTEXT}, (B, S, D)),
    ("LearnedPositions", {"max_length": 9}, {"x": X}, (B, T, D)),
    ("SinusoidalPositions", {}, {"x": X}, (B, T, D)),
    (
        "DistanceEmbedding",
        {"output_dim": D, "position_buckets": 4, "max_distance": 6},
        {"distances": np.arange(5, -6, -1)},
        (11, D),
    ),
    (
        "RelativePositionBias",
        {"num_heads": H, "causal": False, "num_buckets": 8, "max_distance": 20},
        {"query_index": np.arange(T), "key_index": np.arange(S)},
        (1, H, T, S),
    ),
    (
        "MultiHeadAttention",
        {"d_model": D, "num_heads": H, "num_kv_heads": 2, "positions": "rotary", "qk_norm": True, "rope_theta": 500.0},
        {"x": X, "document_ids": DOCUMENTS},
        (B, T, D),
    ),
    ("MultiHeadAttention", {"d_model": D, "num_heads": H, "head_dim": 5}, {"x": X, "context": CONTEXT}, (B, T, D)),
    (
        "TransformerBlock",
        {"d_model": D, "num_heads": H, "dff": F, "norm": "rms", "parallel": True, "gated": True, "use_bias": False},
        {"x": X},
        (B, T, D),
    ),
    ("TransformerBlock", {"d_model": D, "num_heads": H, "dff": F}, {"x": X, "context": CONTEXT}, (B, T, D)),
    (
        "Transformer",
        {"num_layers": 2, "d_model": D, "num_heads": H, "dff": F, "positions": "learned", "max_length": 8,
         "num_kv_heads": 2, "attention_window": 4, "norm_placement": "post", "causal": False},
        {"x": CONTEXT},
        (B, S, D),
    ),
    (
        "Transformer",
        {"num_layers": 2, "d_model": D, "num_heads": H, "dff": F, "positions": "relative",
         "attention_window": (2, None), "norm_placement": "sandwich", "attention_soft_cap": 5.0},
        {"x": X, "context": CONTEXT, "document_ids": DOCUMENTS},
        (B, T, D),
    ),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")  # sinusoidal positions
@pytest.mark.parametrize(
    ("name", "options", "inputs", "output_shape"),
    CONTRACTS,
    ids=[f"{name}({', '.join(inputs)})" for name, _, inputs, _ in CONTRACTS],
)
def test_keras_contract(name, options, inputs, output_shape, tmp_path):
    check_layer(getattr(layers, name), options, inputs, output_shape, tmp_path)


def test_every_public_layer_has_its_contract_tested():
    assert {name for name, *_ in CONTRACTS} == {name for name in layers.__all__ if not name.endswith("Options")}


@pytest.mark.parametrize(
    ("layer", "call"),
    [
        (lambda: MultiHeadAttention(D, H, num_kv_heads=2), {"return_attention_scores": True}),
        (lambda: TransformerBlock(D, H, F), {}),
        (lambda: TransformerBlock(D, H, F), {"last_only": True}),
        (lambda: Transformer(2, D, H, F), {}),
        (lambda: Transformer(2, D, H, F), {"last_only": True, "return_attention_scores": True}),
        (lambda: Transformer(2, D, H, F, attention_window=(3, None)), {"return_attention_scores": True}),
    ],
)
def test_a_symbolic_call_knows_caches_and_scores_too(layer, call):
    layer = layer()
    layer(X)
    cache = layer.init_cache(B, length=10)
    outputs = layer(X, cache=cache, cache_index=2, **call)
    symbols = keras.tree.map_structure(lambda part: keras.KerasTensor(part.shape), cache)
    specs = layer(keras.KerasTensor(X.shape), cache=symbols, cache_index=2, **call)
    keras.tree.assert_same_structure(outputs, specs)
    shapes = [[tuple(part.shape) for part in keras.tree.flatten(parts)] for parts in (outputs, specs)]
    assert shapes[0] == shapes[1]


# Numbers against NumPy.

ATTENTION = {
    "as it comes": ({}, {}),
    "multi-query, rotary": ({"num_kv_heads": 1, "positions": "rotary", "causal": True}, {}),
    "grouped, rotary, own positions": (
        {"num_kv_heads": 2, "positions": "rotary", "rope_theta": 20.0},
        {"position_ids": np.array([[9, 8, 7, 3, 2, 1, 0], [0, 0, 5, 50, 51, 52, 53]])},
    ),
    "biased": ({"causal": True}, {"position_bias": normal(1, H, T, T), "document_ids": DOCUMENTS}),
    "window": ({"attention_window": 3}, {}),
    "window, causal": ({"attention_window": 3, "causal": True, "positions": "rotary"}, {}),
    "key mask": ({"num_kv_heads": 3}, {"mask": VISIBLE}),
    "attention mask": ({"causal": True}, {"attention_mask": normal(B, 1, T, T) > -1, "mask": VISIBLE}),
    "documents": ({"positions": "rotary"}, {"document_ids": DOCUMENTS}),
    "query/key norm, wide heads": ({"qk_norm": True, "head_dim": 4, "num_kv_heads": 2, "positions": "rotary"}, {}),
    "no bias": ({"use_bias": False}, {}),
    "partly rotated": ({"head_dim": 7, "positions": "rotary", "partial_rotary_factor": 0.6, "rope_theta": 20.0}, {}),
    "not rotated": ({"positions": "rotary", "partial_rotary_factor": 0.0}, {}),
    "normed as one": ({"qk_norm": "full", "num_kv_heads": 2, "positions": "rotary"}, {}),
    "scaled": ({"attention_scale": 1.7, "num_kv_heads": 2}, {}),
    "capped": (
        {"attention_soft_cap": 0.8, "attention_scale": 2.0, "norm_epsilon": 0.1, "qk_norm": True},
        {"mask": VISIBLE},
    ),
    "cross": ({"num_kv_heads": 2, "qk_norm": True}, {"context": CONTEXT}),
    "cross, capped": (
        {"qk_norm": "full", "num_kv_heads": 3, "attention_soft_cap": 0.5, "attention_scale": 1.0},
        {"context": CONTEXT},
    ),
    "cross, masked": ({"causal": True, "positions": "rotary"}, {"context": CONTEXT, "context_mask": VISIBLE[:, 2:]}),
}


@pytest.mark.parametrize(("options", "call"), ATTENTION.values(), ids=ATTENTION)
def test_attention_equals_numpy(options, call):
    layer = MultiHeadAttention(D, H, **options)
    layer(X, **call)
    output, probabilities = map(numpy, scramble(layer)(X, return_attention_scores=True, **call))
    if "context_mask" in call:
        call = {"context": call["context"], "mask": call["context_mask"]}
    expected, expected_probabilities = oracles.attention(weights_of(layer), X, num_heads=H, **options, **call)
    seeing = expected_probabilities.any(axis=-1)
    assert seeing.mean() > 0.8
    assert_close(probabilities[seeing], expected_probabilities[seeing])
    assert_close(output[seeing[:, 0]], expected[seeing[:, 0]])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (10, 20)])
def test_relative_positions_fall_into_the_buckets_of_t5(causal, num_buckets, max_distance):
    layer = RelativePositionBias(1, causal, num_buckets, max_distance)
    layer.build()
    layer.embeddings.assign(np.arange(num_buckets)[:, None])
    query, key = np.arange(300), np.array([150])
    buckets = [[oracles.bucket(t - 150, causal, num_buckets, max_distance)] for t in query]
    # Every bucket, except that of no distance on the far side.
    assert len(np.unique(buckets)) == num_buckets - (not causal)
    np.testing.assert_array_equal(numpy(layer(query, key))[0, 0], buckets)


BLOCKS = {
    "pre": {"num_kv_heads": 2},
    "post": {"norm_placement": "post", "norm_epsilon": 0.1, "activation": "gelu_tanh"},
    "parallel": {"parallel": True, "use_bias": False, "activation": "silu", "gated": True},
    "parallel, two norms": {"parallel": True, "shared_norm": False, "attention_bias": False},
    "sandwich": {"norm_placement": "sandwich", "norm": "rms", "use_bias": False, "attention_bias": True},
    "output": {"norm_placement": "output", "norm": "rms", "qk_norm": "full", "attention_scale": 0.7},
    "rms, gated": {"norm": "rms", "gated": True, "norm_epsilon": 0.1, "causal": False, "attention_window": 3},
    "attention without a norm": {"skip_attention_norm": True, "gated": True},
    "rms, post, squared ReLU": {"norm": "rms", "norm_placement": "post", "activation": "relu_squared"},
}


@pytest.mark.parametrize("context", [None, CONTEXT], ids=["alone", "with context"])
@pytest.mark.parametrize("options", BLOCKS.values(), ids=BLOCKS)
def test_block_equals_numpy(options, context):
    options = options if context is None else {**options, "parallel": False}
    call = {} if context is None else {"context_mask": VISIBLE[:, :S]}
    block = TransformerBlock(D, H, F, **options)
    block(X, context, **call)
    expected = oracles.block(weights_of(scramble(block)), X, context, num_heads=H, **options, **call)
    assert_close(block(X, context, **call), expected)


@pytest.mark.parametrize("positions", [*POSITIONS, None])
def test_transformer_equals_numpy(positions):
    options = {"positions": positions, "max_length": 9, "norm_placement": "post" if positions is None else "pre"}
    transformer = Transformer(2, D, H, F, **options)
    x = normal(B, T, 9)  # another width than the blocks'
    transformer(x)
    options |= {"num_layers": 2, "num_heads": H, "document_ids": DOCUMENTS}
    expected = oracles.transformer(weights_of(scramble(transformer)), x, **options)
    assert_close(transformer(x, document_ids=DOCUMENTS), expected)


def test_disentangled_attention_equals_numpy():
    options = {"positions": "disentangled", "max_length": 4, "position_buckets": 4, "causal": False}
    transformer = Transformer(2, D, H, F, **options)
    transformer(X)
    options |= {"num_layers": 2, "num_heads": H, "document_ids": DOCUMENTS}
    expected = oracles.transformer(weights_of(scramble(transformer)), X, **options)
    assert_close(transformer(X, document_ids=DOCUMENTS), expected)


def test_layers_that_differ_equal_numpy():
    options = {
        "attention_window": (None, 2, 3),
        "rope_theta": (20.0, 500.0, 20.0),
        "partial_rotary_factor": (1.0, 1.0, 0.0),
        "norm_placement": ("sandwich", "pre", "output"),
        "norm": ("rms", "rms", "layer"),
        "num_kv_heads": (1, 2, None),
        "head_dim": (None, 4, None),
        "qk_norm": (False, "full", True),
        "attention_soft_cap": (None, None, 0.9),
        "parallel": (False, True, False),
        "activation": ("gelu", "silu", "relu_squared"),
        "gated": (True, False, False),
        "use_bias": (True, False, True),
    }
    transformer = Transformer(3, D, H, F, **options)
    transformer(X)
    expected = oracles.transformer(weights_of(scramble(transformer)), X, num_layers=3, num_heads=H, **options)
    assert_close(transformer(X), expected)


def test_scaled_scores_begin_no_larger():
    plain, scaled = MultiHeadAttention(64, 2), MultiHeadAttention(64, 2, attention_scale=2.0)
    for layer in (plain, scaled):
        layer(np.zeros((1, 1, 64)))
    parts = np.std(numpy(scaled.query_key_value.kernel), axis=0).reshape(3, 64).mean(-1)
    usual = np.std(numpy(plain.query_key_value.kernel))
    np.testing.assert_allclose(parts, [usual * 32**-0.5 / 2, usual, usual], rtol=0.1)


# Errors.


def called(layer, *first, then=()):
    layer(*first)
    return layer(*then)


ERRORS = [
    (
        lambda: TransformerBlock(D, 6, F, skip_attention_norm=True, parallel=True),
        "`skip_attention_norm` needs norm_placement='pre' and parallel=False, got 'pre' and True",
    ),
    (lambda: Transformer(2, D, 6, F, num_layer_groups=3), "`num_layer_groups` must be at most `num_layers` (2), got 3"),
    (
        lambda: Transformer(2, D, 6, F, num_layer_groups=1, attention_window=(3, None)),
        "`attention_window` must be the same in all layers of a group, which share their weights",
    ),
    (lambda: called(Transformer(1, D, 6, F, embedding_size=5), X), "takes vectors of width 5, got"),
    (lambda: MultiHeadAttention(10, 3), "`d_model` (10) must be divisible by `num_heads` (3)"),
    (lambda: Transformer(1, 10, 3, F), "`d_model` (10) must be divisible by `num_heads` (3)"),
    (lambda: MultiHeadAttention(D, 6, num_kv_heads=4), "`num_heads` (6) must be divisible by `num_kv_heads` (4)"),
    (lambda: Transformer(1, D, 6, F, num_kv_heads=4), "`num_heads` (6) must be divisible by `num_kv_heads` (4)"),
    (lambda: TransformerBlock(D, 4, F), "Rotary positions need an even `head_dim`, got 3"),
    (lambda: Transformer(1, D, H, F, attention_window=0), "`attention_window` must be at least 1"),
    (lambda: Transformer(0, D, H, F), "`num_layers` must be a positive integer, got 0"),
    (lambda: Transformer(1, D, "6", F), "`num_heads` must be a positive integer, got '6'"),
    (lambda: Transformer(1, D, H, F, positions="alibi"), "`positions` must be one of ('rotary', 'learned', "),
    (lambda: Transformer(1, D, H, F, positions="learned"), "Learned positions need `max_length`"),
    (lambda: Transformer(1, D, H, F, positions="disentangled", causal=False), "`max_length` must be a positive int"),
    (lambda: Transformer(1, D, H, F, positions="disentangled", max_length=6), "Disentangled positions are those of en"),
    (
        lambda: Transformer(1, D, H, F, positions="disentangled", max_length=6, causal=False, num_kv_heads=1),
        "Disentangled positions need a key head for each query head, got 1 for",
    ),
    (lambda: layers.SinusoidalPositions()(CONTEXT), "Sinusoidal positions need an even width, half for sines, got 9"),
    (lambda: Transformer(1, D, H, F, norm="batch"), "`norm` must be one of ('layer', 'rms'), got 'batch'"),
    (lambda: Transformer(1, D, H, F, norm_placement="mid"), "`norm_placement` must be one of ('pre', 'post', 'sandw"),
    (lambda: Transformer(1, D, H, F, qk_norm="all"), "`qk_norm` must be one of (False, True, 'full'), got 'all'"),
    (lambda: Transformer(1, D, H, F, attention_scale=0.0), "`attention_scale` must be positive or None, got 0.0"),
    (lambda: Transformer(1, D, H, F, attention_soft_cap=-1), "`attention_soft_cap` must be positive or None, got -1"),
    (lambda: Transformer(1, D, H, F, rope_theta=None), "`rope_theta` must be a positive number, got None"),
    (lambda: Transformer(1, D, H, F, partial_rotary_factor=2), "`partial_rotary_factor` must be a number from 0 to 1"),
    (
        lambda: Transformer(1, 24, 2, F, partial_rotary_factor=0.3),
        "pairs of channels, got partial_rotary_factor=0.3 of head_dim=12: 3 channels",
    ),
    (lambda: Transformer(2, D, H, F, attention_window=(3,)), "`attention_window` has 1 values for 2 layers: give one"),
    (lambda: TransformerBlock(D, H, F, attention_window=(3, 4)), "`attention_window` must be at least 1"),
    (lambda: Transformer(1, D, H, F, activation="swoosh"), "Unknown activation 'swoosh'. Use 'gelu_tanh', "),
    (lambda: TransformerBlock(D, H, F, parallel=True, norm_placement="post"), "needs norm_placement='pre'"),
    (lambda: TransformerBlock(D, H, F, parallel=True)(X, CONTEXT), "A parallel block has no cross-attention"),
    (lambda: TransformerBlock(D, H, F)(CONTEXT), "the input must have width 12, got 9"),
    (
        lambda: Transformer(1, D, H, F, positions="learned", max_length=6)(X),
        "A sequence of 7 tokens is longer than the 6 learned positions",
    ),
    (lambda: called(MultiHeadAttention(D, H), X, then=[X, CONTEXT]), "built without a context and is now called with"),
    (lambda: called(MultiHeadAttention(D, H), X, CONTEXT, then=[X]), "built with a context and is now called without"),
    (lambda: called(Transformer(1, D, H, F), X, then=[X, CONTEXT]), "built without a context, so it has no cross"),
]


@pytest.mark.parametrize(("mistake", "message"), ERRORS, ids=[message[:40] for _, message in ERRORS])
def test_mistakes_get_one_clear_sentence(mistake, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        mistake()
