"""Guidance, contrast with a smaller model, experts and biases: texts are those of the definitions, cached and not."""

import numpy as np
import pytest
from keras import ops

import kerasllm
from kerasllm.generation import Contrast, Experts, ExpertsModel, generate_ids
from kerasllm.generation.sequence_bias import SequenceBias, read_biases
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer

V, N = 12, 4


def random_model(seed):
    """One that is sure of what it says, which changes with all that it has read."""
    config = TransformerConfig(V, 1, 16, 2, 16, max_length=32, tie_embeddings=False)
    model, draw = CausalLM(config), np.random.default_rng(seed)
    model(np.zeros((1, 2), "int32"))
    for weight in model.trainable_weights:
        if len(weight.shape) > 1:
            weight.assign(0.3 * draw.normal(size=weight.shape))
    return model


@pytest.fixture(scope="module")
def model():
    return random_model(1)


def log_probabilities(model, ids):
    return np.array(ops.log_softmax(model(np.array([ids], "int32"))[0, -1]))


def written(score, prompt):
    """The likeliest text by a function from what is drawn to scores."""
    drawn = []
    for _ in range(N):
        drawn.append(int(np.argmax(score(prompt, drawn))))
    return drawn


soak = pytest.mark.soak


@pytest.mark.soak
@pytest.mark.parametrize("cached", [None, pytest.param(False, marks=soak)])
@pytest.mark.parametrize(
    "negatives",
    [pytest.param(None, marks=soak), pytest.param([[7, 8, 9, 10]], marks=soak), [[4], [5, 6]]],
    ids=["last", "one", "each"],
)
def test_guidance_leads_away_from_the_negative_prompt(model, negatives, cached):
    prompts = [[1, 2, 3], [4, 5]]

    def guided(negative):
        def score(prompt, drawn):
            theirs = log_probabilities(model, negative + drawn)
            return theirs + 1.8 * (log_probabilities(model, prompt + drawn) - theirs)

        return score

    each = [prompt[-1:] for prompt in prompts] if negatives is None else negatives * (3 - len(negatives))
    expected = [written(guided(negative), prompt) for prompt, negative in zip(prompts, each, strict=True)]
    given = None if negatives is None else negatives[0] if len(negatives) == 1 else negatives
    found = generate_ids(model, prompts, N, guidance=1.8, negative_prompt=given, cached=cached)
    assert found == expected != generate_ids(model, prompts, N)


@soak
def test_guidance_of_one_is_none_and_of_zero_is_the_other_prompt(model):
    assert generate_ids(model, [1, 2], N, guidance=1.0, negative_prompt=[5]) == generate_ids(model, [1, 2], N)
    assert generate_ids(model, [1, 2], N, guidance=0.0, negative_prompt=[5]) == generate_ids(model, [5], N)


@pytest.mark.soak
@pytest.mark.parametrize("cached", [None, pytest.param(False, marks=soak)])
def test_what_a_smaller_model_expects_becomes_rarer(model, cached):
    amateur = random_model(3)

    def contrasted(prompt, drawn):
        ours, theirs = (log_probabilities(each, prompt + drawn) for each in (model, amateur))
        return np.where(ours >= ours.max() + np.log(0.05), 2 * ours - theirs, -np.inf)

    prompts = [[1, 2, 3], [4, 5], [6]]
    contrast = Contrast(amateur, strength=1.0, plausibility=0.05)
    found = generate_ids(model, prompts, N, contrast=contrast, cached=cached)
    assert found == [written(contrasted, prompt) for prompt in prompts] != generate_ids(model, prompts, N)


def led(models, strength):
    """A function from prompts and what is drawn to log-probabilities, by the definition of DExperts."""

    def score(prompt, drawn):
        ours, wanted, unwanted = (log_probabilities(each, prompt + drawn) for each in models)
        return ours + strength * (wanted - unwanted)

    return score


@pytest.mark.soak
@pytest.mark.parametrize("cached", [None, pytest.param(False, marks=soak)])
def test_an_expert_and_an_anti_expert_lead_a_model(model, cached):
    models = model, random_model(3), random_model(4)
    experts, prompts = Experts(*models[1:], strength=1.5), [[1, 2, 3], [4, 5], [6]]
    found = generate_ids(model, prompts, N, contrast=experts, cached=cached)
    assert found == [written(led(models, 1.5), prompt) for prompt in prompts]
    assert found != generate_ids(model, prompts, N, cached=cached)
    assert found != generate_ids(model, prompts, N, contrast=Experts(*models[:0:-1], strength=1.5), cached=cached)
    none = Experts(*models[1:], strength=0.0)
    assert generate_ids(model, prompts, N, contrast=none, cached=cached) == generate_ids(model, prompts, N)


def test_a_model_led_by_experts_can_be_measured(model):
    models, ids = (model, random_model(3), random_model(4)), [1, 2, 3, 4]
    found = np.array(ops.log_softmax(ExpertsModel(model, Experts(*models[1:], strength=1.5))(np.array([ids]))))[0]
    for place in range(len(ids)):
        expected = led(models, 1.5)(ids[: place + 1], [])
        np.testing.assert_allclose(found[place], ops.log_softmax(expected), atol=1e-5)
    larger = CausalLM(TransformerConfig(V + 1, 1, 16, 2, 16, max_length=32))
    with pytest.raises(ValueError, match="`anti_expert` has to have the model's vocabulary of 12 tokens, has 13"):
        ExpertsModel(model, Experts(models[1], larger))
    with pytest.raises(TypeError, match="`expert` is a CausalLM, got 2"):
        Experts(2, models[1])
    with pytest.raises(ValueError, match="`strength` must be at least 0, got -1"):
        Experts(*models[1:], strength=-1)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"negative_prompt": [1]}, ValueError, "give guidance=1.5 with it"),
        ({"guidance": float("inf")}, ValueError, r"`guidance` must be finite \(1 is off\), got inf"),
        ({"guidance": 2, "negative_prompt": [[1], [2]]}, ValueError, "one for all prompts or one for each, got 2"),
        ({"guidance": 2, "negative_prompt": [99]}, ValueError, "token id 99, but the model knows ids from 0 to 11"),
        ({"guidance": 2, "draft": "lookup"}, ValueError, "`draft` does not go with `guidance`"),
        ({"contrast": 2}, TypeError, "`contrast` is a smaller CausalLM, or a Contrast with one, got 2"),
        ({"guidance_scale": 2}, TypeError, "here it is `guidance`"),
    ],
)
def test_what_does_not_go_together_is_refused(model, given, error, message):
    with pytest.raises(error, match=message):
        generate_ids(model, [1], N, **given)


def test_biases_are_those_of_the_definition():
    biases = {(3,): 1.5, (4, 5): -2.0, (1, 5): 0.5, (6, 4, 5): -float("inf"), (7, 7, 8): 3.0}
    draw = np.random.default_rng(0)
    tokens = draw.integers(3, 9, (40, 8)).astype("int32")
    is_prompt = np.arange(8)[None] < 3
    is_prompt = is_prompt & (np.arange(8)[None] >= draw.integers(0, 3, (40, 1)))
    rule = SequenceBias(tuple(biases.items()))
    state = rule.start(ops.array(tokens), ops.array(is_prompt), V)
    for index in range(3, 7):
        logits = draw.normal(size=(40, V)).astype("float32")
        expected = logits.copy()
        for row in range(40):
            text = tuple(tokens[row, np.argmax(is_prompt[row]) : index].tolist())
            for ids, bias in biases.items():
                if len(text) >= len(ids) - 1 and text[len(text) - len(ids) + 1 :] == ids[:-1]:
                    expected[row, ids[-1]] += bias
        np.testing.assert_allclose(np.array(rule.apply(ops.array(logits), state)), expected, rtol=1e-6)
        state = rule.advance(state, ops.array(tokens[:, index]))


@soak
def test_generate_takes_biases_of_texts_and_a_negative_prompt_of_text():
    tokenizer = Tokenizer.train(["abcdefgh"], kind="char", progress=False)
    model = random_model(1)
    assert tokenizer.vocab_size <= V
    favoured = {"c": 50.0, "d": -float("inf")}
    assert kerasllm.generate(model, tokenizer, "ab", 3, bias=favoured) == "ccc"
    guided = kerasllm.generate(model, tokenizer, "ab", 3, guidance=2.0, negative_prompt="ba")
    ids = {name: tokenizer.encode(name) for name in ("ab", "ba")}
    end = {"end_ids": tokenizer.end_ids, "vocab_size": tokenizer.vocab_size}
    found = generate_ids(model, ids["ab"], 3, guidance=2.0, negative_prompt=ids["ba"], **end)
    assert guided == tokenizer.decode(found)


@pytest.mark.parametrize(
    ("biases", "error", "message"),
    [
        ([1], TypeError, "`bias` is a dict from tokens or texts"),
        ({3: float("inf")}, ValueError, "`bias` must be less than infinity"),
        ({-1: 1.0}, ValueError, "`bias` has -1, which is no token"),
    ],
)
def test_biases_of_nothing_are_refused(biases, error, message):
    with pytest.raises(error, match=message):
        read_biases(biases, list)
