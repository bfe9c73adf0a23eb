"""Perplexity against figures worked out in NumPy from hand-made models whose every prediction is known."""

import math
import re
from itertools import pairwise

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from kerasllm.evaluation import perplexity, score_tokens
from kerasllm.evaluation.windows import rolling_windows

ALPHABET = "\0\1 abcdé\n"  # id 0 is padding, id 1 the end of a document
TEXT = "abc dé\nbad  cab éd"


class Characters:
    """The smallest tokenizer: an id for each character of ALPHABET."""

    def __init__(self, start_id=None, end_id=1, wrap=False):
        self.start_id, self.end_id, self.pad_id, self.wrap = start_id, end_id, 0, wrap

    def encode(self, text):
        ids = [ALPHABET.index(character) for character in text]
        return [self.start_id, *ids, self.end_id] if self.wrap else ids


def bigram_table(seed=0, size=9):
    return np.random.default_rng(seed).normal(0, 2, (size, size)).astype("float32")


def bigram_model(table, length=None, dtype="float32"):
    """Predicts from the last id alone, so that the text cut in any way costs the same."""
    token_ids = keras.Input((length,), dtype="int32")
    layer = keras.layers.Embedding(*table.shape, dtype=dtype)
    model = keras.Model(token_ids, layer(token_ids))
    layer.set_weights([table])
    return model


def bigram_nll(table, ids):
    log_probabilities = table - np.log(np.exp(table.astype("float64")).sum(-1, keepdims=True))
    return -sum(log_probabilities[before, after] for before, after in pairwise(ids))


@keras.saving.register_keras_serializable("tests")
class LookBack(keras.layers.Layer):
    """Logits that favour id 0 the more, the more ids the window has so far: shows how far each prediction saw."""

    def call(self, token_ids):
        position = ops.cumsum(ops.ones_like(token_ids), axis=-1)
        return ops.one_hot(ops.zeros_like(token_ids), 3) * ops.cast(position, "float32")[..., None]

    def compute_output_shape(self, input_shape):
        return (*input_shape, 3)


@pytest.mark.parametrize(("context", "stride"), [(4, None), (5, 1), (5, 3), (100, None)])
def test_figures_are_the_harness_definitions(context, stride):
    table, documents = bigram_table(), [TEXT, "", "a", "é " * 30]
    nll = sum(bigram_nll(table, [1, *Characters().encode(document)]) for document in documents)
    scores = perplexity(bigram_model(table), Characters(), documents, stride, context=context, batch_size=3)
    words = sum(len(re.split(r"\s+", document)) for document in documents)
    assert (scores.tokens, scores.words) == (sum(map(len, documents)), words)
    assert scores.bytes == len("".join(documents).encode())
    assert scores.loss == pytest.approx(nll / scores.tokens, rel=1e-6)
    assert scores.perplexity == pytest.approx(math.exp(nll / scores.tokens), rel=1e-5)
    assert scores.word_perplexity == pytest.approx(math.exp(nll / words), rel=1e-5)
    assert scores.byte_perplexity == pytest.approx(2**scores.bits_per_byte, rel=1e-9)
    assert scores.bits_per_byte == pytest.approx(nll / scores.bytes / math.log(2), rel=1e-6)


def test_a_uniform_model_costs_the_logarithm_of_its_vocabulary():
    scores = perplexity(bigram_model(np.zeros((9, 9), "float32")), Characters(), TEXT[:4], context=3)
    assert scores.loss == pytest.approx(math.log(9), rel=1e-6)
    assert "perplexity            9.0000  per token" in str(scores)
    assert "4 tokens, 2 words, 4 bytes" in str(scores)


def test_windows_are_those_of_the_harness_documentation():
    # lm_eval/api/model.py, loglikelihood_rolling: ids 0 to 9 behind a prefix, context 4.
    assert list(rolling_windows(10, context=4, stride=4)) == [(0, 4, 4), (4, 8, 4), (6, 10, 2)]
    # lm_eval/utils.py, get_rolling_token_windows: max_seq_len 3 and context_len 2 score 3 - 2 + 1 at a time.
    assert list(rolling_windows(9, context=3, stride=2)) == [(0, 3, 3), (2, 5, 2), (4, 7, 2), (6, 9, 2)]


@given(length=st.integers(0, 200), context=st.integers(1, 40), data=st.data())
def test_each_prediction_is_scored_once_with_the_promised_context(length, context, data):
    stride = data.draw(st.integers(1, context))
    times = np.zeros(length, int)
    for begin, end, scored in rolling_windows(length, context, stride):
        assert 0 < scored <= end - begin <= context
        times[end - scored : end] += 1
        seen = np.arange(end - scored, end) + 1 - begin
        assert all(seen >= np.minimum(np.arange(end - scored, end) + 1, context - stride + 1))
    assert all(times == 1)


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_a_smaller_stride_looks_back_further(stride):
    model = keras.Sequential([LookBack()])
    length, context = 23, 5
    seen = [range(end - begin + 1 - scored, end - begin + 1) for begin, end, scored in rolling_windows(23, 5, stride)]
    expected = sum(math.log1p(2 * math.exp(-n)) for window in seen for n in window)
    scores = score_tokens(model, np.zeros(length + 1, int), stride, context=context)
    assert scores.tokens == length
    assert scores.loss == pytest.approx(expected / length, rel=1e-6)


def test_padding_is_inert_whatever_the_model_makes_of_it():
    table = bigram_table()
    poisoned = table.copy()
    poisoned[0] = np.nan
    documents = ["abc", "dab dab", "é"]
    plain = perplexity(bigram_model(table), Characters(), documents, context=4, batch_size=1)
    padded = perplexity(bigram_model(poisoned, length=9), Characters(), documents, context=4, batch_size=64)
    assert padded.loss == pytest.approx(plain.loss, rel=1e-6)


def test_half_precision_logits_are_summed_in_single_precision():
    table = bigram_table() * 4
    model = bigram_model(table, dtype="mixed_bfloat16")
    rounded = ops.convert_to_numpy(ops.cast(ops.cast(table, "bfloat16"), "float32"))
    document = TEXT * 200
    expected = bigram_nll(rounded, [1, *Characters().encode(document)]) / len(document)
    assert perplexity(model, Characters(), document, context=256).loss == pytest.approx(expected, rel=1e-6)


def test_the_first_token_is_predicted_from_the_prefix_that_the_tokenizer_has():
    table, model = bigram_table(), bigram_model(bigram_table(), length=6)
    ids = Characters().encode(TEXT)
    for tokenizer, prefix in [
        (Characters(end_id=1), [1]),
        (Characters(start_id=7, end_id=None), [7]),
        (Characters(start_id=7, end_id=1), [1]),  # as in training, where an end token stands before a document
        (Characters(start_id=7, end_id=1, wrap=True), [7]),  # its post-processor's tokens are not scored
        (Characters(end_id=None), []),
    ]:
        scores = perplexity(model, tokenizer, iter([TEXT]))
        assert scores.tokens == len(ids) - (not prefix)
        assert scores.loss == pytest.approx(bigram_nll(table, prefix + ids) / scores.tokens, rel=1e-6)


def test_ids_alone_give_the_figures_that_need_no_text():
    table = bigram_table()
    ids = np.array([1, 3, 4, 5, 6, 7, 3, 2], "uint16")
    scores = score_tokens(bigram_model(table), ids, context=3, num_bytes=14)
    assert scores.tokens == 7 and scores.word_perplexity is None and "word" not in str(scores)
    assert scores.loss == pytest.approx(bigram_nll(table, ids) / 7, rel=1e-6)
    assert scores.bits_per_byte == pytest.approx(bigram_nll(table, ids) / 14 / math.log(2), rel=1e-6)


def test_scoring_leaves_the_model_as_it_was():
    model = keras.Sequential([keras.layers.Embedding(8, 8)])
    model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    ids = np.zeros((4, 6), "int32")
    model.fit(ids, ids, batch_size=2, verbose=0)
    before = model.get_weights()[0]
    scores = score_tokens(model, np.arange(8))  # the context is the length that fit built it with
    assert scores.tokens == 7
    np.testing.assert_array_equal(model.get_weights()[0], before)
    assert model.fit(ids, ids, batch_size=2, verbose=0).history["loss"][0] < 3


@pytest.mark.parametrize(
    ("documents", "options", "message"),
    [
        ([], {}, "nothing to score"),
        ("", {}, "nothing to score"),
        (["abc", None], {}, "an item of type NoneType"),
        (5, {}, "is of type int"),
        (TEXT, {"stride": 0}, "stride=0 is not possible; choose one from 1 to the context of 6"),
        (TEXT, {"stride": 7}, "stride=7 is not possible"),
        (TEXT, {"context": 7}, "context=7 is not possible; give at most 6"),
        (TEXT, {"batch_size": 0}, "batch_size=0"),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(documents, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        perplexity(bigram_model(bigram_table(), length=6), Characters(), documents, **options)


def test_bad_models_and_ids_are_refused_before_they_run():
    with pytest.raises(ValueError, match="Token id 7 is outside the model's vocabulary of 5"):
        perplexity(bigram_model(bigram_table(size=5), length=6), Characters(), TEXT)
    with pytest.raises(ValueError, match="give context="):
        perplexity(bigram_model(bigram_table()), Characters(), TEXT)
    with pytest.raises(ValueError, match=r"to logits \(B, T, V\), but its output is"):
        pooled = keras.Sequential([keras.layers.Embedding(9, 9), keras.layers.GlobalAveragePooling1D()])
        perplexity(pooled, Characters(), TEXT, context=6)
    with pytest.raises(ValueError, match="one-dimensional array of ints"):
        score_tokens(bigram_model(bigram_table(), length=6), np.zeros((2, 3), int))
