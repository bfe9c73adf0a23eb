"""The loss that makes logits chunk by chunk, beside its plain twin that holds them all."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasllm.losses import TokenCrossentropy
from kerasllm.losses.likelihood import OutputLayer, chunked_log_probabilities, chunked_weighted_sums
from kerasllm.models import CausalLM, MaskedLM, Seq2SeqLM, TransformerConfig

SIZES = {"vocab_size": 37, "num_layers": 1, "d_model": 16, "num_heads": 2, "dff": 24, "max_length": 16}
MODELS = {
    "tied": (CausalLM, {}),
    "untied": (CausalLM, {"tie_embeddings": False}),
    "soft-capped": (CausalLM, {"logit_soft_cap": 0.7}),
    "masked, with a bias": (MaskedLM, {}),
    "sequence to sequence": (Seq2SeqLM, {}),
}


def make(kind, dtype="float32"):
    model_class, options = MODELS[kind]
    model = model_class(TransformerConfig(**SIZES, **options), dtype=dtype)
    draw = np.random.default_rng(0)
    model.set_weights([draw.normal(scale=0.3, size=weight.shape) for weight in model.get_weights()])
    return model


def batch(kind):
    draw = np.random.default_rng(1)
    ids, labels = draw.integers(0, 37, (2, 3, 11))
    inputs = {"source_ids": ids[:, :7], "target_ids": ids} if MODELS[kind][0] is Seq2SeqLM else ids
    return inputs, labels, draw.integers(0, 2, (3, 11)).astype("float32")


def after_a_step(kind, loss, dtype="float32", in_graph=False):
    """What evaluation and a step of training report, and how far each weight moved along its gradient."""
    model = make(kind, dtype)
    before = model.get_weights()
    # So far that the weights' own rounding is nothing beside it.
    model.compile(keras.optimizers.SGD(1e3), loss, run_eagerly=not in_graph)
    inputs, labels, weight = batch(kind)
    evaluated = model.evaluate(inputs, labels, sample_weight=weight, verbose=0, return_dict=True)
    trained = model.train_on_batch(inputs, labels, weight, return_dict=True)
    moves = {w.path: old - new for w, old, new in zip(model.weights, before, model.get_weights(), strict=True)}
    return evaluated, trained, moves


@functools.cache
def plain_step(kind, smoothing):
    return after_a_step(kind, TokenCrossentropy(smoothing))


@pytest.mark.parametrize(
    ("kind", "smoothing", "chunk_size"),
    [(kind, 0.2, 7) for kind in MODELS]
    + [("tied", 0.0, 7), ("tied", 0.2, 33)]
    + [pytest.param("tied", 0.2, n, marks=pytest.mark.soak) for n in (1, 100)],
)
def test_loss_and_gradients_are_those_of_the_plain_loss(kind, smoothing, chunk_size):
    plain = plain_step(kind, smoothing)
    in_graph = (kind, chunk_size) in (("tied", 7), ("sequence to sequence", 7))
    chunked = after_a_step(kind, TokenCrossentropy(smoothing, chunk_size), in_graph=in_graph)
    for expected, found in zip(plain[:2], chunked[:2], strict=True):
        assert found == pytest.approx(expected, rel=1e-6)
    for (path, expected), found in zip(plain[2].items(), chunked[2].values(), strict=True):
        assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected), path
        assert np.linalg.norm(expected) > 0, path


@pytest.mark.parametrize("function", [chunked_log_probabilities, chunked_weighted_sums])
def test_weights_that_are_not_trained_have_no_gradient_made(function):
    draw = np.random.default_rng(0)
    hidden, kernel, bias = (tf.constant(draw.normal(size=n), "float32") for n in ((2, 5, 8), (9, 8), 9))
    labels, counted = (
        tf.constant(np.arange(10).reshape(2, 5) % 9),
        [] if "log" in function.__name__ else [tf.ones((2, 5))],
    )

    def gradients(trainable):
        @tf.function(autograph=False)
        def compute():
            with tf.GradientTape() as tape:
                tape.watch([hidden, kernel, bias])
                layer = OutputLayer(kernel, bias, trainable=trainable)
                loss = tf.reduce_sum(function(labels, *counted, hidden, layer, 4)[0])
            return tape.gradient(loss, [hidden, bias])

        made = compute.get_concrete_function().graph.as_graph_def().library.function
        return compute(), sum(node.op == "MatMul" for part in made for node in part.node_def)

    (expected, products), (found, fewer) = gradients(True), gradients(False)
    assert fewer == products - 1
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_in_mixed_precision_gradients_add_up_in_float32():
    exact = after_a_step("tied", TokenCrossentropy())[2]
    for loss in (TokenCrossentropy(), TokenCrossentropy(chunk_size=3)):
        rough = after_a_step("tied", loss, "mixed_bfloat16")[2]
        for (path, expected), found in zip(exact.items(), rough.values(), strict=True):
            assert np.linalg.norm(found - expected) <= 0.03 * np.linalg.norm(expected), path


def test_a_model_still_gives_logits_to_everybody_else():
    model = make("tied")
    inputs, labels, _ = batch("tied")
    expected = keras.ops.convert_to_numpy(model(inputs))
    model.compile(keras.optimizers.SGD(0.0), TokenCrossentropy(chunk_size=4))
    model.train_on_batch(inputs, labels)
    np.testing.assert_allclose(model.predict(inputs, verbose=0), expected, atol=1e-5)
    np.testing.assert_allclose(model(inputs), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["tied", "masked, with a bias"])
@pytest.mark.soak
def test_a_quantized_model_is_scored_with_its_own_logits(kind):
    model = make(kind)
    model.quantize("int8")
    figures = {}
    for chunk_size in (None, 4):
        model.compile("sgd", TokenCrossentropy(chunk_size=chunk_size), run_eagerly=True)
        inputs, labels, weight = batch(kind)
        figures[chunk_size] = model.evaluate(inputs, labels, sample_weight=weight, verbose=0)
    assert figures[4] == pytest.approx(figures[None], rel=1e-6)


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_what_does_not_count_may_have_any_label(chunk_size):
    inputs, labels, weight = batch("tied")
    model = make("tied")
    model.compile(keras.optimizers.SGD(1.0), TokenCrossentropy(chunk_size=chunk_size))
    before, losses = model.get_weights(), []
    for ignored in (0, -100):
        model.set_weights(before)
        model.reset_metrics()
        losses.append([model.train_on_batch(inputs, np.where(weight > 0, labels, ignored), weight) for _ in range(2)])
    assert losses[0] == losses[1] and np.all(np.isfinite(losses)) and losses[0][0] != losses[0][1]


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_labels_and_weights_that_do_not_fit_are_refused(chunk_size):
    loss = TokenCrossentropy(chunk_size=chunk_size)
    logits, layer = np.zeros((2, 5, 37), "float32"), make("tied").output_layer()

    def sums(labels, weight):
        if chunk_size:
            return loss.chunked_sums(labels, np.zeros((2, 5, 16), "float32"), layer, weight)
        return loss.sums(labels, logits, weight)

    with pytest.raises(ValueError, match=r"Labels \(2, 6\) do not fit the model's output \(2, 5, "):
        sums(np.zeros((2, 6)), None)
    with pytest.raises(ValueError, match=r"`sample_weight` \(2, 4\) does not fit the labels \(2, 5\)"):
        sums(np.zeros((2, 5)), np.ones((2, 4)))


def test_a_chunked_loss_is_saved_with_the_model(tmp_path):
    model = make("untied")
    model.compile("sgd", TokenCrossentropy(0.1, chunk_size=4))
    model.save(tmp_path / "model.keras")
    loss = keras.models.load_model(tmp_path / "model.keras").loss
    assert (loss.label_smoothing, loss.chunk_size) == (0.1, 4)


@pytest.mark.parametrize("chunk_size", [0, -1, 2.0, True])
def test_a_chunk_that_cannot_be_is_refused(chunk_size):
    with pytest.raises(ValueError, match="`chunk_size` must be a positive number of tokens or None"):
        TokenCrossentropy(chunk_size=chunk_size)


@pytest.mark.parametrize("name", ["metrics", "weighted_metrics"])
def test_metrics_that_need_logits_are_refused_beside_it(name):
    with pytest.raises(ValueError, match="Metrics need the logits of a whole batch"):
        make("tied").compile("sgd", TokenCrossentropy(chunk_size=4), **{name: ["accuracy"]})


def test_what_is_not_learned_costs_nothing():
    draw = np.random.default_rng(0)
    hidden, table = draw.normal(size=(3, 11, 8)).astype("float32"), draw.normal(size=(37, 8)).astype("float32")
    weight = np.zeros((3, 11), "float32")
    weight[[0, 1, 1, 2], [10, 0, 6, 3]] = [1.0, 2.0, 0.5, 1.0]
    labels = draw.integers(0, 37, (3, 11)).astype("int32")

    def sums_and_gradient(hidden, weight, chunk_size):
        hidden = tf.Variable(hidden)
        with tf.GradientTape() as tape:
            total, _ = chunked_weighted_sums(labels, weight, hidden, OutputLayer(table), chunk_size)
        return np.array(total), np.array(tape.gradient(total, hidden))

    expected = sums_and_gradient(hidden, weight, 33)
    unread = np.where(weight[..., None] > 0, hidden, np.nan)  # in a chunk of four, those that are learned are alone
    for found, wanted in zip(sums_and_gradient(unread, weight, 4), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert sums_and_gradient(unread, 0 * weight, 4)[0] == 0
