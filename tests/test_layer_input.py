"""What layers are called with: Keras' shapes and words too, and one sentence for what cannot be."""

import keras
import numpy as np
import pytest

from kerasllm.layers import FeedForward, MultiHeadAttention, Transformer, TransformerBlock

X = np.random.default_rng(0).normal(size=(2, 5, 16)).astype("float32")
IDS = np.ones((2, 5), "int32")
LAYERS = {
    "attention": lambda: MultiHeadAttention(16, 2, name="layer"),
    "block": lambda: TransformerBlock(16, 2, 16, name="layer"),
    "transformer": lambda: Transformer(1, 16, 2, 16, name="layer"),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


@every_layer
def test_a_mask_for_each_row_is_kerass(make):
    layer = make()
    mask = np.random.default_rng(1).random((2, 5, 5)) < 0.5
    mask |= np.eye(5, dtype=bool)
    np.testing.assert_array_equal(layer(X, attention_mask=mask), layer(X, attention_mask=mask[:, None]))
    assert np.abs(layer(X, attention_mask=mask) - layer(X, attention_mask=mask[::-1])).max() > 1e-3
    np.testing.assert_array_equal(layer(X, attention_mask=mask[:1]), layer(X, attention_mask=mask[0]))


def test_kerass_own_layer_attends_alike():
    theirs = keras.layers.MultiHeadAttention(2, 8)
    mask = np.random.default_rng(1).random((2, 5, 5)) < 0.5
    mask |= np.eye(5, dtype=bool)
    ours = MultiHeadAttention(16, 2, name="layer")
    ours.build(X.shape)
    expected = theirs(X, X, attention_mask=mask)
    kernels = [theirs.query_dense, theirs.key_dense, theirs.value_dense]
    ours.query_key_value.kernel.assign(np.concatenate([np.reshape(k.kernel, (16, 16)) for k in kernels], axis=1))
    ours.output_projection.kernel.assign(np.reshape(theirs.output_dense.kernel, (16, 16)))
    np.testing.assert_allclose(ours(X, attention_mask=mask), expected, atol=1e-5)


@every_layer
@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (IDS, r"got int32 of shape \(2, 5\)"),
        (np.ones((2, 5, 16), "int32"), r"got int32 of shape \(2, 5, 16\)"),
        (keras.KerasTensor((None, 5), "int32"), r"got int32 of shape \(None, 5\)"),
        ([[1.0, 2.0]], "got list"),
        (np.array([["a"]]), "got <U1"),
    ],
)
def test_what_is_no_sequence_of_vectors_is_refused(make, ids, said):
    with pytest.raises(ValueError, match=rf"^layer takes vectors as `x`, float \(B, T, width\), {said}.*Embedding\.$"):
        make()(ids)


@every_layer
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"context": IDS}, "layer takes vectors as `context`, float .* got int32"),
        ({"context": X[:, :3][[0, 1, 1]]}, r"`context` of layer must have the shape \(2, any, any\), got \(3, 3, 16\)"),
        ({"attention_mask": np.ones((2, 5, 7), bool)}, r"\(2, 2, 5, 5\) or \(2, 5, 5\) or \(5, 5\), got \(2, 5, 7\)"),
        ({"mask": np.ones((2, 7), bool)}, r"`mask` of layer must have the shape \(2, 5\), got \(2, 7\)"),
        ({"document_ids": np.ones(5, "int32")}, r"`document_ids` of layer must have the shape \(2, 5\), got \(5,\)"),
        ({"position_ids": np.ones(7, "int32")}, r"shape \(2, 5\) or \(5,\), got \(7,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_named(make, given, message):
    with pytest.raises(ValueError, match=message) as raised:
        make()(X, **given)
    assert "\n" not in str(raised.value)


@every_layer
def test_another_width_than_that_of_the_build_is_refused(make):
    layer = make()
    layer(X)
    with pytest.raises(ValueError, match=r"layer was built for vectors of width 16, got `x` of shape \(2, 5, 8\)"):
        layer(X[..., :8])


def test_a_feed_forward_layer_takes_vectors_of_any_rank():
    assert FeedForward(4, 8)(X[0]).shape == (5, 4)
    for wrong in (IDS, X[0, 0]):
        with pytest.raises(ValueError, match="takes vectors as `x`"):
            FeedForward(4, 8)(wrong)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda layer: layer(query=X, use_causal_mask=False), r"no `(query|use_causal_mask)`"),
        (lambda layer: layer(X, value=X), "no `value`: context holds keys and values"),
        (lambda layer: layer(X, key=X), "no `key`: context holds keys and values"),
        (lambda layer: layer(X, use_causal_mask=True), r"no `use_causal_mask`: MultiHeadAttention\(…, causal=True\)"),
        (lambda layer: layer(X, X, X), "takes one context, for keys and values alike"),
        (lambda _: MultiHeadAttention(num_heads=2, key_dim=8), "no `key_dim`: d_model is the width of the output"),
        (lambda _: MultiHeadAttention(16, 2, value_dim=8), "no `value_dim`: values are as wide as keys"),
        (lambda _: MultiHeadAttention(embed_dim=16, num_heads=2), "no `embed_dim`: here it is `d_model`"),
        (lambda _: Transformer(1, 16, 2, 8, dropout_rate=0.1), "`Transformer` has no `dropout_rate`: .* `dropout`"),
        (lambda _: Transformer(1, 16, 2, 8, n_kv_heads=1), "no `n_kv_heads`: here it is `num_kv_heads`"),
        (lambda _: Transformer(1, 16, 2, 8, input_vocab_size=9), "the vocabulary is that of an Embedding before it"),
        (lambda _: Transformer(1, 16, 2, 8, tie_word_embeddings=True), "that is for a whole model, such as a CausalLM"),
        (
            lambda _: TransformerBlock(16, 2, 8, num_layers=2),
            "`TransformerBlock` has no `num_layers`: `Transformer` stacks",
        ),
        (lambda _: FeedForward(hidden_size=16, dff=8), "`FeedForward` has no `hidden_size`: here it is `d_model`"),
        (
            lambda _: Transformer(1, 16, 2, 8, colour="red"),
            "no `colour`. It takes num_layers, d_model, .*attention_window",
        ),
    ],
)
def test_other_words_are_answered_with_ours(call, message):
    with pytest.raises(TypeError, match=message):
        call(MultiHeadAttention(16, 2))
