"""Where text ends: before the stop string that is complete first, however the text came to be looked at."""

import random
from unittest import mock

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from kerasllm.generation import text as generation
from kerasllm.generation.text_stream import continuation, stop_strings
from kerasllm.tokenizers import Tokenizer

TEXT = "ab ba aab bba é 'aba' a'b ab's don't ab. b, 日本 aé"
VOCAB_SIZES = {"bpe": 300, "byte": None, "char": 60, "wordpiece": 60, "unigram": 30}


class Scripted:
    """A `Decoding` that draws what it is told to."""

    def __init__(self, rows):
        self.rows, self.drawn, self.ended = rows, 0, [False] * len(rows)
        self.max_new_tokens = max(map(len, rows))

    def run(self, steps):
        self.drawn = min(self.drawn + steps, self.max_new_tokens)
        self.ended = [ended or self.drawn >= len(row) for ended, row in zip(self.ended, self.rows, strict=True)]
        return not all(self.ended)

    def end(self, row):
        self.ended[row], self.rows[row] = True, self.rows[row][: self.drawn]

    def keep(self):
        pass

    def new_ids(self):
        return [list(row[: self.drawn]) for row in self.rows]


def with_byte_tokens():
    """A vocabulary as SentencePiece makes it: bytes of letters that it lacks are letters, or broken, as a whole."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁ab日"]
    engine = tokenizers.Tokenizer(
        tokenizers.models.BPE({p: i for i, p in enumerate(pieces)}, [], byte_fallback=True, unk_token="<unk>")
    )
    engine.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    decoders = tokenizers.decoders
    engine.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return Tokenizer(engine)


@pytest.fixture(scope="module")
def all_tokenizers():
    trained = [
        Tokenizer.train([TEXT] * 3, **({"vocab_size": size} if size else {}), kind=kind, progress=False)
        for kind, size in VOCAB_SIZES.items()
    ]
    return [*trained, with_byte_tokens()]


def looked_at_every(steps, rows, how, tokenizer, prompt, stop=None):
    """What `how` gives where the decoding draws `rows` and is looked at each so many tokens."""
    with (
        mock.patch.object(generation, "start_decoding", lambda *_: Scripted(list(map(list, rows)))),
        mock.patch.object(generation, "STEPS_BETWEEN_STOP_CHECKS", steps),
    ):
        found = how(None, tokenizer, prompt, stop=stop)
        return found if isinstance(found, str) else list(found)


def by_definition(text, stop):
    """Looks at the text letter by letter; of the stop strings that end there, the longest one goes."""
    for end in range(len(text) + 1):
        if found := [string for string in stop if text[:end].endswith(string)]:
            return text[: end - max(map(len, found))]
    return text


@pytest.mark.parametrize("number", range(len(VOCAB_SIZES) + 1), ids=[*VOCAB_SIZES, "byte tokens"])
@given(data=st.data())
def test_streamed_or_not_text_ends_before_the_stop_string_that_is_complete_first(all_tokenizers, number, data):
    tokenizer, alphabet = all_tokenizers[number], data.draw(st.sampled_from(["ab", "ab '.", "aé", "b日"]))
    ids = tokenizer.encode(data.draw(st.text(alphabet, min_size=6, max_size=20)))
    ids = ids[: data.draw(st.integers(len(ids) // 2, len(ids)))]  # It may end within a letter.
    text = continuation(tokenizer, [5], ids)
    slices = st.tuples(st.integers(0, len(text)), st.integers(1, 4)).map(lambda cut: text[cut[0] : sum(cut)] or "ba")
    stop = data.draw(st.lists(slices, max_size=3))
    prompt = tokenizer.encode("ab")[: data.draw(st.integers(1, 2))]
    expected = by_definition(continuation(tokenizer, prompt, ids), stop)
    chaff = tokenizer.encode("".join(random.Random(1).choices("ab", k=35)))

    steps = data.draw(st.sampled_from([1, 2, 5, 16]))
    assert looked_at_every(steps, [ids, chaff], generation.generate, tokenizer, [prompt] * 2, stop)[0] == expected
    assert "".join(looked_at_every(steps, [ids], generation.stream, tokenizer, prompt, stop)) == expected


def test_letters_that_are_not_whole_stop_nothing_and_are_not_shown(all_tokenizers):
    tokenizer = all_tokenizers[1]  # of bytes
    ids = tokenizer.encode("aé日b")
    pieces = looked_at_every(1, [ids], generation.stream, tokenizer, "a", "\ufffd")
    assert pieces == ["a", "é", "日", "b"]
    assert looked_at_every(1, [ids], generation.generate, tokenizer, "a", "\ufffd") == "aé日b"
    ids = all_tokenizers[-1].encode("aéé")[:-1]
    for how in (generation.generate, generation.stream):
        assert "".join(looked_at_every(1, [ids], how, all_tokenizers[-1], "a")) == "a\ufffd\ufffd\ufffd"
    first, *rest = tokenizer.encode("é")
    assert continuation(tokenizer, [first], rest) == "é"  # of a prompt of ids that ends within a letter


@pytest.mark.parametrize("how", [generation.stream, generation.generate])
def test_each_id_is_decoded_once_however_long_the_text_is(all_tokenizers, how):
    for tokenizer in all_tokenizers:
        counts, decode = [], tokenizer.decode
        for repeats in (10, 40):
            ids = tokenizer.encode(TEXT * repeats)
            with mock.patch.object(tokenizer, "decode", side_effect=decode) as counted:
                text = looked_at_every(16, [ids], how, tokenizer, "ab", ["~never~"])
            assert text if how is generation.generate else len(text) > len(ids) / 20
            counts.append(sum(len(call.args[0]) for call in counted.call_args_list) / len(ids))
        assert max(counts) < 1.5


def test_stop_strings_of_all_kinds():
    assert stop_strings(None) == []
    assert stop_strings(b"ab") == stop_strings(["ab"]) == ["ab"]
    for wrong in ("", ["ab", ""], [3]):
        with pytest.raises(ValueError, match="`stop` must be a non-empty str or a list of them"):
            stop_strings(wrong)
