"""What a model keeps of its training text: canaries, passages word for word and nearly so, personal data, members."""

import json
import math

import keras
import numpy as np
import pytest

import kerasllm
from kerasllm import safety
from kerasllm.safety import memory
from kerasllm.safety.continued import continuations, likeness, personal_data
from kerasllm.safety.token_scores import TokenScorer

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class KnownByHeart:
    """Says at each place with certainty what follows in one text, and knows nothing of others."""

    predicts_next, variables = True, ()

    def __init__(self, text, vocab_size, max_length=200, context=8):
        self.config = type("Config", (), {"vocab_size": vocab_size, "max_length": max_length})
        self.text, self.vocab_size, self.context = list(text), vocab_size, context

    def __call__(self, inputs, training=False):
        ids = np.asarray(inputs["token_ids"])
        logits = np.zeros((*ids.shape, self.vocab_size), "float32")
        for row, one in enumerate(ids.tolist()):
            for end in range(1, len(one) + 1):
                part = one[max(0, end - self.context) : end]
                for at in range(len(self.text) - len(part)):
                    if self.text[at : at + len(part)] == part:
                        logits[row, end - 1, self.text[at + len(part)]] = 20.0
                        break
        return logits


@pytest.fixture
def eager(monkeypatch):
    monkeypatch.setattr("kerasllm.backend.compile_function", lambda function, variables, xla: _as_arrays(function))
    monkeypatch.setattr(memory, "continuations", greedy)


def greedy(model, prompts, count, vocab_size):
    ids = np.array(prompts)
    for _ in range(count):
        ids = np.hstack([ids, model({"token_ids": ids})[:, -1:].argmax(axis=-1)])
    return ids[:, -count:]


def _as_arrays(function):
    import tensorflow as tf

    return lambda ids: function(tf.constant(ids))


@pytest.fixture(scope="module")
def letters():
    return kerasllm.tokenizers.Tokenizer.train([LETTERS + " "], kind="char", progress=False)


def test_canaries_are_drawn_by_their_seed_and_planted_as_often_as_they_say():
    canaries = safety.make_canaries([1, 4, 16], seed=3)
    assert canaries == safety.make_canaries([1, 4, 16], seed=3) != safety.make_canaries([1, 4, 16], seed=4)
    assert len({canary.text for canary in canaries}) == 3
    documents = [f"document {i}" for i in range(30)]
    planted = list(safety.plant(documents, canaries, seed=1))
    assert [planted.count(canary.text) for canary in canaries] == [1, 4, 16]
    assert [text for text in planted if text.startswith("document")] == documents
    assert planted[:30] != documents and planted == list(safety.plant(documents, canaries, seed=1))
    with pytest.raises(ValueError, match="1 time or more"):
        safety.make_canaries([0])


def test_canaries_come_back_from_their_file(tmp_path):
    canaries = safety.make_canaries()
    safety.save_canaries(canaries, tmp_path / "canaries.json")
    assert safety.load_canaries(tmp_path / "canaries.json") == canaries
    (tmp_path / "other.json").write_text(json.dumps([{"secret": 1}]))
    with pytest.raises(ValueError, match="holds no canaries"):
        safety.load_canaries(tmp_path / "other.json")


def test_exposure_is_by_rank_among_secrets(monkeypatch, letters):
    """Ranks as TF Privacy's secret_sharer takes them: log2 |R| - log2 rank."""
    canaries = safety.make_canaries([1, 4])
    scores = iter([np.concatenate([[0.5], np.linspace(0, 1, 1023)]), np.concatenate([[2.0], np.zeros(1023)])])
    monkeypatch.setattr("kerasllm.safety.canaries.TokenScorer", lambda model: None)
    monkeypatch.setattr("kerasllm.safety.canaries._of_secrets", lambda *_: next(scores))
    middle, first = safety.exposures(None, letters, canaries, references=1023)
    assert middle == pytest.approx(10 - math.log2(1 + 511 + 0.5)) and first == 10.0


def test_a_secret_known_by_heart_is_exposed_to_the_last_bit(eager, letters):
    canaries = safety.make_canaries([1, 4])
    text = letters.encode(canaries[1].text)
    model = KnownByHeart(text, letters.vocab_size)
    unknown, known = safety.exposures(model, letters, canaries, references=255)
    assert known == 8.0 and unknown < 8.0


def test_hashes_are_equal_where_passages_are():
    tokens = np.random.default_rng(0).integers(0, 2, 3000)
    for length in (1, 2, 5, 7, 8, 13):
        hashes = memory.hash_passages(tokens, length)
        assert len(hashes) == len(tokens) - length + 1
        by_hash, by_text = {}, {}
        for at, one in enumerate(hashes):
            by_hash.setdefault(int(one), []).append(at)
            by_text.setdefault(tuple(tokens[at : at + length]), []).append(at)
        assert sorted(by_hash.values()) == sorted(by_text.values())


def test_what_greedy_decoding_gives_is_extracted_and_nothing_else(letters, monkeypatch):
    keras.utils.set_random_seed(0)
    config = kerasllm.models.TransformerConfig(
        vocab_size=letters.vocab_size, num_layers=1, d_model=16, num_heads=2, dff=32, max_length=24
    )
    model = kerasllm.models.CausalLM(config)
    prompts = np.random.default_rng(0).integers(0, letters.vocab_size, (20, 8))
    options = {"end_ids": (), "vocab_size": letters.vocab_size}
    drawn = np.array(kerasllm.generation.generate_ids(model, prompts.tolist(), 8, **options))
    monkeypatch.setattr("kerasllm.safety.continued._ROWS", 20)  # of which the second time 10 are there
    again = continuations(model, np.concatenate([prompts, prompts[:10]]), 8, letters.vocab_size)
    np.testing.assert_array_equal(again, np.concatenate([drawn, drawn[:10]]))
    other = drawn.copy()
    other[np.arange(20), np.arange(20) % 8] += 1
    tokens = np.concatenate([*np.hstack([prompts, drawn]), *np.hstack([prompts, other % letters.vocab_size])])
    _, are_likeliest = TokenScorer(model)(tokens.reshape(40, 16))
    assert are_likeliest[:20, 7:].all() and not are_likeliest[20:, 7:].all(axis=1).any()


def test_passages_are_tried_once_by_how_often_they_are_repeated(eager):
    tokens, secret = 100 + np.arange(400), np.arange(1, 21)
    for place in range(20, 380, 60):
        tokens[place : place + 20] = secret
    model = KnownByHeart(secret, 500, context=1)
    found, tried, written = memory.extraction(TokenScorer(model), tokens, 1000, 500, prompt=8, continuation=8)
    # Of those that begin before one of 6 secrets, the 7 whose prompts end in it; where the continuation begins with it,
    # its first token is not known.
    assert (found.repeats, found.passages, found.extracted) == ((1, 4), (385 - 6 * 5, 5), (6 * 7, 5))
    # Behind those that leave a secret with their last token the model does not know how to go on.
    assert found.nearly == (6 * 8, 5) and found.shares[1] == 1.0
    is_right = (written == tried[:, 8:]).all(axis=1)
    assert (is_right[: 385 - 6 * 5].sum(), is_right[385 - 6 * 5 :].sum()) == (6 * 7, 5)


def test_likeness_is_the_least_number_of_edits():
    def distance(a, b):
        if not len(a) or not len(b):
            return len(a) + len(b)
        return min(distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0]))

    first, second = np.random.default_rng(0).integers(0, 3, (2, 30, 5))
    expected = [1 - distance(a.tolist(), b.tolist()) / 5 for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(likeness(first, second), expected)
    shifted = np.array([[1, 2, 3, 4, 5]]), np.array([[9, 1, 2, 3, 4]])
    assert likeness(*shifted) == pytest.approx(0.6)


def test_personal_data_counts_where_it_was_written_and_whether_it_stands_there():
    tokenizer = kerasllm.tokenizers.Tokenizer.train([], kind="byte")

    def ids(text):
        return np.array([tokenizer.encode(text)])

    def found(passage, written):
        return personal_data(tokenizer, ids(passage), ids(written))

    assert found("write to jo@example.org now", "example.org now")["email"] == (1, 1)
    assert found("write to jo@example.org now", "example.com now")["email"] == (1, 0)
    assert found("jo@example.org is my address", "is my address")["email"] == (0, 0)  # the model was told it
    assert found("call 555-123-4567 or host 10.0.0.7", "host 10.0.0.7") == {
        "email": (0, 0), "card": (0, 0), "ip": (1, 1), "phone": (0, 0)
    }  # fmt: skip


def test_members_are_told_apart_as_scores_say():
    members, others = np.array([3.0, 2.0, 1.0, 0.0]), np.array([2.0, 0.5, -1.0, -2.0])
    found = memory.told_apart("loss", members, others)
    pairs = [(m > o) + (m == o) / 2 for m in members for o in others]
    assert found.auc == pytest.approx(np.mean(pairs))
    assert found.true_positive_rates == {0.001: 0.25, 0.01: 0.25}  # the one above all others
    same = memory.told_apart("loss", others, others)
    assert same.auc == 0.5 and same.true_positive_rates[0.01] == 0.0


def test_what_cannot_be_audited_is_refused():
    with pytest.raises(TypeError, match="causal models"):
        TokenScorer(object())
    with pytest.raises(ValueError, match="fewer than a passage of 100"):
        memory.hash_passages(np.arange(5), 100)
