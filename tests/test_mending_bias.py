"""What is done against bias: groups exchanged in documents, directions taken out, self-debiasing as texts are drawn."""

import numpy as np
import pytest
from keras import ops
from oracles import scramble
from planted_bias import experiment

import kerasllm
from kerasllm import data, evaluation, interpret
from kerasllm.generation import SelfDebias, SelfDebiasedModel, generate_ids
from kerasllm.layers import taps
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["abcdefghijklmnopqrstuvwxyz :"], kind="char", progress=False)


@pytest.fixture(scope="module")
def model(tokenizer):
    return scramble(CausalLM(TransformerConfig(tokenizer.vocab_size, 2, 16, 2, 16, max_length=64)))


EXCHANGED = [
    ("He lost his keys; the house is his.", "She lost her keys; the house is hers."),
    ("I saw her. It was her book, and I told her that.", "I saw him. It was his book, and I told him that."),
    ("HER own mother-in-law, Mary, smiled.", "HIS own father-in-law, James, smiled."),
    ("The mother-daughter talk of the queens", "The father-son talk of the kings"),
    ("A mark, a rose and a will are no names; Heather is.", "A mark, a rose and a will are no names; Jose is."),
    ("Nothing here is about anyone.", None),
]


@pytest.mark.parametrize(("text", "other"), EXCHANGED)
def test_groups_are_exchanged(text, other):
    assert list(data.counterfactual([text])) == [text, *([] if other is None else [other])]
    if other is not None:
        assert list(data.counterfactual([other])) == [other, text]  # and back


def test_words_can_be_ones_own(tmp_path):
    (tmp_path / "mine.tsv").write_text("# faiths\nchurch\tmosque\nBible\tQuran\n")
    assert list(data.counterfactual(["Her Bible, her church"], tmp_path / "mine.tsv"))[1] == "Her Quran, her mosque"
    given = data.counterfactual(["the king's cat"], ["gender", ("cat", "dog")])
    assert list(given)[1] == "the queen's dog"
    (tmp_path / "bad.tsv").write_text("church mosque\n")
    with pytest.raises(ValueError, match="no pair of words with a tab"):
        list(data.counterfactual(["a"], tmp_path / "bad.tsv"))
    with pytest.raises(ValueError, match="no list of words 'race'"):
        list(data.counterfactual(["a"], "race"))


def test_substitution_keeps_the_number_of_documents():
    documents = [f"He {i}" for i in range(200)]
    drawn = list(data.counterfactual(documents, substitute=True, seed=1))
    assert [text.split()[1] for text in drawn] == [text.split()[1] for text in documents]
    assert 70 < sum(text.startswith("She") for text in drawn) < 130
    assert drawn == list(data.counterfactual(documents, substitute=True, seed=1))


def last(model, tokenizer, text, name):
    with taps.recording(name, model=model) as found:
        model(np.array([tokenizer.encode(text)]), training=False)
    return np.array(next(iter(found.values()))[0])[0]


FIRST, SECOND = ["abc", "abd", "xa", "qqq", "zz"], ["pbc", "pbd", "xb", "qqp", "zy"]


@pytest.mark.parametrize("method", ["sentence_debias", "inlp"])
@pytest.mark.parametrize("layer", [*(pytest.param(layer, marks=pytest.mark.soak) for layer in (-1, 0)), None])
def test_directions_of_groups_are_taken_out(model, tokenizer, method, layer):
    options = {"layer": layer, "directions": 2, "method": method}
    subspace = interpret.bias_subspace(model, tokenizer, FIRST, SECOND, **options)
    V = subspace.directions
    np.testing.assert_allclose(V @ V.T, np.eye(2), atol=1e-5)
    plain = last(model, tokenizer, "some text", subspace.name)
    with interpret.project_out(model, subspace):
        taken = last(model, tokenizer, "some text", subspace.name)
    np.testing.assert_allclose(taken @ V.T, np.tile(subspace.mean @ V.T, (9, 1)), atol=1e-5)
    others = np.linalg.svd(V)[2][2:]  # all directions at right angles to them are left alone
    np.testing.assert_allclose(taken @ others.T, plain @ others.T, atol=1e-5)
    rows = [np.stack([last(model, tokenizer, t, subspace.name)[-1] for t in texts]) for texts in (FIRST, SECOND)]
    if method == "sentence_debias":
        half = (rows[0] - rows[1]) / 2
        main = np.linalg.eigh(half.T @ half)[1][:, -2:]
        np.testing.assert_allclose(main @ main.T, V.T @ V, atol=1e-4)
    elif layer != -1:  # the first classifier tells the groups apart, which have last letters in common
        values = [part @ V[0] for part in rows]
        assert max(min(values[0]) - max(values[1]), min(values[1]) - max(values[0])) > 0


def test_subspaces_of_nothing_are_refused(model, tokenizer):
    with pytest.raises(ValueError, match="of pairs as many, got 2 and 1"):
        interpret.bias_subspace(model, tokenizer, ["a", "b"], ["c"])
    with pytest.raises(ValueError, match="`directions` is at most 3"):
        interpret.bias_subspace(model, tokenizer, ["a", "b"], ["c"], directions=4, method="inlp")
    with pytest.raises(TypeError, match="is a Subspace"), interpret.project_out(model, 3):
        pass


def test_words_are_made_neutral_and_others_left_alone(model):
    tokenizer = Tokenizer.train(["ab cd ef gh ij kl mn " * 9], vocab_size=280, progress=False)
    words = scramble(CausalLM(TransformerConfig(tokenizer.vocab_size, 1, 16, 2, 16, max_length=8)))
    before = np.array(words.token_embedding.embeddings)
    ids = interpret.neutralize(words, tokenizer, ["ab", "cd"], ["ef", "gh"], ["ij", "kl"])
    after = np.array(words.token_embedding.embeddings)

    def tokens(word):  # with a space before it and without
        return [tokenizer.encode(form)[0] for form in (word, f" {word}")]

    assert ids == sorted(tokens("ij") + tokens("kl")) == np.flatnonzero((before != after).any(axis=1)).tolist()
    pairs = [np.stack([before[tokens(word)].mean(axis=0) for word in part]) for part in (["ab", "cd"], ["ef", "gh"])]
    half = (pairs[0] - pairs[1]) / 2
    v = np.linalg.eigh(half.T @ half)[1][:, -1]
    middle = (pairs[0].mean(axis=0) + pairs[1].mean(axis=0)) / 2
    np.testing.assert_allclose(after[ids] @ v, middle @ v, atol=1e-4)
    others = np.linalg.svd(v[None])[2][1:]
    np.testing.assert_allclose(after[ids] @ others.T, before[ids] @ others.T, atol=1e-5)
    with pytest.raises(ValueError, match="'mnij' is no token of its own, but"):
        interpret.neutralize(words, tokenizer, ["ab"], ["ef"], ["mnij"])
    with pytest.raises(ValueError, match="as many of each, got 1 and 2"):
        interpret.neutralize(words, tokenizer, ["ab"], ["ef", "gh"], ["ij"])


def debiased(model, description, ids, decay):
    """Log-probabilities of the token after ids, by the definition."""

    def probabilities(ids):
        return np.array(ops.softmax(ops.cast(model(np.array([ids])), "float64")))[0, -1]

    ours, theirs = probabilities(ids), probabilities([*description, *ids])
    scaled = ours * np.maximum(np.where(ours >= theirs, 1, np.exp(decay * (ours - theirs))), 0.01)
    return np.log(scaled / scaled.sum())


@pytest.mark.soak
def test_texts_are_drawn_with_less_of_what_is_described(tokenizer):
    model = CausalLM(TransformerConfig(tokenizer.vocab_size, 1, 16, 2, 16, max_length=64, tie_embeddings=False))
    model(np.zeros((1, 2), "int32"))
    for weight in model.trainable_weights:
        if len(weight.shape) > 1:
            weight.assign(0.3 * np.random.default_rng(1).normal(size=weight.shape))
    description, decay = "bad text:", 30.0
    described, prompts, drawn = tokenizer.encode(description), ["hello you", "ab"], [[], []]
    rule = SelfDebias(description, decay=decay)
    for prompt, ids in zip(prompts, drawn, strict=True):
        for _ in range(4):
            scores = debiased(model, described, [*tokenizer.encode(prompt), *ids], decay)
            ids.append(int(np.argmax(scores)))
    options, ids = {"max_new_tokens": 4, "end_ids": []}, [tokenizer.encode(prompt) for prompt in prompts]
    found = generate_ids(model, ids, contrast=SelfDebias(described, decay), **options)
    assert [list(row) for row in found] == drawn != [list(row) for row in generate_ids(model, ids, **options)]
    texts = kerasllm.generate(model, tokenizer, prompts, contrast=rule, **options)
    assert texts == [tokenizer.decode(row) for row in drawn]
    with pytest.raises(TypeError, match="needs a tokenizer"):
        generate_ids(model, [tokenizer.encode("a")], contrast=rule, **options)
    with pytest.raises(ValueError, match="not empty"):
        SelfDebias("")


def test_a_model_as_it_is_drawn_from_can_be_measured(model, tokenizer):
    described, text = tokenizer.encode("bad:"), "hello"
    wrapped = SelfDebiasedModel(model, tokenizer, SelfDebias("bad:", decay=30.0))
    ids = [tokenizer.end_id, *tokenizer.encode(text)]
    logits = np.array(ops.log_softmax(wrapped(np.array([ids]))))[0]
    for place in range(1, len(ids)):  # the description stands behind the token that ends the text before
        ours = np.array(ops.softmax(model(np.array([ids[:place]]))))[0, -1]
        theirs = np.array(ops.softmax(model(np.array([[ids[0], *described, *ids[1:place]]]))))[0, -1]
        scaled = ours * np.maximum(np.where(ours >= theirs, 1, np.exp(30.0 * (ours - theirs))), 0.01)
        np.testing.assert_allclose(logits[place - 1], np.log(scaled / scaled.sum()), atol=1e-4)
    nll = -np.mean([logits[i, token] for i, token in enumerate(ids[1:])])
    assert evaluation.perplexity(wrapped, tokenizer, [text]).loss == pytest.approx(nll, abs=1e-4)


@pytest.mark.soak
def test_a_planted_bias_is_at_least_halved():
    """In one of the five seeds of docs/how-to/measure-bias.md, which says what it costs."""
    figures = experiment(1)
    plain = figures["plain"]
    assert plain["bias"] > 0.5 and plain["names"] > 0.7
    for means in ("counterfactual", "projection"):
        assert abs(figures[means]["bias"]) < plain["bias"] / 2
