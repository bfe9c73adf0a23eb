"""Tokenizers as published models have them, inside a graph: vocabularies that lack bytes, Unicode's forms, digits
apart, added tokens, and SentencePiece's models as `tokenizers` reads them."""

import json
import random
import unicodedata

import pytest
import tensorflow as tf
import tokenizers
from graph_tokenizers import Both
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from kerasllm.tokenizers import Tokenizer, patterns
from kerasllm.tokenizers.in_graph.unicode_forms import FORMS, UnicodeForm

TEXT = "the cat and the dog 123 sing a song, naïve café Straße 東京 가각 नमस्ते 🙂 tool_call ing " * 20
PIECES = [
    *map(chr, range(0x180)), *"東京नमस्ते🙂\u0301\u0323가각ᄀ\u1161\u11a8①２Ⅷ\u2028\u3000\ufffd▁", *" \t\n019aeiou" * 9,
    *["the ", " and", " ing", "\n\n", "123", "▁▁", "<tool_call>", "</tool_call>", "<tool", "_call>"] * 5,
    "<|endoftext|>",
]  # fmt: skip
_STEPS = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
MARKED, STRIPPED = decoders.Sequence(_STEPS), decoders.Sequence([*_STEPS, decoders.Strip(" ", 1, 0)])
SPACES = normalizers.Replace(" ", "▁")
READ = [AddedToken(text, normalized=False) for text in ("<tool_call>", "</tool_call>", "<tool", "\n\n\n", "▁▁")]
OWN = Tokenizer.train([TEXT], vocab_size=400, kind="bpe", progress=False)


def byte_level(pre_tokenizer, normalizer=None, added=(), lacking=(), **model):
    """Byte-level BPE, without some bytes."""
    spec = json.loads(OWN.engine.to_str())
    spec["model"].update(model)
    alphabet = {character: index for character, index in spec["model"]["vocab"].items() if index < 259}
    for character in list(alphabet)[-40:] if lacking else ():
        del spec["model"]["vocab"][character]
        spec["model"]["merges"] = [pair for pair in spec["model"]["merges"] if character not in "".join(pair)]
    engine = tokenizers.Tokenizer.from_str(json.dumps(spec))
    engine.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        engine.normalizer = normalizer
    engine.add_tokens(list(added))
    return engine


def sentencepiece(pre_tokenizer, decoder=MARKED, normalizer=None, added=(), **model):
    """BPE over characters, with a token for each byte where they fall back to these."""
    engine = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    engine.normalizer = SPACES
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256) if model["byte_fallback"])]
    options = {"special_tokens": special, "limit_alphabet": 40, "max_token_length": 8, "show_progress": False}
    engine.train_from_iterator([TEXT] * 3, trainers.BpeTrainer(vocab_size=len(special) + 80, **options))
    spec = json.loads(engine.to_str())
    spec["added_tokens"] = spec["added_tokens"][:3]
    spec["normalizer"] = None
    spec["model"].update({"unk_token": "<unk>", "fuse_unk": True, **model})
    engine = tokenizers.Tokenizer.from_str(json.dumps(spec))
    engine.decoder = decoder
    if normalizer is not None:
        engine.normalizer = normalizer
    if pre_tokenizer is not None:
        engine.pre_tokenizer = pre_tokenizer
    engine.add_tokens(list(added))
    return engine


def digits_apart(individual=True):
    parts = [pre_tokenizers.Digits(individual_digits=individual), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    return pre_tokenizers.Sequence(parts)


def qwen():
    split = pre_tokenizers.Split(tokenizers.Regex(patterns.QWEN2), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def metaspace(scheme, split):
    return pre_tokenizers.Metaspace("▁", prepend_scheme=scheme, split=split)


PREPENDED = normalizers.Sequence([normalizers.Prepend("▁"), SPACES])
KINDS = {
    "smollm2": lambda: byte_level(digits_apart(), lacking=True),
    "unknown bytes": lambda: byte_level(digits_apart(False), lacking=True, unk_token="<|endoftext|>"),
    "unknown bytes as one": lambda: byte_level(digits_apart(), lacking=True, unk_token="<|pad|>", fuse_unk=True),
    "a space before": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True), added=READ),
    "qwen": lambda: byte_level(qwen(), normalizers.NFC(), added=READ),
    "llama": lambda: sentencepiece(None, STRIPPED, PREPENDED, byte_fallback=True),
    "llama, metaspace": lambda: sentencepiece(metaspace("first", False), STRIPPED, byte_fallback=True),
    "metaspace, always": lambda: sentencepiece(metaspace("always", True), STRIPPED, byte_fallback=True, added=READ),
    "gemma": lambda: sentencepiece(
        pre_tokenizers.Split(" ", "merged_with_previous"), MARKED, SPACES, byte_fallback=True, added=READ
    ),
    "no bytes": lambda: sentencepiece(metaspace("never", False), byte_fallback=False),
    "no bytes, unknown apart": lambda: sentencepiece(None, MARKED, SPACES, byte_fallback=False, fuse_unk=False),
    "nothing unknown": lambda: sentencepiece(
        None, MARKED, normalizers.Sequence([normalizers.NFKC(), SPACES]), byte_fallback=False, unk_token=None
    ),
}


COMMON = ("qwen", "llama", "gemma")
RARE = [pytest.param(kind, marks=pytest.mark.soak) for kind in KINDS if kind not in COMMON]


@pytest.fixture(scope="module", params=[*COMMON, *RARE])
def both(request):
    return Both(Tokenizer(KINDS[request.param]()))


def test_ids_and_texts_are_those_of_the_tokenizer(both):
    draw = random.Random(0)
    texts = ["", " ", "  ", "a", " a", "ÿÿ", "\xff \x04", "\n\n\n\n", "<tool_call><tool_call"]
    both.check([*texts, *("".join(draw.choices(PIECES, k=draw.randint(1, 30))) for _ in range(400))])
    vocabulary = both.python.engine.get_vocab()
    of_bytes = [index for token, index in vocabulary.items() if token.startswith("<0x")] or [1]
    ids = [*range(both.python.vocab_size), *of_bytes * 2]
    both.check_ids([draw.choices(ids, k=draw.randint(0, 9)) for _ in range(400)])


@pytest.mark.parametrize("form", ["NFC", *(pytest.param(form, marks=pytest.mark.soak) for form in FORMS[1:])])
def test_unicodes_forms_are_those_of_tokenizers(form):
    draw = random.Random(0)
    codes = [chr(code) for code in [*range(0xD800), *range(0xE000, 0x20000), *range(0x20000, 0x32400, 7)]]
    marks = [code for code in codes if unicodedata.combining(code)]
    composing = [code for code in codes if "\u1100" <= code < "\u11ff" or code in "가각간aeEoOuUsnK\u212b\u0915\u093c"]
    mixed = ["".join(draw.choices(marks + composing * 3, k=draw.randint(2, 9))) for _ in range(2000)]
    apart = [unicodedata.normalize("NFD", code) for code in codes]
    texts = [*codes, *apart, *mixed]
    normalize = tf.function(
        UnicodeForm(form).__call__, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False
    )
    found = normalize(tf.constant([text.encode() for text in texts])).numpy()
    normalizer = getattr(normalizers, form)()
    wrong = [
        ascii(text) for text, ours in zip(texts, found, strict=True) if normalizer.normalize_str(text) != ours.decode()
    ]
    assert not wrong
