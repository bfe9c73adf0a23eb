"""Texts that are guessed ahead are what they are without; and what was read of a chat is not read again."""

import functools

import numpy as np
import pytest
from keras import ops

import kerasllm
from kerasllm import backend
from kerasllm.generation import Conversation, LogitsRule, Sampler, decoding, generate_ids, speculation, stepping
from kerasllm.generation.loop import draw_next
from kerasllm.generation.samplers import sample


def made(num_layers, seed, vocab_size=40, **options):
    options = {"max_length": 256, "num_kv_heads": 2, **options}
    model = kerasllm.models.CausalLM(kerasllm.models.TransformerConfig(vocab_size, num_layers, 32, 4, 64, **options))
    for number, weight in enumerate(model.weights):
        weight.assign(np.random.default_rng([seed, number]).normal(size=weight.shape) * 0.2)
    return model


PROMPT = [*range(1, 11)] * 3
DRAWS = [{}, {"sampler": "top_k", "top_k": 5, "temperature": 0.8, "seed": 1, "repetition_penalty": 1.1}]


@pytest.mark.parametrize("is_deep", [False, pytest.param(True, marks=pytest.mark.soak)])
@pytest.mark.parametrize("options", [DRAWS[0], pytest.param(DRAWS[1], marks=pytest.mark.soak)])
def test_text_is_what_it_is_without_guesses(is_deep, options, monkeypatch):
    if is_deep:
        monkeypatch.setattr(stepping, "MOST_AS_A_WHOLE", 1)
    model, small = made(2, 0, attention_window=(None, 24)), made(1, 1)
    passes = []
    whole = speculation.SpeculativeStepper.pass_over
    monkeypatch.setattr(speculation.SpeculativeStepper, "pass_over", lambda *args: passes.append(args) or whole(*args))
    expected = generate_ids(model, PROMPT, 50, **options)
    for draft in ("lookup", small):
        assert generate_ids(model, PROMPT, 50, draft=draft, **options) == expected
    assert passes, "and something was guessed"


@pytest.mark.soak
def test_draws_are_of_the_models_distribution():
    """Chi-squared of 50,000 draws of the second token against its exact distribution: with a draft that is another
    model, and by the very function that `generate` draws with."""
    model, small = made(1, 2, vocab_size=8), made(1, 3, vocab_size=8)
    prompt, count = [1, 2, 3, 1, 2], 50_000
    first, second = draw_pairs(model, small, prompt, count)
    after_prompt = probabilities(model, prompt)
    exact = np.outer(after_prompt, np.ones(8)) * np.stack(
        [probabilities(model, [*prompt, token]) for token in range(8)]
    )
    observed = np.zeros((8, 8))
    np.add.at(observed, (first, second), 1)
    expected = count * exact
    counts = expected > 5
    statistic = (((observed - expected) ** 2) / expected)[counts].sum()
    assert statistic < counts.sum() + 4 * np.sqrt(2 * counts.sum()), statistic
    of_draft = count * after_prompt[:, None] * np.stack([probabilities(small, [*prompt, token]) for token in range(8)])
    assert (((observed - of_draft) ** 2) / of_draft).sum() > 1_000, "the two models differ enough to be told apart"


def draw_pairs(model, small, prompt, count):
    """Two tokens behind a prompt, for each of many seeds: the first pass is over one guess of the small model."""
    texts = [prompt, *([*prompt, token] for token in range(8))]
    of_model, of_small = (
        np.stack([logits_after(each, ids) for ids in texts]).astype("float32") for each in (model, small)
    )
    sampler = Sampler()

    def pair(seed):
        settings = {
            **sampler.settings(),
            "seed": seed,
            "start": 0,
            "tables": (),
            "limits": np.array([2]),
            "end_ids": np.array([-1]),
        }
        draw = functools.partial(draw_next, sampler.graph_key, LogitsRule(), settings)
        guess = sample(sampler.graph_key, settings, of_small, ops.stack([seed, 0]))
        logits = ops.stack([of_model[0], ops.take(of_model, guess[0] + 1, axis=0)])
        begun = ops.zeros((), "int32"), ops.zeros((1, 2), "int32"), ops.zeros((1,), "bool"), ()
        ids = ops.concatenate([ops.zeros((1,), "int32"), guess])
        index, tokens, done, _ = speculation._drawn_while_right(draw, ids, logits, 2, *begun)
        logits = ops.take(of_model, tokens[0, :1] + 1, axis=0)
        tokens = ops.cond(index < 2, lambda: draw(logits, index, tokens, done, ())[1], lambda: tokens)
        return 8 * tokens[0, 0] + tokens[0, 1]

    pairs = np.asarray(backend.compile_function(lambda: backend.one_by_one(pair, count, "int32"), [])())
    return pairs // 8, pairs % 8


def logits_after(model, ids):
    return np.asarray(model(np.array(ids, "int32")[None]))[0, -1].astype("float64")


def probabilities(model, ids):
    logits = logits_after(model, ids)
    return np.exp(logits) / np.exp(logits).sum()


def test_what_cannot_guess_is_refused():
    model = made(1, 0)
    for draft, message in (
        (made(1, 0, vocab_size=41), "vocabulary of 40 tokens, and has 41"),
        ("guess", "'lookup' or a CausalLM"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            generate_ids(model, PROMPT, 5, draft=draft)
    with pytest.raises(ValueError, match="one prompt is continued at a time, got 2"):
        generate_ids(model, [PROMPT, PROMPT], 5, draft="lookup")


def test_what_was_read_of_a_chat_is_not_read_again(monkeypatch):
    text = "user: assistant: who are you? I am a model of little." * 4
    tokenizer = kerasllm.tokenizers.Tokenizer.train([text], kind="char", progress=False)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}{% endfor %}a:"
    model = made(1, 4, vocab_size=tokenizer.vocab_size)
    conversation, messages, first = Conversation(model), [], []
    whole = decoding.first_unread
    monkeypatch.setattr(decoding, "first_unread", lambda *args: first.append(whole(*args)) or first[-1])
    for line in ("who are you?", "a model of what?", "who?"):
        messages.append({"role": "user", "content": line})
        answer = kerasllm.chat(model, tokenizer, messages, 8, prefix=conversation)
        assert answer == kerasllm.chat(model, tokenizer, messages, 8)
        messages.append({"role": "assistant", "content": answer})
    assert [places > 0 for places in first] == [False, True, True]
    windowed = made(1, 4, vocab_size=tokenizer.vocab_size, attention_window=16)
    conversation = Conversation(windowed)
    kerasllm.chat(windowed, tokenizer, messages, 8, prefix=conversation)
    assert not conversation.token_ids
