"""What a language model stands on: causality, decoding with a cache, packing, and padding that changes nothing."""

import keras
import numpy as np
import pytest
from keras import ops
from oracles import scramble

from kerasllm import backend
from kerasllm.backend import compiling
from kerasllm.layers import MultiHeadAttention, Transformer, TransformerBlock, tiles
from kerasllm.layers.dropout import Dropout

B, T, D, H, F = 2, 7, 12, 6, 20
VISIBLE = np.array([1, 0, 1, 1, 1, 1, 1], bool)
DOCUMENTS = np.array([[1, 1, 1, 2, 2, 0, 0], [1, 2, 2, 2, 2, 2, 3]], "int32")
POSITIONS = ["rotary", "learned", "sinusoidal", "relative"]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


X, CONTEXT = normal(B, T, D), normal(B, 5, 9, seed=1)
numpy = ops.convert_to_numpy


def assert_close(actual, desired):
    np.testing.assert_allclose(numpy(actual), numpy(desired), atol=1e-5, rtol=1e-5)


def scrambled(call=None, **options):
    """A small Transformer of 2 blocks with weights far from their initial values."""
    transformer = Transformer(2, D, H, F, **options)
    transformer(X, **call or {})
    return scramble(transformer)


def influence(function, x):
    """How much each output token moves with each input token: (T, T), from gradients.

    The text `x` (T, D) stands in T rows, and row t gives the gradient of output token t.
    """
    rows, chosen, direction = np.stack([x] * T), np.eye(T, dtype="float32")[..., None], normal(D, seed=3)

    def outputs(rows):
        return ops.sum(function(rows) * ops.convert_to_tensor(chosen * direction), axis=(1, 2))

    _, (gradient,) = backend.input_gradients(outputs, [ops.convert_to_tensor(rows)])
    return np.abs(numpy(gradient)).max(axis=-1)


DISTANCE = np.arange(T)[:, None] - np.arange(T)
SAME_DOCUMENT = DOCUMENTS[0][:, None] == DOCUMENTS[0]
REACH = {  # Through two blocks, a window of 3 reaches 4 places.
    **{positions: ({"positions": positions, "max_length": T}, {}, DISTANCE >= 0) for positions in POSITIONS},
    "window": ({"attention_window": 3}, {}, (DISTANCE >= 0) & (DISTANCE <= 4)),
    "both ways": ({"causal": False}, {}, DISTANCE == DISTANCE),
    "window both ways": ({"causal": False, "attention_window": 3}, {}, abs(DISTANCE) <= 4),
    "documents": ({}, {"document_ids": DOCUMENTS[:1]}, SAME_DOCUMENT & (DISTANCE >= 0)),
    "documents both ways": ({"causal": False}, {"document_ids": DOCUMENTS[:1]}, SAME_DOCUMENT),
    "key mask": ({"causal": False}, {"mask": VISIBLE[None]}, VISIBLE | (DISTANCE == 0)),
    "parallel": ({"parallel": True, "gated": True}, {}, DISTANCE >= 0),
    "post-norm": ({"norm_placement": "post"}, {}, DISTANCE >= 0),
    "two windows": ({"attention_window": (2, 3)}, {}, (DISTANCE >= 0) & (DISTANCE <= 3)),
}


@pytest.mark.parametrize(("options", "call", "expected"), REACH.values(), ids=REACH)
def test_tokens_reach_each_other_just_as_promised(options, call, expected):
    transformer = scrambled(**options)
    gradients = influence(lambda rows: transformer(rows, **call), X[0])
    assert (gradients[~expected] == 0).all()
    assert (gradients[expected] > 1e-6).all()


CACHED = {
    **{positions: {"positions": positions, "max_length": 12} for positions in POSITIONS},
    "grouped, window": {"num_kv_heads": 2, "attention_window": 3, "qk_norm": True},
    "parallel, multi-query": {"num_kv_heads": 1, "parallel": True, "shared_norm": False},
    "layers that differ": {"attention_window": (3, None), "rope_theta": (20.0, 500.0), "attention_soft_cap": 1.0},
    "partly rotated, normed as one": {"partial_rotary_factor": (0.0, 1.0), "qk_norm": "full", "attention_scale": 1.0},
}


def in_pieces(transformer, x, lengths, cache_length, mask=None, position_ids=None):
    """Runs `lengths` tokens at a time through the cache."""
    cache, done, outputs = transformer.init_cache(len(x), cache_length), 0, []
    for length in lengths:
        part = slice(done, done + length)
        positions = None if position_ids is None else position_ids[:, part]
        output, cache = transformer(x[:, part], mask=mask, position_ids=positions, cache=cache, cache_index=done)
        outputs.append(output)
        done += length
    return np.concatenate(outputs, axis=1)


@pytest.mark.parametrize(
    "lengths", [pytest.param([1] * T, marks=pytest.mark.soak), [4, 1, 2]], ids=["token by token", "in pieces"]
)
@pytest.mark.parametrize("options", CACHED.values(), ids=CACHED)
def test_cached_equals_uncached(options, lengths):
    transformer = scrambled(**options)
    assert_close(in_pieces(transformer, X, lengths, cache_length=10), transformer(X))


def test_a_window_bounds_the_cache():
    layer = MultiHeadAttention(D, H, causal=True, attention_window=3)
    layer.build((None, None, D))
    assert [layer.init_cache(B, length).key.shape[2] for length in (2, 3, 1000)] == [2, 3, 3]
    assert layer.init_cache(B, 1000, full=True).key.shape[2] == 1000


@pytest.mark.parametrize("options", CACHED.values(), ids=CACHED)
def test_the_last_token_alone_is_what_it_is_among_all(options):
    transformer = scrambled(**options)
    every, whole_cache = transformer(X, cache=transformer.init_cache(len(X), 10))
    last, cache = transformer(X, cache=transformer.init_cache(len(X), 10), last_only=True)
    assert_close(last, every[:, -1:])
    assert all(map(np.array_equal, keras.tree.flatten(cache), keras.tree.flatten(whole_cache)))


@pytest.mark.parametrize(
    ("options", "long", "by_xla"),
    [
        *(pytest.param(options, 1024, False, id=f"{name}-at once") for name, options in CACHED.items()),
        pytest.param(CACHED["grouped, window"], 4, False, id="in tiles"),
        *(
            pytest.param(options, 4, True, id=f"{name}-in tiles, by XLA", marks=pytest.mark.soak)
            for name, options in CACHED.items()
        ),
    ],
)
def test_cached_rows_of_uneven_length_equal_each_row_alone(options, long, by_xla, monkeypatch):
    monkeypatch.setattr(compiling, "_has_xla", lambda: by_xla)
    for name, value in {"LONG": long, "OF_ONE": 2, "FEWEST_QUERIES": 2}.items():
        monkeypatch.setattr(tiles, name, value)
    transformer = scrambled(**options)
    padding = np.array([3, 0])  # on the left
    columns = np.arange(10)[None]
    position_ids = np.maximum(columns - padding[:, None], 0)
    outputs = in_pieces(transformer, X, [4, 1, 1, 1], 10, columns >= padding[:, None], position_ids)
    assert np.isfinite(outputs).all()
    for row, output, skipped in zip(X, outputs, padding, strict=True):
        assert_close(output[skipped:], transformer(row[None, skipped:])[0])


@pytest.mark.filterwarnings("ignore:You are using a softmax over axis")  # a document of one token
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("positions", POSITIONS)
def test_packed_documents_equal_the_same_documents_alone(positions, causal):
    transformer = scrambled(positions=positions, max_length=T, causal=causal, attention_window=3)
    packed = transformer(X, document_ids=DOCUMENTS)
    for row, document_ids, output in zip(X, DOCUMENTS, packed, strict=True):
        for document in set(document_ids) - {0}:
            here = document_ids == document
            assert_close(output[here], transformer(row[None, here])[0])


def test_padding_is_inert_in_a_sequential_model():
    ids = np.array([[3, 1, 4, 1, 0, 0], [5, 9, 2, 6, 5, 3]])
    labels = np.roll(ids, -1, axis=1)
    model = keras.Sequential(
        [
            keras.layers.Embedding(10, 8, mask_zero=True),
            Transformer(2, D, H, F, causal=False),
            keras.layers.Dense(10),
        ]
    )
    logits = model(ids)
    assert_close(logits[0, :4], model(ids[:1, :4])[0])
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    nll = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    assert_close(model.evaluate(ids, labels, verbose=0), numpy(nll)[ids != 0].mean())


@pytest.mark.parametrize("beside", ["context", "position_ids", "document_ids"])
@pytest.mark.parametrize(
    "layer",
    [
        lambda: MultiHeadAttention(D, H, positions="rotary"),
        lambda: TransformerBlock(D, H, F, causal=False),
        lambda: Transformer(1, D, H, F, causal=False),
    ],
    ids=["MultiHeadAttention", "TransformerBlock", "Transformer"],
)
def test_padding_is_inert_beside_other_tensors(layer, beside):
    """With several tensors Keras names masks after them, and `mask` stays empty."""
    ids, context_ids = np.array([[3, 0, 1, 4, 0], [5, 9, 0, 2, 6]]), np.array([[7, 0, 8], [8, 7, 0]])
    embedding, layer = keras.layers.Embedding(10, D, mask_zero=True), layer()

    def output():
        others = {
            "context": embedding(context_ids),
            "position_ids": np.arange(5),
            "document_ids": np.ones_like(ids),
        }
        return numpy(layer(embedding(ids), **{beside: others[beside]}))[ids != 0]

    fresh = output()
    scramble(embedding), scramble(layer)
    before, table = output(), numpy(embedding.embeddings).copy()
    assert np.abs(before - fresh).max() > 0.1
    table[0] = normal(D, seed=4)
    embedding.embeddings.assign(table)
    np.testing.assert_array_equal(output(), before)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "float16"])
@pytest.mark.parametrize(
    "call",
    [
        {"mask": np.zeros((B, T), bool)},
        {"attention_mask": np.zeros((1, 1, T, T), bool)},
        {"context": CONTEXT, "context_mask": np.zeros((B, 5), bool)},
    ],
    ids=lambda call: list(call)[-1],
)
def test_rows_that_may_see_nothing_are_finite(call, dtype):
    transformer = scrambled(call, positions="relative", dtype=dtype)
    assert np.isfinite(numpy(ops.cast(transformer(X, **call), "float32"))).all()


def test_dropout_acts_in_training_only():
    dropping, plain = scrambled(dropout=0.5), scrambled()
    assert_close(dropping(X), plain(X))
    one, other = dropping(X, training=True), dropping(X, training=True)
    assert np.abs(numpy(one) - numpy(other)).max() > 0.1
    attention = MultiHeadAttention(D, H, dropout=0.9)
    probabilities = attention(X, return_attention_scores=True, training=True)[1]
    assert_close(ops.sum(probabilities, -1), np.ones((B, H, T)))  # those asked for are before dropout


@pytest.mark.parametrize(("rate", "dtype"), [(0.1, "float32"), (0.5, "bfloat16"), (0.01, "float32")])
def test_dropout_keeps_the_mean_and_tells_the_gradient(rate, dtype):
    x = ops.ones((1000, 333), dtype)  # no multiple of four
    layer, alike = (Dropout(rate, seed=3, dtype=dtype) for _ in range(2))
    dropped, (gradient,) = backend.input_gradients(lambda x: layer(x, training=True), [x])
    np.testing.assert_array_equal(numpy(gradient), numpy(dropped))  # as x is 1
    values, counts = np.unique(numpy(dropped).astype("float64"), return_counts=True)
    share = counts[0] / counts.sum()
    assert values[0] == 0 and len(values) == 2
    assert share == pytest.approx(rate, abs=1 / 512 + 4 * (rate / (1000 * 333)) ** 0.5)
    assert values[1] == pytest.approx(1 / (1 - rate), rel=4e-3)
    np.testing.assert_array_equal(numpy(alike(x, training=True)), numpy(dropped))
    assert not np.array_equal(numpy(layer(x, training=True)), numpy(dropped))
    np.testing.assert_array_equal(numpy(layer(x)), numpy(x))
