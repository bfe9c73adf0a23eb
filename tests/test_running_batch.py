"""Texts that are continued side by side: each is what it is alone, whoever comes and goes beside it."""

import numpy as np
import pytest

import kerasllm
from kerasllm.generation import row_cache
from kerasllm.generation.kept_texts import KeptTexts
from kerasllm.generation.rows import RowSettings
from kerasllm.generation.running_batch import RunningBatch
from kerasllm.generation.samplers import Sampler

END = 7


@pytest.fixture(scope="module")
def model():
    config = kerasllm.models.TransformerConfig(
        97, num_layers=2, d_model=32, num_heads=4, num_kv_heads=2, dff=64, max_length=128, attention_window=(None, 12)
    )
    model = kerasllm.models.CausalLM(config)
    for seed, weight in enumerate(model.weights):
        weight.assign(np.random.default_rng(seed).normal(size=weight.shape) * 0.3)
    return model


def read(batch, ids):
    reading = batch.begin(ids)
    while reading.read_piece():
        pass
    return reading


@pytest.mark.parametrize(
    "way",
    [
        pytest.param("plain", marks=pytest.mark.soak),
        pytest.param("runs", marks=[pytest.mark.soak, pytest.mark.optimised]),
    ],
)
def test_texts_are_what_they_are_alone(model, way, monkeypatch):
    monkeypatch.setattr(RunningBatch, "_way", way)
    monkeypatch.setattr(row_cache, "SMALLEST_LENGTH", 64)
    random = np.random.default_rng(0)
    asked = [  # prompt, sampler, most tokens
        (random.integers(8, 97, size=length).tolist(), Sampler(**settings), most)
        for length, settings, most in (
            (1, {"temperature": 0.0}, 30),
            (40, {"temperature": 1.2, "top_p": 0.8}, 10),
            (5, {"temperature": 0.7, "top_k": 9}, 59),  # the ring turns around, and grows
            (33, {"temperature": 0.0}, 12),
        )
    ]
    batch = RunningBatch(model, 90, most_rows=3)
    texts, rows = [[] for _ in asked], {}
    for number, (prompt, sampler, most) in enumerate(asked):
        while batch.num_rows == 2:  # so that two find a ring that others have begun
            run(batch, rows, texts)
        settings = RowSettings(most, sampler, seed=5, end_ids=(END,), reports=number == 3)
        rows[batch.join(read(batch, prompt), settings)] = number
        run(batch, rows, texts)
    while rows:
        run(batch, rows, texts)
    for (prompt, sampler, most), text in zip(asked, texts, strict=True):
        options = {"sampler": sampler, "seed": 5, "vocab_size": 90, "end_ids": [END]}
        assert text == kerasllm.generation.generate_ids(model, prompt, most, **options)


@pytest.mark.soak
@pytest.mark.parametrize("way", ["plain", "runs"])
def test_a_model_of_16_bits_writes_what_it_writes_alone(way, monkeypatch):
    monkeypatch.setattr(RunningBatch, "_way", way)
    config = kerasllm.models.TransformerConfig(97, num_layers=2, d_model=32, num_heads=4, dff=64, max_length=64)
    model = kerasllm.models.CausalLM(config, dtype="mixed_bfloat16")
    batch, prompts, texts = RunningBatch(model, 90), [[9, 3, 4], [8] * 20], [[], []]
    settings = RowSettings(12, Sampler(temperature=0.0))
    rows = {batch.join(read(batch, prompt), settings): number for number, prompt in enumerate(prompts)}
    while rows:
        run(batch, rows, texts)
    for prompt, text in zip(prompts, texts, strict=True):
        assert text == kerasllm.generation.generate_ids(model, prompt, 12, vocab_size=90, sampler="greedy")


def run(batch, rows, texts):
    for row, drawn in batch.run(5).items():
        texts[rows[row]] += drawn.ids
        if drawn.reports:
            ids = np.array(row.ids[: len(row.ids) - len(drawn.ids) + 1])
            logits = model_logits(batch.model, ids[:-1])[:90]
            expected = logits - np.log(np.exp(logits).sum())
            log_probability, likeliest, of_likeliest = drawn.reports[0]
            np.testing.assert_allclose(log_probability, expected[ids[-1]], atol=1e-4)
            np.testing.assert_allclose(of_likeliest, expected[likeliest], atol=1e-4)
            assert likeliest[0] == expected.argmax()
        if drawn.has_ended:
            batch.leave(row)
            del rows[row]


def model_logits(model, ids):
    return np.asarray(model(np.array(ids, "int32")[None]))[0, -1].astype("float64")


def test_what_was_read_is_not_read_again(model):
    batch = RunningBatch(model, most_rows=1)
    first = list(range(20, 60))
    row = batch.join(read(batch, first), RowSettings(8, Sampler(0.0)))
    batch.run(8)
    batch.leave(row)
    longer = [*row.ids, 11, 12, 13]
    reading = read(batch, longer)
    assert reading.known == len(row.ids) - 1
    row = batch.join(reading, RowSettings(10, Sampler(0.0)))
    assert batch.run(10)[row].ids == kerasllm.generation.generate_ids(model, longer, 10)
    other = batch.begin([*first[:30], 1, 2, 3])
    assert other.known == 30, "a beginning of what was read serves too"


def test_texts_that_were_not_used_for_longest_go_first():
    def cache(count):
        return [np.zeros((1, 2, count, 4), "float32")]

    size = 64 * 8 * 4
    kept = KeptTexts(most_bytes=2 * size)
    for first in (1, 2):
        kept.keep([first] * 20, cache)
    assert kept.begun_with([1] * 20, 128)[0] == 20
    kept.keep([3] * 20, cache)
    assert [kept.begun_with([first] * 20, 64)[0] for first in (1, 2, 3)] == [20, 0, 20]
    kept.keep([1] * 25, cache)
    assert kept.num_bytes == 2 * size, "a text goes where a longer one begins with it"


def test_what_a_batch_cannot_do_is_said(model):
    batch = RunningBatch(model, most_rows=1)
    with pytest.raises(ValueError, match="does not fit the model's context of 128"):
        batch.begin([1] * 128)
    with pytest.raises(ValueError, match="token id 97"):
        batch.begin([97])
    reading = batch.begin([1])
    batch.join(reading, RowSettings(1))
    with pytest.raises(ValueError, match="All 1 rows are taken"):
        batch.join(reading, RowSettings(1))
    with pytest.raises(TypeError, match="by a CausalLM, got a Sequential"):
        RunningBatch(__import__("keras").Sequential())
