"""Tokenizers: round trips, ids against a plain BPE, Hugging Face loading, special tokens that are text, bad input."""

import json
import random
import re
import time

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from kerasllm.tokenizers import Tokenizer, training, word_splitting

TEXT = (
    "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak. We're 1234; they've 7!\n"
    "“Straße” naïve café 東京 नमस्ते 🙂  two  spaces\ttab\r\n    indented = call(x_1)\n"
) * 20
SPECIAL = [training.PAD, training.START, training.END, "<|user|>"]


def trained(kind):
    return Tokenizer.train([TEXT], vocab_size=360, kind=kind, special_tokens=["<|user|>"], progress=False)


TOKENIZERS = {kind: trained(kind) for kind in ("bpe", "wordpiece", "unigram", "char", "byte")}
all_kinds = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
any_text = st.lists(st.one_of(st.text(), st.sampled_from(SPECIAL), st.text(alphabet=" \n\t\r'ab1.é"))).map("".join)


@pytest.mark.parametrize("kind", ["bpe", "byte"])
@given(text=any_text)
def test_every_text_decodes_to_itself(kind, text):
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == tokenizer.decode(ids, skip_special=False) == text
    assert tokenizer.pad_id not in ids and tokenizer.end_id not in ids


def test_bytes_have_their_own_ids():
    tokenizer = TOKENIZERS["byte"]
    assert tokenizer.vocab_size == 256 + len(SPECIAL)
    assert tokenizer.encode("Aß\0") == [byte + len(SPECIAL) for byte in "Aß\0".encode()]


@given(data=st.binary())
def test_broken_utf8_decodes_as_python_does(data):
    ids = [byte + len(SPECIAL) for byte in data]
    assert TOKENIZERS["byte"].decode(ids) == data.decode("utf-8", "replace")


def test_characters_unknown_ones_included():
    tokenizer = TOKENIZERS["char"]
    assert tokenizer.vocab_size == len(set(TEXT)) + len(SPECIAL) + 1
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert len(tokenizer.encode("a🚀🚀b")) == 4
    assert tokenizer.decode(tokenizer.encode("a🚀🚀b")) == "a��b"


@given(text=any_text.map(lambda text: "".join(filter(TEXT.__contains__, text)).lstrip(" ")))
def test_a_text_of_known_characters_decodes_from_unigram_pieces(text):
    assert TOKENIZERS["unigram"].decode(TOKENIZERS["unigram"].encode(text)) == text


def test_words_decode_from_wordpiece_tokens():
    tokenizer = TOKENIZERS["wordpiece"]
    assert tokenizer.decode(tokenizer.encode("speak , 東京  any ☃☃ Straße")) == "speak, 東 京 any � Straße"


def test_special_tokens_of_a_foreign_unigram_vocabulary_stay_text():
    """There they have the best score of all."""
    vocabulary = [("<unk>", 0.0), ("</s>", 0.0), *((character, -9.0) for character in "▁</s>a")]
    engine = tokenizers.Tokenizer(tokenizers.models.Unigram(vocabulary, unk_id=0))
    engine.add_special_tokens(["<unk>", "</s>"])
    assert engine.encode("a</s>").tokens == ["a", "</s>"]
    assert [engine.id_to_token(i) for i in Tokenizer(engine).encode("a</s>")] == ["a", "<", "/", "s", ">"]


def test_bpe_ids_are_those_of_plain_byte_pair_encoding():
    """Merge by merge, in the order learned, in words found by Python's own `re` (on ASCII, where classes are plain)."""
    model = json.loads(TOKENIZERS["bpe"].engine.to_str())["model"]
    pattern = r"'(?:[sdmt]|ll|re|ve)| ?[A-Za-z]+| ?[0-9]{1,3}| ?[^A-Za-z0-9\t-\r ]+| +|[\t-\r]+"
    text = "Hear, hear: we're   12345 citizens!\n\n  they'd speak\tno further (x_1)" + 12 * "proceed" + "\n"
    expected = []
    for word in (part for match in re.findall(pattern, text) for part in re.findall("(?s).{1,32}", match)):
        symbols = [training.byte_characters()[byte] for byte in word.encode()]
        for left, right in model["merges"]:
            at = 0
            while at + 1 < len(symbols):
                if symbols[at : at + 2] == [left, right]:
                    symbols[at : at + 2] = [left + right]
                at += 1
        expected += [model["vocab"][symbol] for symbol in symbols]
    assert TOKENIZERS["bpe"].encode(text) == expected


def test_tensorflow_splits_words_alike():
    tf = pytest.importorskip("tensorflow")
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(word_splitting.SPLIT_PATTERN), "isolated")
    marked = tf.strings.regex_replace(TEXT, f"({word_splitting.SPLIT_PATTERN})", "\\1\x01").numpy().decode()
    assert marked.split("\x01")[:-1] == [word for word, _ in split.pre_tokenize_str(TEXT)]


@all_kinds
def test_a_long_text_gives_the_ids_of_the_uncut_one(tokenizer):
    draw = random.Random(0)
    text = "".join(draw.choices([" ", "  ", "\n", "\r\n", "\t", "ab", "é", "1234", "'s", "...", "<|user|>"], k=60_000))
    assert len(list(word_splitting.pieces(text, word_splitting.cut_places(tokenizer.engine)))) > 5
    assert tokenizer.encode(text) == tokenizer.engine.encode(text).ids
    assert tokenizer.encode_batch([text, "", "ab", text]) == [
        tokenizer.encode(text),
        [],
        tokenizer.encode("ab"),
        tokenizer.encode(text),
    ]


@all_kinds
@given(text=st.text(alphabet=" \n\ra.1'é", min_size=20), length=st.integers(1, 4))
def test_no_word_reaches_across_a_cut(tokenizer, text, length):
    cut = word_splitting.pieces(text, word_splitting.cut_places(tokenizer.engine), length)
    assert sum((tokenizer.encode(piece) for piece in cut), []) == tokenizer.encode(text)  # noqa: RUF017


def test_one_endless_word_takes_linear_time():
    started = time.perf_counter()
    word = "ab" * 500_000
    assert TOKENIZERS["bpe"].decode(TOKENIZERS["bpe"].encode(word)) == word
    assert time.perf_counter() - started < 10


@all_kinds
def test_saved_and_loaded_special_tokens_stay_text(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    text = TEXT + "<|user|> says <|endoftext|>"
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode(TEXT).ids == tokenizer.encode(TEXT)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        again = Tokenizer.load(path)
        assert again.encode(text) == tokenizer.encode(text)
        assert not {again.pad_id, again.start_id, again.end_id} & set(again.encode(text))
        assert again.encode("<|user|><|endoftext|>", parse_special=True) == [3, 2]
        assert again.decode([3, 2]) == ""
        assert again.decode([3, 2], skip_special=False).replace(" ", "") == "<|user|><|endoftext|>"
        assert (again.pad_id, again.start_id, again.end_id, again.vocab_size) == (0, 1, 2, tokenizer.vocab_size)
        assert again.fingerprint() == tokenizer.fingerprint()
    with pytest.raises(FileExistsError, match="not overwritten"):
        tokenizer.save(tmp_path)


def test_fingerprints_tell_tokenizers_apart():
    other = Tokenizer.train([TEXT + "zyzzyva " * 999], vocab_size=360, special_tokens=["<|user|>"], progress=False)
    assert len({tokenizer.fingerprint() for tokenizer in [*TOKENIZERS.values(), other]}) == 6
    assert trained("bpe").fingerprint() == TOKENIZERS["bpe"].fingerprint()


def test_a_foreign_tokenizer_keeps_its_post_processor_and_loses_its_truncation(tmp_path):
    vocabulary = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "[UNK]": 7}
    engine = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "[UNK]"))
    engine.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    engine.add_special_tokens(["[PAD]", "[CLS]", "[SEP]"])
    engine.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    engine.enable_truncation(4)
    engine.enable_padding(length=9)
    engine.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode("a a a b a a") == [1, 3, 3, 3, 7, 3, 3, 2]
    assert (tokenizer.pad_id, tokenizer.start_id, tokenizer.end_id, tokenizer.vocab_size) == (0, 1, 2, 8)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "a"}, "pad_token": null}')
    assert (Tokenizer.load(tmp_path).end_id, Tokenizer.load(tmp_path).pad_id) == (3, 0)


def test_gpt2_vocabulary_gives_gpt2_ids(shared_data, tmp_path):
    files = [str(shared_data / "gpt2_bpe" / name) for name in ("vocab.json", "merges.txt")]
    tokenizers.ByteLevelBPETokenizer(*files).save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode("Hello world, don't  panic") == [15496, 995, 11, 836, 470, 220, 13619]
    assert (tokenizer.vocab_size, tokenizer.end_id, tokenizer.pad_id) == (50257, 50256, None)


@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=60), limit=st.integers(1, 300))
def test_the_sample_is_even_and_bounded(lengths, limit):
    texts = [f"{index:03}" + "x" * length for index, length in enumerate(lengths)]
    kept = training._sample(texts, limit)
    step = int(kept[1][:3]) if len(kept) > 1 else 1
    assert step & (step - 1) == 0
    if len(kept) > 1:
        assert kept == texts[::step] and sum(map(len, kept)) <= limit
        assert step == 1 or sum(map(len, texts[:: step // 2])) > limit


def test_training_reads_any_iterator_once_and_shows_progress(capsys):
    documents = iter([TEXT[:200], TEXT[200:]])
    tokenizer = Tokenizer.train(documents, vocab_size=340)
    assert tokenizer.vocab_size == 340 and list(documents) == []
    assert "learning the vocabulary" in capsys.readouterr().err


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: Tokenizer.train([TEXT], kind="words"), ValueError, "Unknown kind of tokenizer 'words'"),
        (lambda: Tokenizer.train([TEXT], vocab_size=200), ValueError, "at least 259"),
        (lambda: Tokenizer.train([TEXT], vocab_size=20, kind="char"), ValueError, "different characters"),
        (lambda: Tokenizer.train([TEXT], vocab_size=20, kind="byte"), ValueError, "has 259 ids"),
        (
            lambda: Tokenizer.train([TEXT], vocab_size=20, kind="wordpiece"),
            ValueError,
            "needs at least [0-9]+ for this",
        ),
        (lambda: Tokenizer.train([TEXT], vocab_size=20, kind="unigram"), ValueError, "one for every character"),
        (lambda: Tokenizer.train([]), ValueError, "no text to train"),
        (lambda: Tokenizer.train([""], kind="unigram"), ValueError, "no text to train"),
        (lambda: Tokenizer.train(["", ""], kind="char"), ValueError, "no text to train"),
        (lambda: Tokenizer.train(TEXT), TypeError, r"pass \[text\]"),
        (lambda: Tokenizer.train([b"bytes"]), TypeError, "takes str, got bytes"),
        (lambda: Tokenizer.train(["a\ud800"], kind="char"), ValueError, "lone surrogate"),
        (lambda: Tokenizer.train([TEXT], special_tokens=["<|pad|>"]), ValueError, "must be different"),
        (lambda: Tokenizer.train([TEXT], special_tokens=["user"]), ValueError, "'user' could be a word of the text"),
        (lambda: Tokenizer.train([TEXT], sample_bytes=0), ValueError, "sample_bytes must be at least 1"),
        (lambda: TOKENIZERS["bpe"].encode(7), TypeError, "takes str, got int"),
        (lambda: TOKENIZERS["bpe"].encode("ab\ud800"), ValueError, "lone surrogate.* at character 2"),
        (lambda: TOKENIZERS["bpe"].decode([5, 360]), ValueError, "Token id 360 is not .* 0 to 359"),
        (lambda: TOKENIZERS["bpe"].decode([-1]), ValueError, "Token id -1"),
        (lambda: TOKENIZERS["bpe"].decode([[1]]), ValueError, "one row of integers"),
        (lambda: TOKENIZERS["bpe"].decode([[1, 2], [3]]), ValueError, "rows of several lengths: decode each"),
        (lambda: Tokenizer(TOKENIZERS["bpe"].engine, end="<eot>"), ValueError, "end token '<eot>'"),
        (lambda: Tokenizer.load("no/such/place"), FileNotFoundError, "No tokenizer at no/such/place"),
        (lambda: Tokenizer.load(__file__), ValueError, "not a Hugging Face tokenizer.json"),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, error, message):
    with pytest.raises(error, match=message):
        call()
