"""Looking inside: what is recorded, edited and attributed, on every style of block, beside plain computation."""

import keras
import numpy as np
import pytest
from keras import ops
from oracles import scramble

from kerasllm import generation, interpret
from kerasllm.models import CausalLM, MaskedLM, Seq2SeqLM, SequenceClassifier, TransformerConfig
from kerasllm.tokenizers import Tokenizer

SIZES = {"vocab_size": 31, "num_layers": 2, "d_model": 32, "num_heads": 4, "dff": 20, "max_length": 64}
IDS = np.random.default_rng(0).integers(3, 29, (2, 7))
PAIR = {"source_ids": IDS, "target_ids": IDS[:, :5]}
STYLES = {
    "gpt2-laptop": (CausalLM, {}),
    "llama-laptop": (CausalLM, {"output_bias": True}),
    "gemma-2-laptop": (CausalLM, {"attention_window": (3, None)}),
    "pythia-laptop": (CausalLM, {}),
    "palm-laptop": (CausalLM, {"head_dim": 8}),
    "speedrun-laptop": (CausalLM, {}),
    "bert-laptop": (MaskedLM, {}),
    "transformer-laptop": (Seq2SeqLM, {"num_encoder_layers": 1}),
    "t5-laptop": (Seq2SeqLM, {"num_encoder_layers": 1, "activation": "gelu"}),  # ReLU's kinks are integrated slowly
}
QUICK = ["llama-laptop", "bert-laptop"]
ALL = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.soak) for name in STYLES]
MODELS = {}


def make(style):
    """A model of a style with weights far from their initial values, and inputs for it."""
    kind, fields = STYLES[style]
    if style not in MODELS:
        MODELS[style] = scramble(kind(TransformerConfig.preset(style, **{**SIZES, "num_kv_heads": None, **fields})))
    return MODELS[style], PAIR if kind is Seq2SeqLM else IDS


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["abcdefghijklmnopqrstuvwxyz"], kind="char", special_tokens=["<|mask|>"], progress=False)


@pytest.mark.soak
@pytest.mark.parametrize("style", STYLES)
def test_a_function_that_changes_nothing_changes_nothing(style):
    model, inputs = make(style)
    expected, predicted = numpy(model(inputs)), model.predict(inputs, verbose=0)
    with interpret.edit(model, {"*": lambda x: x}):
        np.testing.assert_array_equal(model(inputs), expected)
        np.testing.assert_array_equal(model.predict(inputs, verbose=0), predicted)
    np.testing.assert_array_equal(model.predict(inputs, verbose=0), predicted)


@pytest.mark.parametrize("style", ALL)
def test_attributions_add_up_to_the_logit(style):
    model, inputs = make(style)
    logits = numpy(model(inputs))
    parts = interpret.attribute_logit(model, inputs, position=3, token=[5, 7])
    np.testing.assert_allclose(sum(parts.values()), logits[[0, 1], 3, [5, 7]], atol=1e-4)
    heads = [name for name in parts if "/attention/head_" in name]
    assert len(heads) == 8 and {"embedding", "block_1/feed_forward", "block_0/bias", "bias"} <= parts.keys()
    against = interpret.attribute_logit(model, inputs, contrast=4)
    best = logits[:, -1].max(axis=-1)
    np.testing.assert_allclose(sum(against.values()), best - logits[:, -1, 4], atol=1e-4)


def test_a_head_adds_what_is_missing_without_it():
    """Where nothing stands between it and the last norm, which divides as it did."""
    model, _ = make("pythia-laptop")
    name, norm = "transformer/block_1/output", model.transformer.final_norm
    before = interpret.activations(model, IDS, name)[name]
    deviation = np.sqrt(before.var(axis=-1, keepdims=True) + norm.epsilon)

    def logits(stream):
        normed = (stream - stream.mean(axis=-1, keepdims=True)) / deviation * numpy(norm.gamma) + numpy(norm.beta)
        return numpy(model.logits(normed))[:, -1, 5]

    parts = interpret.attribute_logit(model, IDS, token=5)
    for head in range(4):
        alone = (np.arange(4) != head).astype("float32")[:, None, None]
        with interpret.edit(model, {"block_1/attention/heads": lambda x, alone=alone: x * alone}):
            without = interpret.activations(model, IDS, name)[name]
        expected = logits(before) - logits(without)
        np.testing.assert_allclose(parts[f"block_1/attention/head_{head}"], expected, atol=1e-4)


@pytest.mark.parametrize("style", ALL)
def test_patching_everything_is_the_other_run(style):
    model, inputs = make(style)
    one = inputs if isinstance(inputs, dict) else {"token_ids": inputs}
    clean = {name: value[:1] for name, value in one.items()}
    corrupted = {name: value[1:] for name, value in one.items()}
    expected = numpy(model(clean))
    seen = []
    everything = ("transformer/*",) if "token_ids" in one else ("encoder/*", "decoder/*")
    found = interpret.patch(
        model, clean, corrupted, lambda logits: seen.append(logits) or logits[0, -1, 5], [everything]
    )
    np.testing.assert_allclose(seen[0], expected, atol=1e-5)
    assert found.restored == pytest.approx([1.0], abs=1e-4)
    grid = interpret.patch(model, clean, corrupted, lambda logits: logits[0, -1, 5])
    T = expected.shape[1]
    assert grid.values.shape == (3, T) and grid.rows[-1] == "block_1/output"
    assert grid.restored[-1] == pytest.approx([0.0] * (T - 1) + [1.0], abs=1e-4)
    heads = interpret.patch(model, clean, corrupted, lambda logits: logits[0, -1, 5], "heads", batch_size=3)
    assert heads.values.shape == (2, 4)


@pytest.mark.soak
def test_an_edit_acts_within_and_never_after(tokenizer):
    """Eagerly, in predict and in the compiled loop, whatever was compiled before, and on one model alone."""
    model, _ = make("llama-laptop")
    other = scramble(CausalLM(model.config), seed=1)
    change = {"block_0/feed_forward/output": lambda x: 2 * x}
    twin = CausalLM(model.config)
    twin.set_weights(model.get_weights())
    for weight in twin.transformer.blocks[0].feed_forward.outer.weights:
        weight.assign(2 * weight)

    def everything(model):
        return numpy(model(IDS)), model.predict(IDS, verbose=0), generation.generate_ids(model, [[3, 4, 5]], 6)

    before, expected, of_other = everything(model), everything(twin), everything(other)
    assert before[2] != expected[2]
    with interpret.edit(model, change):
        for _ in range(2):
            for found, wanted in zip(everything(model), expected, strict=True):
                np.testing.assert_allclose(found, wanted, atol=1e-5)
        np.testing.assert_array_equal(other(IDS), of_other[0])
    for found, wanted in zip(everything(model), before, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_keras_own_models_can_be_edited_too():
    from kerasllm.layers import Transformer

    model = keras.Sequential(
        [keras.layers.Embedding(9, 8), Transformer(1, 8, 2, 8, name="transformer"), keras.layers.Dense(9)]
    )
    before = model.predict(IDS % 9, verbose=0)
    with interpret.edit(model, {"block_0/*/output": lambda x: 0 * x}):
        changed = model.predict(IDS % 9, verbose=0)
    assert np.abs(changed - before).max() > 1e-3
    np.testing.assert_array_equal(model.predict(IDS % 9, verbose=0), before)
    assert "transformer/block_0/output" in interpret.names(model)


def test_long_texts_are_read_in_chunks():
    model, inputs = make("llama-laptop")
    whole = interpret.activations(model, inputs)
    chunks = interpret.activations(model, inputs, chunk_size=3)
    assert whole.keys() == chunks.keys() == set(interpret.names(model))
    for name, array in whole.items():
        seen = np.tril(np.ones((7, 7))) if name.endswith("scores") else 1
        np.testing.assert_allclose(chunks[name] * seen, array * seen, atol=1e-5, err_msg=name)
    assert interpret.activations(model, IDS, "attention/heads").keys() == {
        f"transformer/block_{i}/attention/heads" for i in range(2)
    }


@pytest.mark.parametrize("style", ALL)
def test_the_last_lens_is_the_model(style, tokenizer):
    model, _ = make(style)
    lens = interpret.logit_lens(model, tokenizer, "abc", "def")
    text = interpret.reading.read(model, tokenizer, "abc", "def")
    logits = numpy(model(text.inputs))[0]
    np.testing.assert_array_equal(lens.logits(lens.places[-1]), logits)
    np.testing.assert_array_equal(lens.ids[-1, :, 0], logits.argmax(axis=-1))
    assert lens.places[0] == "embedding" and lens.places[-1] == "block_1/output"
    assert len(lens.tokens) == len(logits)
    assert ("block_0/before_feed_forward" in lens.places) == (not model.config.parallel)


@pytest.mark.parametrize("style", ALL)
def test_saliency_adds_up(style, tokenizer):
    model, _ = make(style)
    text, target, contrast = ("ab<|mask|>d", "x", "y") if style == "bert-laptop" else ("abcd", "efg", "x")
    found = interpret.saliency(model, tokenizer, text, target, contrast=contrast)
    difference = found.scores - found.baseline_scores
    np.testing.assert_allclose(found.values.sum(axis=1), difference, rtol=0.01, atol=1e-5)
    read = interpret.reading.read(model, tokenizer, text, target)
    logits = numpy(model(read.inputs))[0]
    question = interpret.reading.ask(model, read, target, contrast)
    rows = zip(question.positions, question.targets, question.contrasts, strict=True)
    np.testing.assert_allclose(found.scores, [logits[p, t] - logits[p, c] for p, t, c in rows], atol=1e-4)
    if style != "bert-laptop":
        assert not found.values[0, -2:].any() and found.values[-1, -2:].any()  # what comes later
    left_out = interpret.saliency(model, tokenizer, text, target, method="occlusion")
    assert left_out.values.shape == found.values.shape == (len(found.targets), len(found.tokens))


@pytest.mark.soak
def test_a_label_is_explained(tokenizer):
    config = TransformerConfig.preset("bert-laptop", **SIZES)
    model = scramble(SequenceClassifier(config, labels=["good", "bad"]))
    found = interpret.saliency(model, tokenizer, "abc", "bad", contrast="good")
    logits = numpy(model(np.array([tokenizer.encode("abc")])))[0]
    assert found.scores == pytest.approx([logits[1] - logits[0]], abs=1e-4)
    assert found.values.sum() == pytest.approx(found.scores[0] - found.baseline_scores[0], rel=0.01)
    assert "bad / good" in found.html() and "Why" in interpret.explain(model, tokenizer, "abc")


def test_what_is_not_there_is_said(tokenizer):
    model, _ = make("llama-laptop")
    for functions, kind, sentence in (
        ({"block_0/atention/output": ops.tanh}, ValueError, "atention/output'. Did you mean '.*block_0/attention/out"),
        ({"block_0/output": 1.0}, TypeError, "by a function .tensor. -> tensor, got float"),
        ({"block_0/output": lambda x: x[..., :1]}, ValueError, r"the shape .* given, \(2, 7, 32\), got \(2, 7, 1\)"),
    ):
        with pytest.raises(kind, match=sentence), interpret.edit(model, functions):
            model(IDS)
    with pytest.raises(ValueError, match="token id from 0 to 30, got 99"):
        interpret.attribute_logit(model, IDS, token=99)
    with pytest.raises(ValueError, match="of as many tokens"):
        interpret.patch(model, IDS[:1], IDS[:1, :3], lambda logits: 0.0)
    with pytest.raises(ValueError, match="one token or as many as the target, 2, got 3"):
        interpret.saliency(model, tokenizer, "ab", "cd", contrast="xyz")
