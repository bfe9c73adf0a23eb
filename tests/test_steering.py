"""Steering: directions are mean differences, added at each token, in calls, in generation and in SavedModels."""

import numpy as np
import pytest
from keras import ops
from oracles import scramble

import kerasllm
from kerasllm import interpret
from kerasllm.generation import SynthID, generate_ids
from kerasllm.layers import taps
from kerasllm.models import CausalLM, MaskedLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz "


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([LETTERS], kind="char", progress=False)


@pytest.fixture(scope="module")
def model(tokenizer):
    sizes = {"num_layers": 2, "d_model": 16, "num_heads": 2, "num_kv_heads": None, "dff": 16, "max_length": 64}
    return scramble(CausalLM(TransformerConfig.preset("llama-laptop", vocab_size=tokenizer.vocab_size, **sizes)))


@pytest.fixture(scope="module")
def vector(model, tokenizer):
    return interpret.steering_vector(model, tokenizer, ["abc", "abcdefgh"], ["xyz zyx", "no", "mn"], layer=1)


def behind_block_1(model, ids):
    with taps.recording("block_1/output") as found:
        model(np.array([ids]), training=False)
    return np.array(next(iter(found.values()))[0])[0]


def test_a_direction_is_a_difference_of_means(model, tokenizer, vector):
    means = [
        np.mean([behind_block_1(model, tokenizer.encode(text))[1:].mean(axis=0) for text in texts], axis=0)
        for texts in (["abc", "abcdefgh"], ["xyz zyx", "no", "mn"])
    ]
    np.testing.assert_allclose(vector.direction, means[0] - means[1], atol=1e-5)
    assert vector.layer == 1 and vector.name == "block_1/output"
    assert interpret.steering_vector(model, tokenizer, ["abc"], ["no"]).layer == 1  # the middle one


def test_strength_times_the_direction_is_added_to_each_token(model, tokenizer, vector):
    ids = tokenizer.encode("hello you")
    plain = np.array(model(np.array([ids])))
    with interpret.steer(model, vector, -2.5):
        steered, logits = behind_block_1(model, ids), np.array(model(np.array([ids])))
    np.testing.assert_allclose(steered, behind_block_1(model, ids) - 2.5 * vector.direction, atol=1e-5)
    assert np.abs(logits - plain).max() > 0.1
    with interpret.steer(model, vector, 0.0):
        np.testing.assert_array_equal(np.array(model(np.array([ids]))), plain)
    np.testing.assert_array_equal(np.array(model(np.array([ids]))), plain)


def test_texts_are_written_by_the_steered_model(model, tokenizer, vector):
    ids = tokenizer.encode("hello")
    plain, drawn = generate_ids(model, ids, 5), []
    with interpret.steer(model, vector, 3.0):
        for _ in range(5):
            drawn.append(int(ops.argmax(model(np.array([ids + drawn]))[0, -1])))
        assert generate_ids(model, ids, 5) == drawn != plain
    assert generate_ids(model, ids, 5) == plain


@pytest.mark.soak
def test_what_steering_costs_is_told(model, tokenizer, vector):
    told = interpret.steering_effect(
        model, tokenizer, vector, ["some neutral text"], (0, 3.0), prompts=["a", "b"], max_new_tokens=4,
        has_property=lambda texts: ["a" in text for text in texts],
    )  # fmt: skip
    with interpret.steer(model, vector, 3.0):
        texts = kerasllm.generate(model, tokenizer, ["a", "b"], 4)
        perplexity = kerasllm.evaluation.perplexity(model, tokenizer, ["some neutral text"]).perplexity
    plain = kerasllm.evaluation.perplexity(model, tokenizer, ["some neutral text"]).perplexity
    assert told[0].ratio == 1 and told[0].perplexity == plain and told[1].texts == texts
    assert told[1].perplexity == pytest.approx(perplexity) and told[1].ratio == pytest.approx(perplexity / plain)
    assert told[1].share == np.mean(["a" in text for text in texts])


@pytest.mark.soak
@pytest.mark.parametrize("compiled", [False, True])
def test_a_saved_model_is_steered_and_marked_by_its_inputs(model, tokenizer, vector, compiled, tmp_path):
    import tensorflow as tf

    watermark = SynthID([654, 400, 836, 123], ngram_len=3)
    options = {"watermark": watermark, "steering": {"calm": vector}, "compiled": compiled}
    kerasllm.export.saved_model(model, tokenizer, tmp_path / "exported", **options)
    signatures = tf.saved_model.load(str(tmp_path / "exported")).signatures
    settings = {"max_new_tokens": 20, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 3}
    settings = {name: tf.constant(value) for name, value in settings.items()}
    given = {"temperature": 1.0, "seed": 3, "watermark": watermark}
    for strength in (0.0, 3.0):
        texts = signatures["generate"](text=tf.constant(["hello", "you"]), calm=tf.constant(strength), **settings)[
            "text"
        ]
        with interpret.steer(model, vector, strength):
            expected = kerasllm.generate(model, tokenizer, ["hello", "you"], 20, **given)
        assert [text.decode() for text in texts.numpy()] == expected
    assert list(signatures["serving_default"].structured_input_signature[1]) == ["text"]


@pytest.mark.parametrize(
    ("steer", "error", "message"),
    [
        (
            lambda model, vector: interpret.steer(model, "calm"),
            TypeError,
            "What steers is a SteeringVector, got 'calm'",
        ),
        (lambda model, vector: interpret.steer(model, vector, float("nan")), ValueError, "`strength` must be finite"),
        (
            lambda model, vector: interpret.steer(model, interpret.SteeringVector(np.zeros(3), 0)),
            ValueError,
            r"The vector has shape \(3,\), and causal_lm.* a width of 16",
        ),
    ],
)
def test_what_cannot_steer_is_refused(model, vector, steer, error, message):
    with pytest.raises(error, match=message), steer(model, vector):
        pass


def test_what_has_no_direction_is_refused(model, tokenizer):
    with pytest.raises(ValueError, match="`layer` must be less than 2"):
        interpret.steering_vector(model, tokenizer, ["ab"], ["cd"], layer=2)
    with pytest.raises(ValueError, match="are lists of texts, got 'ab'"):
        interpret.steering_vector(model, tokenizer, "ab", ["cd"])
    with pytest.raises(ValueError, match="A text needs two tokens"):
        interpret.steering_vector(model, tokenizer, ["a"], ["cd"])
    masked = MaskedLM(TransformerConfig(tokenizer.vocab_size, 1, 8, 1, 8, max_length=16))
    with pytest.raises(TypeError, match="A CausalLM is steered, got a MaskedLM"):
        interpret.steering_vector(masked, tokenizer, ["ab"], ["cd"])
