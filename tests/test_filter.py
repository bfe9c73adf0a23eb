"""What may be said to a model and by it: parts that judge, and texts that wait until they are judged."""

import dataclasses
import json
import time

import numpy as np
import pytest
from keras import ops

import kerasllm
from kerasllm import safety
from kerasllm.generation.held_back import LONGEST, HeldBack
from kerasllm.models import CausalLM, SequenceClassifier, TransformerConfig
from kerasllm.tokenizers import Tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,!:'0123456789\n"
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}a: {% endif %}"
)
REPLY = "It is a fox. It bites you. It is gone."


def said(*texts):
    """Messages, the first of which is the user's."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def bites(messages):
    return "it bites" if "bite" in messages[-1]["content"] else None


@pytest.fixture(scope="module")
def tiny():
    tokenizer = Tokenizer.train([LETTERS], kind="char", progress=False)
    tokenizer.chat_template = TEMPLATE
    return CausalLM(TransformerConfig(tokenizer.vocab_size, 1, 16, 2, 32, max_length=128)), tokenizer


@dataclasses.dataclass(frozen=True)
class Writes(kerasllm.generation.LogitsRule):
    """Has a model write these tokens, whatever it is asked."""

    ids: tuple

    def start(self, tokens, is_prompt, vocab_size):
        return ops.zeros((len(tokens),), "int32")

    def apply(self, logits, place):
        token = ops.take(ops.convert_to_tensor(self.ids), ops.minimum(place, len(self.ids) - 1))
        return 1e9 * ops.one_hot(token, logits.shape[-1])

    def advance(self, place, token):
        return place + 1


def writing(tokenizer, text):
    """Options with which a model writes a text."""
    ids = (*tokenizer.encode(text), tokenizer.end_id)
    return {"rules": [Writes(ids)], "max_new_tokens": len(ids), "end_ids": [tokenizer.end_id]}


def test_words_are_whole_however_they_are_written():
    part = safety.Blocklist(["fox", "red  Hat", "狐狸", "ﬁne"], ["[0-9]{3}-[0-9]{4}", "SECRET"])
    for text, reason in (
        ("A FOX!", 'the word "fox"'),
        ("a f\u200box", 'the word "fox"'),  # with a space of no width
        ("ａ ｆｏｘ", 'the word "fox"'),
        ("foxes, a firefox", None),
        ("the Red\nhat", 'the word "red  Hat"'),
        ("有狐狸在", 'the word "狐狸"'),
        ("that is fine", 'the word "ﬁne"'),
        ("call 555-1234", 'the pattern "[0-9]{3}-[0-9]{4}"'),
        ("a Secret", 'the pattern "SECRET"'),
        ("", None),
    ):
        assert part(said(text)) == reason, text
    for given, error, message in (
        ({}, ValueError, "words or patterns"),
        ({"words": "fox"}, TypeError, "`words` is a list"),
        ({"words": [" "]}, ValueError, "has letters"),
        ({"patterns": ["("]}, ValueError, "no regular expression"),
    ):
        with pytest.raises(error, match=message):
            safety.Blocklist(**given)


def test_each_decision_is_logged_with_its_reason(tmp_path):
    told = []
    to_file = safety.Filter(safety.Blocklist(["fox"]), bites, log=tmp_path / "log.jsonl")
    to_function = safety.Filter(lambda messages: len(messages) > 1, log=told.append)
    for messages, expected in (
        (said("a fox"), (True, 'the word "fox"', "blocklist", "user")),
        (said("hi", "it bites"), (True, "it bites", "bites", "assistant")),
        (said("hi"), (False, None, None, "user")),
    ):
        assert to_file.judge(messages)[:4] == expected
        to_function.judge(messages, "new")
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["reason"] for line in lines] == ['the word "fox"', "it bites", None]
    assert [line["text"] for line in lines] == ["a fox", "it bites", "hi"] and all(line["time"] for line in lines)
    assert [(one.refused, one.text) for one in told] == [(False, "new"), (True, "new"), (False, "new")]
    for wrong in ((), ("fox",)):
        with pytest.raises(TypeError, match="has parts"):
            safety.Filter(*wrong)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_sentence_leaves_when_it_is_judged_and_nothing_after_one_that_is_refused(size):
    judged = []

    def slow(messages):
        time.sleep(0.001)
        judged.append(messages[-1]["content"])
        return bites(messages)

    held = HeldBack(safety.Filter(slow, answer="No."), said("What is it?"))
    shown = ""
    for begin in range(0, len(REPLY), size):
        piece = held.read(REPLY[begin : begin + size], begin + size >= len(REPLY))
        shown += piece
        assert "bite" not in shown
        assert not piece or held.refused or judged[-1] == shown, "what leaves is what was judged last"
    assert shown == "It is a fox. No." and held.refused
    assert judged == ["What is it?", "It is a fox. ", "It is a fox. It bites you. "]


def test_sentences_are_the_same_in_pieces_of_any_size():
    text = "Dr. Who? (Yes.) 一。二！ and\nso on: " + "x" * LONGEST + " " + "y " * LONGEST + "the end"
    found = []
    for size in (1, 7, len(text)):
        sentences = []
        filter = safety.Filter(lambda messages: None, log=lambda decision: sentences.append(decision.text))  # noqa: B023
        held = HeldBack(filter, said("?"))
        pieces = [held.read(text[i : i + size], i + size >= len(text)) for i in range(0, len(text), size)]
        assert "".join(pieces) == text == "".join(sentences[1:])
        assert max(map(len, sentences)) <= LONGEST
        found.append(sentences)
    assert found[0] == found[1] == found[2]
    assert found[0][1:7] == ["Dr. ", "Who? ", "(Yes.) ", "一。", "二！", " and\n"]


def test_what_was_said_since_the_last_answer_is_judged():
    seen = []
    filter = safety.Filter(lambda messages: seen.append(messages[-1]["content"]))
    system, tool = {"role": "system", "content": "s"}, {"role": "tool", "content": "t"}
    HeldBack(filter, [system, *said("a", "b", "c"), tool])
    assert seen == ["c", "t"]
    seen.clear()
    begun = HeldBack(filter, said("a", "Well, "))
    assert begun.read("yes.", True) == "yes." and seen == ["Well, ", "Well, yes."]


def test_texts_and_chats_go_through_the_filter(tiny, monkeypatch):
    model, tokenizer = tiny
    filter = safety.Filter(bites, answer="No.")
    options = {**writing(tokenizer, REPLY), "filter": filter}
    expected = "It is a fox. No."
    assert kerasllm.generate(model, tokenizer, ["What?", "Does it bite?"], **options) == [expected, "No."]
    assert list(kerasllm.stream(model, tokenizer, "Does it bite?", **options)) == ["No."]
    assert kerasllm.chat(model, tokenizer, said("What?"), **options) == expected
    pieces = kerasllm.stream_chat(model, tokenizer, said("What?"), **options)
    assert next(pieces) == "It is a fox. " and "".join(pieces) == "No."
    assert kerasllm.chat(model, tokenizer, said("What?"), stop=" It bites", **options) == "It is a fox."
    assert kerasllm.generate(model, tokenizer, tokenizer.encode("bite"), **options) == "No."
    with pytest.raises(TypeError, match=r"kerasllm\.safety\.Filter, got Blocklist"):
        kerasllm.chat(model, tokenizer, said("What?"), filter=safety.Blocklist(["a"]))
    with pytest.raises(ZeroDivisionError):
        kerasllm.chat(model, tokenizer, said("What?"), **{**options, "filter": safety.Filter(lambda messages: 1 / 0)})


class Labels(SequenceClassifier):
    """Says "Unsafe" of what has a 9 as its last token, and is told what it read."""

    def call(self, inputs, **_):
        ids = ops.cast(inputs["token_ids"] * inputs["document_ids"], "float32")
        return ops.stack(
            [ops.zeros(ops.shape(ids)[:1]), ops.sum(ops.cast(ids == NINE, "float32"), axis=1) * 2 - 1], axis=1
        )


NINE = None


def test_a_classifier_refuses_above_its_threshold(tiny):
    global NINE
    tokenizer = tiny[1]
    (NINE,) = tokenizer.encode("9")
    config = TransformerConfig(tokenizer.vocab_size, 1, 16, 2, 32, max_length=32)
    model = Labels(config, labels=["Safe", "Unsafe"])
    part = safety.TextClassifier(model, tokenizer)
    share = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(part.scores(["a 9", "a"]), [share, 1 - share], rtol=1e-5)
    assert part(said("a 9")) == "Unsafe, 73%" and part(said("a")) is None and part(said("")) is None
    assert part.calibrate(["a", "b", "a 9", *"cdefghi"], 0.1) == pytest.approx(1 - share)
    assert part.calibrate(["a", "9", "a 9", *"cdefghi"], 0.1) == pytest.approx(share) and part(said("a 9")) is None
    in_pairs = safety.TextClassifier(model, tokenizer, ["Unsafe"], pairs=True)
    assert in_pairs(said("a 9")) is None and in_pairs(said("a", "9")) and in_pairs(said("a", "b")) is None
    assert in_pairs(said("9", "b")), "what was said is read too"
    with pytest.raises(ValueError, match="which has Safe, Unsafe; got Toxic"):
        safety.TextClassifier(model, tokenizer, ["Toxic"])
    with pytest.raises(TypeError, match="got CausalLM"):
        safety.TextClassifier(*tiny)


def test_a_guard_is_read_by_its_answer(tiny, monkeypatch):
    asked = []

    def chat(model, tokenizer, messages, *args, **options):
        asked.append(messages)
        return answer

    monkeypatch.setattr("kerasllm.safety.filter_parts.chat", chat)
    guard = safety.GuardModel(*tiny)
    for answer, reason in (  # noqa: B007
        ("\n\nsafe", None),
        ("\n\nunsafe\nS1,S9", "unsafe S1,S9"),
        ("Safety: Unsafe\nCategories: Violent", "Safety: Unsafe Categories: Violent"),
        ("I am a fox", "no verdict: 'I am a fox'"),
    ):
        assert guard(said("a", "b")) == reason
    yes = safety.GuardModel(*tiny, unsafe="Yes", safe="No")
    answer = "No."
    assert (
        yes([{"role": "system", "content": "s"}, *said("a"), *said("b", "c"), {"role": "tool", "content": "t"}]) is None
    )
    assert asked[-1] == said("a\nb", "c", "t")
    with pytest.raises(ValueError, match="no chat template"):
        safety.GuardModel(tiny[0], Tokenizer.train(["ab"], kind="char", progress=False))
