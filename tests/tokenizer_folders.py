"""Folders of tokenizers as people have them, with small vocabularies, and texts to try them on."""

import functools
import io
import json
import random
import re
from pydoc_data import topics

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

_HOSTILE = [
    *["", " ", "  ", "\n", "\t", "the cat", " the cat", "the cat ", "  two  spaces \t tab\r\n x ", "▁a ▁▁b", "a▁"],
    *[
        "naïve café Straße ÉCOLE",
        "e\u0301 \u0301 n\u0303",
        "日本語 東京 한국어",
        "中文,字符。",
        "\0nul\0",
        "\ufeffmark",
    ],
    *[
        "🙂 \u200d 👩\u200d👩\u200d👧",
        "\u3000wide",
        "A\u00a0nbsp\u2003em",
        "1234567 12 3.14 1,000",
        "ﬁ ½ Ⅷ ②",
        "مرحبا ६ שלום",
    ],
    *[
        "DON'T stop I'll we'Ve",
        "<0x41><0x0A>",
        "a" * 300,
        "İstanbul ẞ ſ",
        "x\u2028y\u2029z\x85w\x0bv",
        "don't  you\n\n\n\tknow",
    ],
]
_ALIKE = ["<s>", "</s>", "<unk>", "<pad>", "<mask>", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "[PAD]", "<|endoftext|>"]
_ALIKE += [
    "<|im_start|>",
    "<|im_end|>",
    "<extra_id_0>",
    "<extra_id_1>",
    "<bos>",
    "<eos>",
    "<start_of_turn>",
    "en_XX",
    "__de__",
]
_ALIKE += ["eng_Latn", "<tool>", "<|padding|>", "▁<PRE>", "<PRE>", "▁<MID>", "<FILL_ME"]


def documents():
    """Sentences of Python's own documentation."""
    words = "\n".join(topics.topics[name] for name in sorted(topics.topics)[:25])
    words = re.sub(r"([*=~^-])\1{3,}", "", words)  # rows of signs can be cut in many ways that are equally likely
    return [line[:90] for line in re.split(r"\n\n|(?<=[.:]) ", words) if line.strip()]


@functools.cache
def texts():
    """2,000 texts: prose and code, hostile characters, and what looks like special tokens."""
    random_ = random.Random(0)
    sentences, found = documents(), [*_HOSTILE, *_ALIKE]
    found += [f"hello {token} world" for token in _ALIKE] + [f"hello{token}world {token}{token}\n" for token in _ALIKE]
    pieces = [*_HOSTILE, *_ALIKE, *sentences[:50]]
    while len(found) < 800:
        found.append("".join(random_.choice(pieces) + random_.choice(["", " ", "\n"]) for _ in range(3)))
    while len(found) < 1000:
        found.append("".join(chr(random_.randrange(1, random_.choice([0x250, 0xD800]))) for _ in range(8)))
    while len(found) < 2000:
        sentence = random_.choice(sentences)
        found.append(random_.choice([sentence, sentence.upper(), sentence.title(), sentence.replace("e", "é")]))
    return found


SPECIAL = ["<s>", "<pad>", "<|padding|>", "</s>", "<unk>", "<mask>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_UNDERSCORED = pre_tokenizers.Metaspace()


def added(ids, **flags):
    """The added tokens of a tokenizer.json, from a dict from tokens to ids."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True, **flags}
    return [{"id": index, "content": token, **flags} for token, index in ids.items()]


def described(engine, special, **parts):
    """The tokenizer.json of an engine, with parts replaced, whose first tokens are special ones."""
    spec = json.loads(engine.to_str()) | parts
    vocabulary = spec["model"]["vocab"]
    ids = {piece: i for i, (piece, _) in enumerate(vocabulary)} if isinstance(vocabulary, list) else vocabulary
    return {**spec, "added_tokens": added({token: ids[token] for token in special})}


def _trained(model, trainer, **parts):
    engine = tokenizers.Tokenizer(model)
    for name, part in parts.items():
        setattr(engine, name, part)
    engine.train_from_iterator([*documents()[:400], *_HOSTILE], trainer)
    return engine


@functools.cache
def byte_level():
    """Byte-level BPE which lacks some bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:-9]
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return described(_trained(models.BPE(), trainer, pre_tokenizer=words, decoder=decoders.ByteLevel()), SPECIAL)


@functools.cache
def word_pieces(special=("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")):
    special = [*special]
    trainer = trainers.WordPieceTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    parts = {
        "normalizer": normalizers.BertNormalizer(lowercase=False),
        "pre_tokenizer": pre_tokenizers.BertPreTokenizer(),
        "decoder": decoders.WordPiece(),
    }
    return described(_trained(models.WordPiece(unk_token="[UNK]"), trainer, **parts), special)


@functools.cache
def unigram(special=("<s>", "<pad>", "</s>", "<unk>"), last=("<mask>",)):
    """Unigram pieces between special tokens, with SentencePiece's rules for characters."""
    model = sentencepiece_model_pb2.ModelProto.FromString(sentencepiece_file("unigram"))
    pieces = [(piece.piece, piece.score) for piece in model.pieces if piece.type == 1]
    vocabulary = [*((token, 0.0) for token in special), *pieces, *((token, 0.0) for token in last)]
    engine = tokenizers.Tokenizer(
        models.Unigram(vocabulary, next(i for i, token in enumerate(special) if "unk" in token.lower()))
    )
    engine.normalizer = normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap)
    engine.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), _UNDERSCORED])
    engine.decoder = decoders.Metaspace()
    return described(engine, [*special, *last])


@functools.cache
def underscored(special=("<unk>", "<s>", "</s>")):
    """BPE of SentencePiece's kind, with a token for each byte."""
    trainer = trainers.BpeTrainer(vocab_size=700, limit_alphabet=150, show_progress=False)
    learned = json.loads(_trained(models.BPE(), trainer, pre_tokenizer=_UNDERSCORED).to_str())["model"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *learned["vocab"]]
    ids = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    merges = [tuple(pair) for pair in learned["merges"]]
    engine = tokenizers.Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    engine.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    engine.decoder = decoders.Sequence(steps)
    return described(engine, special)


@functools.cache
def sentencepiece_file(kind, **options):
    """The bytes of a model of SentencePiece."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*documents()[:400], *(text for text in _HOSTILE if len(text) < 99)]),
        model_writer=model,
        model_type=kind,
        vocab_size=600,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def template(single, ids):
    """The post-processor of a tokenizer.json from tokens around "$A"."""
    tokens = [token for token in single.split() if token != "$A"]
    made = processors.TemplateProcessing(single, f"{single} $B:1", [(token, ids[token]) for token in set(tokens)])
    engine = tokenizers.Tokenizer(models.BPE())
    engine.post_processor = made
    return json.loads(engine.to_str())["post_processor"]


def ids_of(spec):
    """The ids of a tokenizer.json by token."""
    vocabulary = spec["model"]["vocab"]
    ids = {piece: i for i, (piece, _) in enumerate(vocabulary)} if isinstance(vocabulary, list) else dict(vocabulary)
    return ids | {token["content"]: token["id"] for token in spec["added_tokens"]}


def write(folder, spec=None, settings=None, config=None, **files):
    """Writes a folder: a tokenizer.json, a tokenizer_config.json, a config.json, and others by name."""
    folder.mkdir(parents=True, exist_ok=True)
    jsons = {"tokenizer.json": spec, "tokenizer_config.json": settings, "config.json": config}
    for name, value in {**jsons, **{name.replace("__", "."): value for name, value in files.items()}}.items():
        if isinstance(value, bytes):
            (folder / name).write_bytes(value)
        elif value is not None:
            (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    return folder


def as_vocabulary(spec):
    """The vocab.json and merges.txt of a byte-level tokenizer.json."""
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in spec["model"]["merges"])])
    return {"vocab__json": spec["model"]["vocab"], "merges__txt": merges + "\n"}
