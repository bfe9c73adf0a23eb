"""Rotary positions: the frequencies that transformers gave, and kinds that depend on the length of a text."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasllm
from kerasllm.evaluation import perplexity
from kerasllm.generation import generate_ids
from kerasllm.huggingface.families import FAMILIES
from kerasllm.huggingface.settings import Settings
from kerasllm.layers.rotary import Rotation
from kerasllm.models import CausalLM, TransformerConfig

TRAINED = {"original_max_position_embeddings": 32}
YARN = {"rope_type": "yarn", "factor": 4.0, **TRAINED}
EDGES = {"beta_fast": 4.0, "beta_slow": 0.5, "truncate": False, "mscale": 0.7, "mscale_all_dim": 0.4}
LONGROPE = {
    "rope_type": "longrope",
    "factor": 2.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    **TRAINED,
}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 64}
LLAMA_3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **TRAINED}
# From `ROPE_INIT_FUNCTIONS` of transformers 5.24, for heads of 8 channels, a base of 500 and
# max_position_embeddings=64: the length of the text, the frequencies and the attention factor.
RECORDED = [
    ({"rope_type": "linear", "factor": 3.0}, 1, [0.3333333, 0.07049141, 0.01490712, 0.003152472], 1.0),
    (DYNAMIC, 64, [1.0, 0.2114742, 0.04472136, 0.009457416], 1.0),
    (DYNAMIC, 100, [1.0, 0.1644894, 0.02705676, 0.004450549], 1.0),
    (YARN, 1, [1.0, 0.1321714, 0.01118034, 0.002364354], 1.1386294),
    ({**YARN, **EDGES}, 1, [1.0, 0.1113971, 0.01118034, 0.002364354], 1.0394038),
    ({**YARN, "attention_factor": 1.3}, 1, [1.0, 0.1321714, 0.01118034, 0.002364354], 1.3),
    (LONGROPE, 32, [1.0, 0.1922493, 0.0372678, 0.007274935], 1.0954451),
    (LONGROPE, 33, [0.5, 0.07049141, 0.01118034, 0.001891483], 1.0954451),
    (LLAMA_3, 1, [1.0, 0.056941, 0.01118034, 0.002364354], 1.0),
    ({"rope_type": "proportional", "factor": 2.0}, 1, [0.5, 0.1057371, 0.0, 0.0], 1.0),
]


@pytest.mark.parametrize(("scaling", "length", "frequencies", "factor"), RECORDED, ids=lambda value: str(value)[:30])
def test_frequencies_are_those_that_transformers_gave(scaling, length, frequencies, factor):
    share = 0.5 if scaling["rope_type"] == "proportional" else 1.0
    rotation = Rotation(8, 500.0, share, scaling)
    np.testing.assert_allclose(rotation.frequencies(np.array(length)), frequencies, rtol=1e-6)
    cos, sin = rotation.table(np.array([0, 7]), np.array([length]), "float32")
    np.testing.assert_allclose(cos[0], np.full(4, factor), rtol=1e-6)
    np.testing.assert_allclose(sin[1], factor * np.sin(7 * np.array(frequencies)), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling": {"rope_type": "yarn", **TRAINED}}, "of type 'yarn' needs a positive 'factor', got None"),
        ({"rope_scaling": {**YARN, "mscale": -1}}, "of type 'yarn' needs a positive 'mscale', got -1"),
        ({"rope_scaling": {**LONGROPE, "long_factor": 2.0}}, "needs a list of positive numbers, 'long_factor'"),
        ({"rope_scaling": {**LONGROPE, "factor": None}}, "of type 'longrope' needs a positive 'factor', got None"),
        ({"rope_scaling": LONGROPE, "partial_rotary_factor": 0.5}, "each pair of 4 channels that are turned, 2, got 4"),
        ({"rope_scaling": DYNAMIC, "partial_rotary_factor": 0.25}, "'dynamic' needs more than one pair of channels"),
        ({"rope_scaling": DYNAMIC, "num_encoder_layers": 2}, "depends on the length of a text, which in a model with"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_turned_is_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TransformerConfig(40, num_layers=2, d_model=32, num_heads=4, dff=64, **changes)


# Kinds that depend on the length of a text.


@pytest.fixture(scope="module")
def model():
    """A layer of each kind, which turn texts of more than 9 and 7 tokens otherwise."""
    kinds = ({**DYNAMIC, "original_max_position_embeddings": 9}, {**LONGROPE, "original_max_position_embeddings": 7})
    sizes = {"num_layers": 2, "d_model": 32, "num_heads": 4, "dff": 64, "max_length": 64}
    config = TransformerConfig(40, **sizes, rope_scaling=kinds, attention_window=(5, None))
    model, draw = CausalLM(config), np.random.default_rng(1)
    for weight in model.trainable_variables:
        weight.assign(weight + 0.3 * draw.standard_normal(weight.shape))
    return model


IDS = np.random.default_rng(0).integers(1, 40, (3, 20)).astype("int32")
LENGTHS = [3, 12, 20]


@pytest.mark.soak
def test_text_with_a_cache_is_text_without(model):
    prompts = [IDS[0, :4].tolist(), IDS[1, :11].tolist(), IDS[2, :6].tolist()]
    texts = generate_ids(model, prompts, max_new_tokens=20)
    assert texts == generate_ids(model, prompts, max_new_tokens=20, cached=False)
    for prompt, text in zip(prompts, texts, strict=True):
        for i in range(0, 20, 3):
            logits = np.array(model(np.array([prompt + text[:i]])))[0, -1]
            assert logits.argmax() == text[i]


class Letters:
    """A tokenizer whose texts are ids, written out."""

    start_id = end_id = pad_id = None

    def encode(self, text):
        return [int(number) for number in text.split()]


def test_padding_is_no_text(model):
    visible = np.arange(20) < np.array(LENGTHS)[:, None]
    padded = model(IDS, padding_mask=visible)
    compiled = tf.function(lambda ids, mask: model(ids, padding_mask=mask), reduce_retracing=True)
    shape = tf.TensorSpec((None, None), "int32"), tf.TensorSpec((None, None), "bool")
    unknown = compiled.get_concrete_function(*shape)(tf.constant(IDS), tf.constant(visible))
    scored = perplexity(
        model, Letters(), [" ".join(map(str, row[:n])) for row, n in zip(IDS, LENGTHS, strict=True)], context=20
    )
    nll = 0
    for row, n in enumerate(LENGTHS):
        alone = np.array(model(IDS[row : row + 1, :n]))[0]
        np.testing.assert_allclose(padded[row, :n], alone, atol=2e-5)
        np.testing.assert_allclose(unknown[row, :n], alone, atol=2e-5)
        before_last = np.array(model(IDS[row : row + 1, : n - 1]), "float64")[0]
        chances = before_last - np.log(np.exp(before_last).sum(-1, keepdims=True))
        nll -= np.take_along_axis(chances, IDS[row, 1:n, None], -1).sum()
    assert scored.loss == pytest.approx(nll / (sum(LENGTHS) - 3), rel=1e-5)


def test_a_model_that_cannot_be_told_where_texts_end_is_refused():
    block = kerasllm.layers.TransformerBlock(8, 2, 8, rope_scaling={**DYNAMIC, "factor": 3})
    model = keras.Sequential([keras.layers.Embedding(40, 8), block, keras.layers.Dense(40)])
    with pytest.raises(ValueError, match="cannot be told where a padded text ends: make it a CausalLM"):
        generate_ids(model, [[1, 2]], cached=False)
    with pytest.raises(ValueError, match="cannot be told where a padded text ends: make it a CausalLM"):
        perplexity(model, Letters(), "1 2 3", context=8)


def test_each_packed_document_is_a_text(model):
    ids = np.concatenate([IDS[row, :n] for row, n in enumerate(LENGTHS)])[None]
    documents = np.repeat([1, 2, 3], LENGTHS)[None]
    packed = np.array(model({"token_ids": ids, "document_ids": documents}))[0]
    for row, n in enumerate(LENGTHS):
        alone = np.array(model(IDS[row : row + 1, :n]))[0]
        np.testing.assert_allclose(packed[documents[0] == row + 1], alone, atol=2e-5)


# What config.json says.


def fields(kind, **values):
    sizes = {"vocab_size": 9, "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4}
    values = {**sizes, "intermediate_size": 8, "rms_norm_eps": 1e-5, "max_position_embeddings": 64, **values}
    settings = Settings({"model_type": kind, **values}, "config.json")
    config = TransformerConfig.from_dict(FAMILIES[kind].fields(settings))
    settings.finish()
    return config


def test_both_spellings_are_read():
    numbers = {"factor": 4.0, **TRAINED}
    for older in ({"rope_type": "yarn", **numbers}, {"type": "yarn", **numbers}):
        assert fields("llama", rope_scaling=older, rope_theta=500).rope_scaling == YARN
        assert fields("llama", rope_parameters={**older, "rope_theta": 500.0}).rope_theta == 500.0
    assert (
        fields("llama", rope_scaling={"type": "yarn", "factor": 4.0}).rope_scaling["original_max_position_embeddings"]
        == 64
    )
    assert fields("llama", rope_scaling=YARN).max_length == 128  # longer than `max_position_embeddings`
    lists = {name: LONGROPE[name] for name in ("short_factor", "long_factor")}
    for name in ("longrope", "su", "yarn"):
        assert fields("phi3", rope_scaling={"type": name, **lists}, **TRAINED).rope_scaling == LONGROPE
    dynamic = fields("llama", rope_scaling={"type": "dynamic", "factor": 2.0, **TRAINED})
    assert (dynamic.rope_scaling, dynamic.max_length) == (DYNAMIC, 128)
    assert fields("llama", partial_rotary_factor=0.5).partial_rotary_factor == 1.0  # transformers turns all of it
    with pytest.raises(ValueError, match="asks for rope_type='linear', and kerasllm computes only 'default' or 'longr"):
        fields("phi3", rope_scaling={"type": "linear", "factor": 2.0})


def test_rotations_by_kind_of_layer_are_read():
    by_kind = {"sliding_attention": {"rope_type": "default"}, "full_attention": {**YARN, "rope_theta": 7.0}}
    config = fields("gemma3_text", rope_parameters=by_kind, layer_types=list(by_kind))
    assert (config.rope_scaling, config.rope_theta, config.max_length) == ((None, YARN), (10000.0, 7.0), 128)
    written = {"model_type": "gemma3_text", **FAMILIES["gemma3_text"].settings(config)}
    again = TransformerConfig.from_dict(FAMILIES["gemma3_text"].fields(Settings(written, "config.json")))
    assert rotations(again) == rotations(config)


def rotations(config):
    names = ("rope_theta", "rope_scaling", "partial_rotary_factor", "max_length")
    return {name: getattr(config, name) for name in names}


REAL = {
    "microsoft__Phi-3-mini-128k-instruct": ("longrope", 131072),
    "microsoft__Phi-4-mini-instruct": ("longrope", 131072),
    "deepseek-ai__deepseek-coder-1.3b-instruct": ("linear", 16384),
    "meta-llama__Llama-3.1-8B": ("llama3", 131072),
}


@pytest.mark.parametrize("name", REAL)
def test_real_settings_are_read(name, shared_data):
    values = json.loads((shared_data / "hf_configs" / name / "config.json").read_text())
    family = FAMILIES[values["model_type"]]
    config = TransformerConfig.from_dict(family.fields(Settings(values, name)))
    assert (config.rope_scaling["rope_type"], config.max_length) == REAL[name]
    written = {"model_type": values["model_type"], **family.settings(config)}
    again = TransformerConfig.from_dict(family.fields(Settings(written, name)))
    assert rotations(again) == rotations(config)
