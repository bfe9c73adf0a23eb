"""What texts must not hold, and the settings of a checkpoint that say so."""

import dataclasses
import doctest
import warnings

import keras
import numpy as np
import pytest
from keras import ops

import kerasllm
from kerasllm.generation import generate_ids
from kerasllm.generation.rules import LogitsRule, read_rules
from kerasllm.generation.settings import BeamSettings, beam_settings, read_settings, rule_options
from kerasllm.generation.standard_rules import RepetitionPenalty, Rules
from kerasllm.models import CausalLM, Seq2SeqLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer

V, END = 12, 2


def plain(rules, logits, text, drawn):
    """The definition, for one text (list) of which the last `drawn` tokens were drawn."""
    logits = logits.copy()
    if rules.repetition_penalty != 1:
        for token in set(text):
            logits[token] *= rules.repetition_penalty if logits[token] < 0 else 1 / rules.repetition_penalty
    size = rules.no_repeat_ngram_size
    for begin in range(len(text) - size + 1) if size else ():
        if size == 1 or text[begin : begin + size - 1] == text[len(text) - size + 1 :]:
            logits[text[begin + size - 1]] = -np.inf
    if drawn < rules.min_new_tokens or len(text) < rules.min_length:
        logits[END] = -np.inf
    logits[[*rules.suppress_tokens, *(rules.begin_suppress_tokens if drawn == 0 else ())]] = -np.inf
    return logits


@pytest.mark.parametrize(
    "rules",
    [
        Rules(),
        Rules(repetition_penalty=1.7),
        *(Rules(no_repeat_ngram_size=size) for size in (1, 2, 3)),
        Rules(2.0, 2, min_new_tokens=3, min_length=9, suppress_tokens=(4, 5), begin_suppress_tokens=(6,)),
    ],
    ids=str,
)
def test_rules_are_those_of_the_definition(rules):
    draw = np.random.default_rng(0)
    tokens, begins = draw.integers(0, 4, (40, 10)), draw.integers(0, 5, 40)
    tokens[np.arange(10)[None] < begins[:, None]] = 0
    rule, places = rules.as_rule([END], V), np.arange(10)[None]
    is_prompt = (places >= begins[:, None]) & (places < 5)
    state = rule.start(ops.array(tokens * is_prompt, "int32"), ops.array(is_prompt), V)
    for index in range(5, 10):
        logits = draw.normal(size=(40, V)).astype("float32")
        for row, found in enumerate(np.array(rule.apply(ops.array(logits), state))):
            text = tokens[row, begins[row] : index].tolist()
            np.testing.assert_allclose(found, plain(rules, logits[row], text, index - 5), rtol=1e-6, err_msg=str(row))
        state = rule.advance(state, ops.array(tokens[:, index], "int32"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"repetition_penalty": 0}, "`repetition_penalty` must be more than 0"),
        ({"no_repeat_ngram_size": -1}, "`no_repeat_ngram_size` must be at least 0, got -1"),
        ({"min_length": 1.5}, "`min_length` must be an integer, got 1.5"),
        ({"suppress_tokens": ("a",)}, "`suppress_tokens` must be a list of token ids"),
    ],
)
def test_rules_out_of_range_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Rules(**given)


SETTINGS = {
    "no_repeat_ngram_size": 1,
    "suppress_tokens": [4],
    "bad_words_ids": [[5], [2]],
    "do_sample": True,
    "temperature": 0.6,
    "max_length": 20,
    "num_beams": 3,
    "early_stopping": True,
    "length_penalty": 2.0,
    "forced_eos_token_id": 2,
    "bos_token_id": 1,
    "min_length": None,
}


def test_settings_are_read_and_sorted():
    settings = read_settings(SETTINGS)
    assert settings.keys() == SETTINGS.keys() - {"max_length", "bos_token_id", "min_length"}
    model = type("Model", (), {"generation_settings": settings})()
    assert beam_settings(model, END) == BeamSettings(
        3, 2.0, True, None, True, False, Rules(1, 1, suppress_tokens=(4, 5))
    )
    given = beam_settings(model, END, num_beams=1, length_penalty=0.0, early_stopping=False, no_repeat_ngram_size=0)
    assert given == BeamSettings(1, 0.0, False, None, True, False, Rules(1, suppress_tokens=(4, 5)))
    assert beam_settings(object(), END) == BeamSettings() and rule_options(object(), [END]) == {}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["abcdefgh"], kind="char", progress=False)


def test_generate_heeds_the_settings_of_its_model(tokenizer, tmp_path):
    model = CausalLM(
        TransformerConfig(tokenizer.vocab_size, num_layers=1, d_model=8, num_heads=1, dff=8, max_length=32)
    )
    prompt, options = "ab", {"cached": False}
    free = kerasllm.generate(model, tokenizer, prompt, 6, **options)
    assert len(set(free)) < len(free)
    model.generation_settings = {"no_repeat_ngram_size": 1, "exponential_decay_length_penalty": [1, 1.1]}
    with pytest.warns(UserWarning, match=r"The settings exponential_decay_length_penalty=\[1, 1.1\] of this model's"):
        bound = kerasllm.generate(model, tokenizer, prompt, 6, **options)
    assert len(set(prompt + bound)) == len(prompt + bound)
    kerasllm.save(model, tokenizer, tmp_path / "run")
    model, _ = kerasllm.load(tmp_path / "run")
    del model.generation_settings["exponential_decay_length_penalty"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "".join(kerasllm.stream(model, tokenizer, prompt, 6, **options)) == bound
        assert kerasllm.generate(model, tokenizer, prompt, 6, no_repeat_ngram_size=0, **options) == free
    ids = tokenizer.encode(prompt)
    assert tokenizer.decode(generate_ids(model, [ids], 6, end_ids=tokenizer.end_ids, **options)[0]) == free


@dataclasses.dataclass(frozen=True)
class Banned(LogitsRule):
    """A rule without a state, whose setting is part of the graph."""

    token: int

    def apply(self, logits, state):
        return ops.where(ops.arange(ops.shape(logits)[1])[None] == self.token, -float("inf"), logits)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    return CausalLM(TransformerConfig(V, num_layers=1, d_model=8, num_heads=1, dff=8, max_length=64))


def test_the_rule_of_the_documentation_runs(model, tokenizer):
    names = {"kerasllm": kerasllm, "model": model, "tokenizer": tokenizer}
    for example in doctest.DocTestParser().get_examples(LogitsRule.__doc__):
        exec(example.source, names)
    rules = [names["AtMost"](2)]
    free = generate_ids(model, [3, 4], 20, cached=False)
    assert max(map(free.count, free)) > 2
    for options in ({}, {"temperature": 2.0, "seed": 1, "cached": False}):
        bound = generate_ids(model, [3, 4], 20, rules=rules, **options)
        assert len(bound) == 20 and max(map(bound.count, bound)) == 2
    text = kerasllm.generate(model, tokenizer, "ab", 9, rules=rules)
    assert text == "".join(kerasllm.stream(model, tokenizer, "ab", 9, rules=rules)) and max(map(text.count, text)) == 2
    chat = {"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}", "rules": rules}
    assert kerasllm.chat(model, tokenizer, [{"role": "user", "content": "ab"}], 9, **chat) == text


def test_each_row_has_its_own_rules_where_they_are_given_so(model):
    options = {"max_new_tokens": 12, "cached": False}
    free = generate_ids(model, [3, 4], **options)
    rows = [[], [Banned(free[0])], [RepetitionPenalty(5.0)], [RepetitionPenalty(0.2), Banned(free[0])], [Banned(V - 1)]]
    alone = [generate_ids(model, [3, 4], rules=rules, **options) for rules in rows]
    assert alone[0] == free and len(set(map(tuple, alone))) >= 3
    prompts = [[3, 4]] * len(rows)
    assert generate_ids(model, prompts, rules=rows, **options) == alone
    compiled = vars(model)["_compiled_decoders"]
    before = len(compiled)
    rows[2] = [RepetitionPenalty(0.1)]  # whose penalty is part of its state
    found = generate_ids(model, prompts, rules=rows, **options)
    assert len(compiled) == before and [a == b for a, b in zip(found, alone, strict=True)] == [1, 1, 0, 1, 1]


def test_equal_rules_share_what_is_compiled(model):
    compiled, options = vars(model).setdefault("_compiled_decoders", {}), {"cached": False}
    generate_ids(model, [3], 4, rules=[Banned(5)], **options)
    before = len(compiled)
    generate_ids(model, [3, 4], 5, rules=[Banned(5)], min_new_tokens=3, suppress_tokens=[3], **options)
    assert len(compiled) == before
    generate_ids(model, [3], 4, rules=[Banned(6)], **options)
    assert len(compiled) == before + 1


@pytest.mark.parametrize(
    ("rules", "error", "message"),
    [
        (Banned(3), TypeError, r"`rules` is a list of LogitsRules, or one such list for each prompt, got Banned"),
        ([Banned], TypeError, "`rules` are instances of kerasllm.generation.LogitsRule, got <class"),
        ([lambda logits: logits], TypeError, "`rules` are instances of kerasllm.generation.LogitsRule, got <function"),
        ([Banned([3])], TypeError, "A rule must be hashable, and Banned is not: make it a frozen dataclass of numbers"),
        ([[Banned(3)]], ValueError, "`rules` has 1 lists for 2 prompts: give one list for each"),
        (
            [[Banned(3)], Banned(3)],
            TypeError,
            "`rules` for each prompt are lists of LogitsRules, got Banned.* prompt 1",
        ),
    ],
)
def test_what_is_no_rule_is_refused_in_one_sentence(rules, error, message):
    with pytest.raises(error, match=message):
        read_rules(rules, 2)


@pytest.mark.soak
def test_translate_heeds_the_settings_of_its_model(tokenizer):
    config = TransformerConfig.preset(
        "transformer", vocab_size=tokenizer.vocab_size, num_layers=1, d_model=8, num_heads=1, dff=8, max_length=32
    )
    model = Seq2SeqLM(config)
    text, first = "abc", kerasllm.translate(model, tokenizer, "abc", 2)
    assert kerasllm.translate(model, tokenizer, text, 2, suppress_tokens=[tokenizer.encode(first)[0]])[:1] != first[:1]
    model.generation_settings = {"num_beams": 2, "no_repeat_ngram_size": 1, "max_new_tokens": 5, "min_length": 5}
    bound = kerasllm.translate(model, tokenizer, text, num_best=2)
    assert len(bound) == 2 and all(4 <= len(set(t.text)) == len(t.text) <= 5 for t in bound)
    assert kerasllm.translate(model, tokenizer, text, no_repeat_ngram_size=0, max_new_tokens=24, min_length=0) == first
    with pytest.raises(ValueError, match=r"`num_best` must be at most `num_beams` \(2\), got 3"):
        kerasllm.translate(model, tokenizer, text, num_best=3)
    with pytest.raises(TypeError, match="`translate` has no `top_k`: `translate` searches for the likeliest text"):
        kerasllm.translate(model, tokenizer, text, top_k=3)
