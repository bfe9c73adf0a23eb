"""The config's promises, a whole model against NumPy, and a loss that counts tokens."""

import dataclasses
import json
import re

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from keras import ops
from oracles import scramble, weights_of

from kerasllm import backend
from kerasllm.losses import TokenCrossentropy
from kerasllm.metrics import Perplexity
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.models.presets import PRESETS

SMALL = {"vocab_size": 17, "num_layers": 2, "d_model": 12, "num_heads": 6, "dff": 20, "max_length": 8}
VARIANTS = {
    "as it comes": {},
    "learned, untied": {"positions": "learned", "tie_embeddings": False},
    "learned and relative": {"positions": "learned_relative"},
    "sinusoidal": {"positions": "sinusoidal"},
    "no positions, no bias": {"positions": None, "use_bias": False},
    "grouped, normed heads": {"num_kv_heads": 2, "qk_norm": True, "head_dim": 4},
    "post-norm": {"norm_placement": "post"},
    "sandwich": {"norm_placement": "sandwich", "norm": "rms", "use_bias": False, "attention_bias": True},
    "normed outputs and heads": {"norm_placement": "output", "qk_norm": "full", "num_kv_heads": 2},
    "parallel, two norms": {"parallel": True, "shared_norm": False, "attention_bias": False, "qkv_bias": True},
    "rms, gated": {"norm": "rms", "gated": True, "use_bias": False},
    "norms without scales": {"norm": "rms", "norm_scale": False, "qk_norm": True, "embedding_norm": True},
    "parallel, multi-query": {"parallel": True, "num_kv_heads": 1, "gated": True},
}


def small(**options):
    return TransformerConfig(**{**SMALL, **options})


# The config.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 5}, "`d_model` (12) must be divisible by `num_heads` (5)"),
        ({"num_kv_heads": 4}, "`num_heads` (6) must be divisible by `num_kv_heads` (4)"),
        ({"num_heads": 4}, "Rotary positions need an even `head_dim`, got 3"),
        ({"vocab_size": 0}, "`vocab_size` must be a positive integer, got 0"),
        ({"num_layers": 2.0}, "`num_layers` must be a positive integer, got 2.0"),
        ({"max_length": None}, "`max_length` must be a positive integer, got None"),
        ({"attention_window": 0}, "`attention_window` must be at least 1"),
        ({"positions": "alibi"}, "`positions` must be one of ('rotary', 'learned', 'sinusoidal', 'fairseq_"),
        ({"norm": "batch"}, "`norm` must be one of ('layer', 'rms'), got 'batch'"),
        ({"norm_placement": "mid"}, "`norm_placement` must be one of ('pre', 'post', 'sandwich', 'output'), got"),
        ({"partial_rotary_factor": 0.5, "head_dim": 6}, "partial_rotary_factor=0.5 of head_dim=6: 3 channels"),
        (
            {"rope_theta": [1e4, 1e5, 1e6]},
            "`rope_theta` has 3 values for 2 layers: give one for each layer, or one for",
        ),
        ({"attention_window": [4, 0]}, "`attention_window` must be at least 1"),
        (
            {"attention_window": [4, None], "num_encoder_layers": 2},
            "`attention_window` must be the same in all layers of a model with an encoder",
        ),
        ({"rope_scaling": {"rope_type": "ntk"}}, "`rope_scaling` must be None or a dict whose 'rope_type' is one of"),
        ({"qk_norm": "each"}, "`qk_norm` must be one of (False, True, 'full'), got 'each'"),
        ({"attention_soft_cap": 0}, "`attention_soft_cap` must be positive or None, got 0"),
        ({"parallel": True, "norm_placement": "post"}, "A parallel block needs norm_placement='pre'"),
        ({"activation": "swoosh"}, "Unknown activation 'swoosh'"),
        ({"dropout": 1.0}, "`dropout` must be at least 0 and less than 1, got 1.0"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_config_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        small(**options)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_json(name):
    config = TransformerConfig.preset(name, dropout=0.25)
    assert config.dropout == 0.25
    assert TransformerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_what_differs_by_layer_has_one_form():
    config = small(attention_window=[3, None], rope_theta=[500.0, 500.0])
    assert (config.attention_window, config.rope_theta) == ((3, None), 500.0)
    assert config.to_dict()["attention_window"] == [3, None]
    assert TransformerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    model = CausalLM(config)
    assert CausalLM.from_config(model.get_config()).config == config
    assert [block.attention.attention_window for block in model.transformer.blocks] == [3, None]


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"Unknown preset 'gpt5'. The presets are bart, .*gpt2, gpt2-laptop"):
        TransformerConfig.preset("gpt5")
    with pytest.raises(ValueError, match=r"Unknown TransformerConfig field depth, width. The fields are vocab_size"):
        TransformerConfig.preset("gpt2", width=3, depth=4)
    with pytest.raises(ValueError, match=r"TransformerConfig needs num_heads, dff too"):
        TransformerConfig.from_dict({"vocab_size": 5, "num_layers": 1, "d_model": 8})
    with pytest.raises(dataclasses.FrozenInstanceError):
        small().d_model = 7
    with pytest.raises(TypeError, match="CausalLM needs a TransformerConfig, got dict"):
        CausalLM(SMALL)


# What a config alone tells.

PUBLISHED = {
    # Sums over the published checkpoints' tensors, as https://huggingface.co/openai-community and /meta-llama list
    # them. (The GPT-2 paper's own 117M to 1542M are known to be miscounted.)
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-33b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    # https://huggingface.co/EleutherAI/pythia-70m has a table of all sizes.
    "pythia-70m": 70_426_624,
    "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016,
    "pythia-1b": 1_011_781_632,
    "pythia-1.4b": 1_414_647_808,
    "pythia-2.8b": 2_775_208_960,
    "pythia-6.9b": 6_857_302_016,
    "pythia-12b": 11_846_072_320,
    # https://huggingface.co/google
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    # https://huggingface.co/google-t5
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344,
    # https://huggingface.co/facebook has two positions more in each table, which are never used.
    "bart-base": 139_420_416 - 2 * 2 * 768,
    "bart-large": 406_291_456 - 2 * 2 * 1024,
}
TRANSFORMER = {"transformer-base": 65, "transformer-big": 213}  # millions: https://arxiv.org/abs/1706.03762, table 3
PALM = {"palm-8b": 8.63, "palm-62b": 62.50, "palm-540b": 540.35}  # https://arxiv.org/abs/2204.02311, table 1
LAMDA = {"lamda-2b": 2, "lamda-8b": 8, "lamda-137b": 137}  # https://arxiv.org/abs/2201.08239: without embeddings


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_presets_have_exactly_the_published_number_of_parameters(name, parameters):
    assert TransformerConfig.preset(name).num_parameters() == parameters


def test_presets_have_the_published_billions_of_parameters():
    millions = {name: TransformerConfig.preset(name).num_parameters() / 1e6 for name in TRANSFORMER}
    assert millions == pytest.approx(TRANSFORMER, abs=2)  # the size of the vocabulary is given as "about 37000"
    palm = {name: TransformerConfig.preset(name).num_parameters() / 1e9 for name in PALM}
    assert palm == pytest.approx(PALM, abs=0.01)
    assert {name: TransformerConfig.preset(name).num_parameters(False) // 10**9 for name in LAMDA} == LAMDA


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_parameters_are_counted_as_the_model_has_them(options):
    config = small(**options)
    model = CausalLM(config)
    assert config.num_parameters() == model.count_params()
    tables = [v for v in model.weights if v.name == "embeddings"]
    assert config.num_parameters(embeddings=False) == model.count_params() - sum(np.prod(v.shape) for v in tables)


def test_cost_by_hand():
    config = TransformerConfig(vocab_size=10, num_layers=1, d_model=4, num_heads=2, dff=8, max_length=16)
    attention, feed_forward, norms = (4 + 1) * 12 + (4 + 1) * 4, (4 + 1) * 8 + (8 + 1) * 4, 3 * 8
    parameters = attention + feed_forward + norms
    assert config.num_parameters(embeddings=False) == parameters == 180
    assert config.num_parameters() == 180 + 40
    assert config.flops_per_token(context=5) == 6 * 180 + 12 * 4 * 5
    assert config.flops_per_token() == 6 * 180 + 12 * 4 * 16


# The model.

RNG = np.random.default_rng(0)
IDS = RNG.integers(1, 17, (5, 8)).astype("int32")
LABELS = RNG.integers(1, 17, (5, 8)).astype("int32")
DOCUMENTS = np.sort(RNG.integers(1, 4, (5, 8)), axis=1).astype("int32")
DOCUMENTS[:2, -2:] = 0


@pytest.mark.parametrize("family", ["gpt2", "pythia", "speedrun", "llama", "palm", "lamda", "gemma-2", "mixtral"])
def test_each_family_computes_what_its_paper_says(family):
    own = {"palm": {"head_dim": 4}, "lamda": {"head_dim": 4}, "pythia": {"head_dim": 8}}.get(family, {})
    if family == "gemma-2":
        own = {"num_kv_heads": 2, "attention_window": (3, None), "attention_soft_cap": 2.0}
    config = TransformerConfig.preset(f"{family}-laptop", **{**SMALL, "head_dim": None, **own})
    model = scramble(CausalLM(config))
    weights = weights_of(model)
    np.testing.assert_allclose(model(IDS), oracles.causal_lm(weights, config, IDS), atol=1e-4, rtol=1e-5)
    packed = model({"token_ids": IDS, "document_ids": DOCUMENTS})
    np.testing.assert_allclose(packed, oracles.causal_lm(weights, config, IDS, DOCUMENTS), atol=1e-4, rtol=1e-5)


def test_weights_begin_as_gpt2_begins():
    model = CausalLM(small(d_model=96, dff=384, num_layers=8))
    for v in model.weights:
        residual = "output/kernel" in v.path or "outer/kernel" in v.path
        if len(v.shape) == 2:
            assert np.std(v) == pytest.approx(0.02 * (1 / 4 if residual else 1), rel=0.1), v.path
        else:
            assert (np.array(v) == (v.name == "gamma")).all()


def test_inputs_come_as_tensors_or_dicts():
    model = scramble(CausalLM(small()))
    logits = model(IDS)
    assert logits.shape == (5, 8, 17)
    np.testing.assert_array_equal(model({"token_ids": IDS}), logits)
    np.testing.assert_allclose(model.predict(IDS, verbose=0, batch_size=2), logits, atol=1e-5)
    packed = {"token_ids": IDS, "document_ids": DOCUMENTS}
    np.testing.assert_allclose(model.predict(packed, verbose=0, batch_size=2), model(packed), atol=1e-5)
    assert np.abs(model(packed) - logits).max() > 0.1


# The loss: uneven weights, several batches, the last one short, one of them with nothing to learn.

WEIGHTS = np.zeros((5, 8), "float32")
WEIGHTS[0, :1], WEIGHTS[1] = 1, 1
WEIGHTS[4] = RNG.uniform(0.1, 3, 8)
BATCHES = tf.data.Dataset.from_tensor_slices((IDS, LABELS, WEIGHTS)).batch(2)


def numpy_loss(logits, weights=WEIGHTS, smoothing=0.0):
    """The weighted mean over tokens of the cross-entropy with a smoothed target distribution."""
    logits = np.asarray(logits, "float64")
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    target = (1 - smoothing) * np.eye(17)[LABELS] + smoothing / 17
    return (-(target * log_probabilities).sum(-1) * weights).sum() / weights.sum()


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return scramble(CausalLM(small(num_layers=1)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_fit_and_evaluate_report_the_mean_over_tokens(model, smoothing):
    expected = numpy_loss(model(IDS))  # whatever the smoothing, which is for learning
    loss = TokenCrossentropy(smoothing) if smoothing else None
    model.compile(keras.optimizers.SGD(0.0), loss, run_eagerly=bool(smoothing))
    history = model.fit(BATCHES, shuffle=False, verbose=0).history
    fitted = {name: values[0] for name, values in history.items()}
    evaluated = model.evaluate(BATCHES, return_dict=True, verbose=0)
    for reported in (fitted, evaluated):
        assert reported.keys() == {"loss", "perplexity"}
        assert reported["loss"] == pytest.approx(expected, rel=1e-5)
        assert reported["perplexity"] == pytest.approx(np.exp(expected), rel=1e-5)
    without_weights = model.evaluate(IDS, LABELS, batch_size=2, return_dict=True, verbose=0)
    expected = numpy_loss(model(IDS), np.ones((5, 8)))
    assert without_weights["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_step_follows_the_gradient_of_the_mean_over_tokens(model):
    """The gradient by finite differences: a small step along it must lower NumPy's loss as much as it promises."""
    step = 1e-3
    model.compile(keras.optimizers.SGD(step), run_eagerly=True)
    start, before = model.get_weights(), numpy_loss(model(IDS))
    model.train_on_batch(IDS, LABELS, WEIGHTS)
    moved = sum(((new - old) ** 2).sum() for new, old in zip(model.get_weights(), start, strict=True))
    assert before - numpy_loss(model(IDS)) == pytest.approx(moved / step, rel=0.05)
    model.set_weights(start)


@pytest.mark.traced
def test_a_step_is_traced_once():
    traces = []

    class Counting(CausalLM):
        def train_step(self, data):
            traces.append(data)
            return super().train_step(data)

    model = Counting(TransformerConfig(11, 1, 8, 2, 16, max_length=6))
    model.compile()
    ids = np.ones((4, 6), "int32")
    model.fit(ids, ids, batch_size=2, verbose=0)
    assert len(traces) == 1


def test_batches_with_nothing_to_learn_change_nothing(model):
    model.compile(keras.optimizers.SGD(1.0), run_eagerly=True)
    before = model.get_weights()
    nothing = np.zeros((5, 8), "float32")
    assert model.fit(IDS, LABELS, sample_weight=nothing, verbose=0).history == {"loss": [0.0], "perplexity": [1.0]}
    for new, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(new, old)


def test_another_loss_gets_plain_logits_and_keras_own_rules(model):
    def mean_of_largest_logits(labels, logits):
        return ops.max(logits, axis=-1)

    model.compile(loss=mean_of_largest_logits, weighted_metrics=[Perplexity()])
    reported = model.evaluate(IDS, LABELS, sample_weight=WEIGHTS, return_dict=True, verbose=0)
    logits = ops.convert_to_numpy(model(IDS))
    assert reported["loss"] == pytest.approx((logits.max(-1) * WEIGHTS).mean(), rel=1e-5)
    assert reported["perplexity"] == pytest.approx(np.exp(numpy_loss(logits)), rel=1e-4)


def test_the_loss_alone_is_the_mean_over_tokens():
    logits = RNG.normal(0, 3, (5, 8, 17)).astype("float32")
    assert float(TokenCrossentropy()(LABELS, logits, WEIGHTS)) == pytest.approx(numpy_loss(logits), rel=1e-5)
    copy = TokenCrossentropy.from_config(TokenCrossentropy(label_smoothing=0.3).get_config())
    assert float(copy(LABELS, logits, WEIGHTS)) == pytest.approx(numpy_loss(logits, smoothing=0.3), rel=1e-5)
    with pytest.raises(ValueError, match=r"`label_smoothing` must be at least 0 and less than 1, got 1.5"):
        TokenCrossentropy(1.5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 4e-3)])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_gradient_is_softmax_less_target(smoothing, dtype, tolerance):
    logits = ops.convert_to_tensor(RNG.normal(0, 40, (5, 8, 17)), dtype)  # exp of them would overflow
    loss = TokenCrossentropy(smoothing)
    _, (gradient,) = backend.input_gradients(lambda x: ops.reshape(loss(LABELS, x, WEIGHTS), (1,)), [logits])
    assert keras.backend.standardize_dtype(gradient.dtype) == dtype
    plain = ops.convert_to_numpy(logits).astype("float64")
    softmax = np.exp(plain - plain.max(-1, keepdims=True))
    softmax /= softmax.sum(-1, keepdims=True)
    target = (1 - smoothing) * np.eye(17)[LABELS] + smoothing / 17
    expected = (softmax - target) * (WEIGHTS / WEIGHTS.sum())[..., None]
    gradient = ops.convert_to_numpy(gradient).astype("float64")
    np.testing.assert_allclose(gradient, expected, atol=tolerance * np.abs(expected).max())


def test_a_saved_model_goes_on_as_if_it_had_not_been_saved(tmp_path):
    data = tf.data.Dataset.from_tensors(({"token_ids": IDS, "document_ids": DOCUMENTS}, LABELS, WEIGHTS))
    model = scramble(CausalLM(small(num_layers=1, positions="learned", num_kv_heads=2), name="talker"))
    model.compile("adamw", TokenCrossentropy(0.1))
    model.fit(data.repeat(2), shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert (loaded.name, loaded.config, loaded.loss.label_smoothing) == ("talker", model.config, 0.1)
    for each in (model, loaded):
        each.fit(data.repeat(2), shuffle=False, verbose=0)
    for ours, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert loaded.evaluate(data, verbose=0) == model.evaluate(data, verbose=0)


def test_a_small_model_learns_a_text_by_heart_in_mixed_precision():
    model = CausalLM(small(num_layers=1, num_heads=2), dtype="mixed_bfloat16")
    assert numpy_loss(model(IDS)) == pytest.approx(np.log(17), abs=0.1)
    model.compile(keras.optimizers.Adam(0.03))
    model.fit(tf.data.Dataset.from_tensors((IDS, LABELS, WEIGHTS)).repeat(60), shuffle=False, verbose=0)
    assert numpy_loss(model(IDS)) < 0.1
    assert (model.transformer.compute_dtype, model.variable_dtype) == ("bfloat16", "float32")
