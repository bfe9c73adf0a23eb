"""Words that a text must not have: beside regular expressions, and by whatever tokens they are written."""

import random
import re

import pytest

import kerasllm
from kerasllm.generation.forbidden_words import without_words, words_automaton
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer

WORDS = ["cat", "New York", "C++", "你好", "catnap", "élan"]


def allows(automaton, text):
    state = 0
    for byte in text.encode():
        state = automaton.following[state][byte]
        if state < 0:
            return False
    return bool(automaton.ends[state])


def has_none(text):
    """The definition: no letter, digit or underscore of ASCII stands beside a word."""
    for word in WORDS:
        behind = r"(?![0-9A-Za-z_])" if re.match("[0-9A-Za-z_]", word[-1]) else ""
        if re.search(r"(?<![0-9A-Za-z_])" + re.escape(word) + behind, text, re.IGNORECASE):
            return False
    return True


def test_an_automaton_knows_the_words():
    automaton, draw = words_automaton(WORDS), random.Random(0)
    parts = ["cat", "nap", "New", "York", " ", "C", "+", "你", "好", "s", ".", "new york", "é", "lan", "É", "x", "_"]
    for _ in range(5000):
        text = "".join(draw.choices(parts, k=draw.randint(1, 7)))
        assert allows(automaton, text) == has_none(text), text


@pytest.mark.soak
@pytest.mark.parametrize("prompt", ["the c", pytest.param("a", marks=pytest.mark.soak)])
def test_no_spelling_of_a_word_is_written(prompt):
    tokenizer = Tokenizer.train(["a cat a cat at cat ca tc act cat"] * 9, vocab_size=270, progress=False)
    model = CausalLM(TransformerConfig(tokenizer.vocab_size, 1, 8, 1, 8, max_length=128))
    favoured = {"bias": dict.fromkeys(map(int, tokenizer.encode("a cat at t c ")), 9.0)}
    options = {"temperature": 1.0, "seed": 1, **favoured}
    free = kerasllm.generate(model, tokenizer, [prompt] * 8, 40, **options)
    held = kerasllm.generate(model, tokenizer, [prompt] * 8, 40, forbidden=["cat"], **options)
    word = re.compile(r"(?<!\w)cat(?!\w)", re.IGNORECASE | re.ASCII)
    assert any(word.search(prompt + text) for text in free)
    assert not any(word.search(prompt + text) for text in held)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ("cat", TypeError, "`forbidden` is a list of words, got 'cat'"),
        ([], ValueError, "without spaces around them"),
        ([" cat"], ValueError, "without spaces around them"),
    ],
)
def test_what_are_no_words_is_refused(words, error, message):
    with pytest.raises(error, match=message):
        without_words(words, None, [], 9, 1)
