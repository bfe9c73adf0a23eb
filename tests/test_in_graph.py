"""Tokenizers inside a graph: the ids and texts of `tokenizers`, on every character, hostile text and broken UTF-8."""

import itertools
import json
import random
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from graph_tokenizers import Both, ragged
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers, pre_tokenizers, processors

from kerasllm.tokenizers import Tokenizer, patterns, training
from kerasllm.tokenizers.in_graph import InGraphTokenizer
from kerasllm.tokenizers.in_graph.merging import Merges

TEXT = (
    "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak. We're 1234; they've 7!\n"
    "“Straße” naïve café 東京 नमस्ते 🙂  two  spaces\ttab\r\n    indented = call(x_1) aaaa ======== I'LL\n"
) * 20
KINDS = ("bpe", "wordpiece", "unigram", "char", "byte")
PATTERNS = {"gpt2": patterns.GPT2, "llama3": patterns.LLAMA3, "qwen2": patterns.QWEN2}
# What the patterns tell apart, and what regular expressions disagree about.
PIECES = [*" \t\n\r\x0b\x85\xa0\u2028\u3000'’sdmtlrevSTREVſaéßﬆ1２Ⅷ.,!-東\u0301🙂_\0\x1f\u200b", "<|endoftext|>", "aaa"]


def foreign(name, vocabulary):
    """A tokenizer with another split pattern, special tokens around each text and, as Llama 3 has it, whole words
    looked up before merges."""
    spec = json.loads(vocabulary.engine.to_str())
    spec["model"]["ignore_merges"] = name == "llama3"
    engine = tokenizers.Tokenizer.from_str(json.dumps(spec))
    split = pre_tokenizers.Split(tokenizers.Regex(PATTERNS[name]), "isolated")
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    engine.post_processor = processors.TemplateProcessing(
        single=f"{training.START} $A {training.END}",
        special_tokens=[(token, engine.token_to_id(token)) for token in (training.START, training.END)],
    )
    return Tokenizer(engine)


def uncased(wordpiece):
    """BERT's own normalizer, and words cut short."""
    spec = json.loads(wordpiece.engine.to_str())
    spec["model"]["max_input_chars_per_word"] = 12
    engine = tokenizers.Tokenizer.from_str(json.dumps(spec))
    engine.normalizer = normalizers.BertNormalizer()
    return Tokenizer(engine)


def make_tokenizers():
    own = {kind: Tokenizer.train([TEXT], vocab_size=500, kind=kind, progress=False) for kind in KINDS}
    foreigners = {name: foreign(name, own["bpe"]) for name in PATTERNS}
    return own | foreigners | {"uncased": uncased(own["wordpiece"])}


TOKENIZERS = make_tokenizers()


MORE = pytest.mark.soak
# Of the patterns one stands for all: GPT-2's own vocabulary and, in test_in_graph_published.py, Qwen's are tried too.
PARAMS = [
    pytest.param(name, marks=MORE if name in ("gpt2", "qwen2", "uncased", "llama3") else ()) for name in TOKENIZERS
]


@pytest.fixture(scope="module", params=PARAMS)
def both(request):
    return Both(TOKENIZERS[request.param])


@pytest.mark.parametrize("every", [23, pytest.param(1, marks=MORE)])
def test_every_character_alone_and_between_others(both, every):
    # All but surrogates; of the planes without characters, and those of private use, each hundredth.
    whole = [range(0xD800), range(0xE000, 0x40000), range(0xE0000, 0xE1000)]
    sampled = [range(0x40000, 0xE0000, 100), range(0xE1000, sys.maxunicode, 100), [sys.maxunicode]]
    codes = [chr(number) for number in itertools.chain(*whole, *sampled)]
    # Most that are in use each in a text of their own, and all of them thirty to a text; ASCII always.
    alone, together = codes[:0x80] + codes[0x80:0x3400:every], codes[::every]
    both.check([f"a{code}'{code}S 1{code} {code}" for code in alone])
    both.check(["".join(together[begin : begin + 30]) for begin in range(0, len(together), 30)])


@given(st.lists(st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join)), max_size=5))
def test_any_batch_of_texts(both, texts):
    both.check(texts)


@pytest.mark.parametrize("count", [1_000, pytest.param(20_000, marks=MORE)])
def test_hostile_texts(both, count):
    draw = random.Random(0)
    both.check(["".join(draw.choices(PIECES, k=draw.randint(0, 40))) for _ in range(count)])


@given(data=st.lists(st.binary(), max_size=4))
def test_broken_utf8_is_read_as_replacement_characters(data):
    both = Both.byte
    found = both._encode(tf.constant(data, tf.string)).to_list()
    assert found == both.python.encode_batch([text.decode("utf-8", "replace") for text in data])


@given(st.data())
def test_any_ids_decode_alike(both, data):
    known = st.integers(0, both.python.vocab_size - 1)
    both.check_ids(data.draw(st.lists(st.lists(known), min_size=1, max_size=4)))


def random_rows(vocab_size, count=1_000):
    """Rows of ids; in byte-level vocabularies most of them are broken UTF-8."""
    draw = random.Random(0)
    return [draw.choices(range(vocab_size), k=draw.randint(0, 20)) for _ in range(count)]


@pytest.mark.parametrize("count", [1_000, pytest.param(20_000, marks=MORE)])
def test_rows_of_random_ids_decode_alike(both, count):
    both.check_ids(random_rows(both.python.vocab_size, count))


Both.byte = Both(TOKENIZERS["byte"])


def test_a_long_word_takes_linear_time(both):
    draw = random.Random(0)
    texts = ["a" * 100_000, "".join(draw.choices("eaprocdtw", k=100_000)), "é" * 50_000 + "ab" * 25_000]
    both.encode(["warm up"])
    for text in texts:
        ids = both.python.encode(text)
        began = time.perf_counter()
        found = both.encode([text])
        assert time.perf_counter() - began < 4  # alone on its cores it takes well under 2 seconds
        assert found == [ids]


def plain_merges(rules, tokens):
    """The definition: the pair of the lowest rank, the leftmost of equals, until none is left."""
    ranks = {(left, right): (rank, merged) for rank, (left, right, merged) in enumerate(rules)}
    tokens = list(tokens)
    while pairs := [(ranks[pair], at) for at, pair in enumerate(itertools.pairwise(tokens)) if pair in ranks]:
        (_, merged), at = min(pairs)
        tokens[at : at + 2] = [merged]
    return tokens


@pytest.mark.parametrize("in_order", [True, False])
@settings(max_examples=10)
@given(data=st.data())
def test_merges_are_those_of_the_definition(in_order, data):
    """Also where words are longer than the reach of a round, and where a rule makes what an earlier one merges."""
    draw = data.draw(st.randoms(use_true_random=False))
    texts = ["a", "b"]
    rules = []
    for _ in range(draw.randint(1, 12)):
        left, right = draw.choice(texts), draw.choice(texts)
        if len(left + right) <= 6 and left + right not in texts:
            rules.append((left, right, left + right))
            texts.append(left + right)
    if not in_order:
        draw.shuffle(rules)
    numbered = [tuple(map(texts.index, rule)) for rule in rules]
    merge = Merges(numbered, np.array([len(text) for text in texts]))
    words = [[draw.randint(0, 1) for _ in range(draw.randint(1, 60))] for _ in range(30)]
    numbers = np.repeat(np.arange(30), [len(word) for word in words]).astype("int32")
    tokens, of_word = merge(tf.constant(sum(words, []), tf.int32), tf.constant(numbers))  # noqa: RUF017
    found = [tokens[of_word == number].numpy().tolist() for number in range(30)]
    assert found == [plain_merges(numbered, word) for word in words]


@pytest.fixture(scope="module")
def real_texts(shared_data):
    """Shakespeare in paragraphs, and a Chinese sentence for each of them."""
    shakespeare = (shared_data / "tinyshakespeare" / "input.txt").read_text()
    chinese = (shared_data / "tatoeba_en_zh" / "cmn.txt").read_text().splitlines()[::3]
    return shakespeare.split("\n\n"), [line.split("\t")[1] for line in chinese]


@pytest.mark.parametrize("every", [20, pytest.param(1, marks=MORE)])
def test_gpt2s_own_vocabulary(shared_data, real_texts, every):
    files = [str(shared_data / "gpt2_bpe" / name) for name in ("vocab.json", "merges.txt")]
    both = Both(Tokenizer(tokenizers.ByteLevelBPETokenizer(*files)._tokenizer))
    shakespeare, chinese = real_texts
    both.check([*shakespeare[::every], *chinese[::every], "".join("".join(shakespeare).split())[:20_000]])
    both.check_ids(random_rows(both.python.vocab_size))


@pytest.mark.parametrize(("vocab_size", "every"), [(1000, 20), pytest.param(6000, 1, marks=MORE)])
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=MORE) if kind == "wordpiece" else kind for kind in KINDS])
def test_real_text(kind, vocab_size, every, real_texts):
    shakespeare, chinese = (texts[::every] for texts in real_texts)
    tokenizer = Tokenizer.train([*shakespeare[::5], *chinese[::3]], vocab_size, kind=kind, progress=False)
    Both(tokenizer).check([*shakespeare, *chinese])


def test_the_continuation_of_a_prompt():
    both = Both(TOKENIZERS["bpe"])
    whole = both.python.encode("“Straße” naïve 🙂")
    prompts, new = ragged([whole[:2], []]), ragged([whole[2:], whole])
    prompt = both.python.decode(whole[:2])
    expected = [both.python.decode(whole)[len(prompt) :], both.python.decode(whole)]
    assert [text.decode() for text in both._continuation(prompts, new).numpy()] == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: setattr(e, "normalizer", tokenizers.normalizers.Strip()), "its normalizer is 'Strip'"),
        (lambda e: setattr(e, "pre_tokenizer", pre_tokenizers.Whitespace()), "its pre-tokenizer is 'Whitespace'"),
        (
            lambda e: setattr(
                e, "pre_tokenizer", pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel()])
            ),
            "with add_prefix_space, after others",
        ),
        (lambda e: setattr(e, "decoder", tokenizers.decoders.BPEDecoder()), "its decoder is 'BPEDecoder'"),
        (lambda e: e.add_tokens([AddedToken("<tool>", lstrip=True)]), r"its added token is \('<tool>', 'lstrip'\)"),
        (lambda e: e.add_tokens(["|>"]), "its added token is '|>'"),
    ],
)
def test_what_the_graph_cannot_reproduce_is_refused_by_name(change, message):
    engine = tokenizers.Tokenizer.from_str(TOKENIZERS["bpe"].engine.to_str())
    change(engine)
    with pytest.raises(ValueError, match=message):
        InGraphTokenizer(Tokenizer(engine))


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("wordpiece", {"normalizer": {"type": "NFKC"}}, "its normalizer is 'NFKC'"),
        ("wordpiece", {"pre_tokenizer": {"type": "WhitespaceSplit"}}, "its pre-tokenizer is 'WhitespaceSplit'"),
        ("unigram", {"normalizer": {"type": "Lowercase"}}, "its normalizer is 'Lowercase'"),
        ("unigram", {"pre_tokenizer": None}, r"its pre-tokenizer is \[None\]"),
        ("unigram", {"model": {"type": "Unigram", "unk_id": 0, "vocab": [["u", 0.0], ["a", -0.1]]}}, "are rounded"),
    ],
)
def test_parts_of_other_kinds_are_refused_too(kind, change, message):
    spec = json.loads(TOKENIZERS[kind].engine.to_str()) | change
    engine = tokenizers.Tokenizer.from_str(json.dumps(spec))
    with pytest.raises(ValueError, match=message):
        InGraphTokenizer(Tokenizer(engine))
