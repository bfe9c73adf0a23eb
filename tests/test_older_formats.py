"""Tokenizers from files of before tokenizer.json: ids of SentencePiece and `tokenizers`, and what is refused."""

import json
import shutil

import pytest
import sentencepiece
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from kerasllm.tokenizers import Tokenizer
from kerasllm.tokenizers.older_formats import write_marian
from kerasllm.tokenizers.sides import Sides, load_tokenizer

WORDS = ["the cat", "sat on", "a naïve café", "Straße 12", "don't", "tokens & tokenization", "low lower lowest", "東京"]
CORPUS = [" ".join(WORDS[i % 8 :] + WORDS[: i % 5]) for i in range(200)]
HOSTILE = [
    *["", " ", "the cat sat", "  two  spaces \t tab\r\n x ", "▁a ▁▁b", "naïve café Straße", "日本語 東京", "\0nul\0"],
    *["🙂 \u200d\u0301 e\u0301", "\u3000wide", "A\u00a0nbsp", "1234567", "ﬁ ½ Ⅷ", "مرحبا ६", "DON'T", "<0x41>"],
]
SPECIAL = ["<s>", "</s>", "<unk>", "<pad>", "<mask>", "<extra_id_0>", "[SEP]", "en_XX", "<|endoftext|>"]
any_text = st.lists(st.one_of(st.text(max_size=6), st.sampled_from(SPECIAL + WORDS))).map("".join)
LLAMA = {"byte_fallback": True, "remove_extra_whitespaces": False, "split_digits": True, "add_dummy_prefix": True}
FILES = {
    "unigram": {"model_type": "unigram"},
    "t5": {"model_type": "unigram", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    "bpe": {"model_type": "bpe", "normalization_rule_name": "identity", **LLAMA},
    "deberta": {
        **{"model_type": "unigram", "pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3},
        **{"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"},
    },
    "bytes": {"model_type": "unigram", "normalization_rule_name": "identity", "byte_fallback": True},
    "gemma": {
        **{"model_type": "bpe", "normalization_rule_name": "identity", **LLAMA, "add_dummy_prefix": False},
        **{"user_defined_symbols": "<tag>,▁▁▁", "pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3},
        **{"pad_piece": "<pad>", "eos_piece": "<eos>", "bos_piece": "<bos>"},
    },
}


@pytest.fixture(scope="module")
def spm(tmp_path_factory):
    """Models of SentencePiece by name."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    for name, options in FILES.items():
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS),
            model_prefix=str(folder / name),
            vocab_size=330 if "byte_fallback" in options else 70,
            hard_vocab_limit=False,
            minloglevel=2,
            **options,
        )
    return {name: folder / f"{name}.model" for name in FILES}


def folder_of(folder, files, config=None, **settings):
    """A folder with copies of files by name, a tokenizer_config.json and a config.json."""
    folder.mkdir(exist_ok=True, parents=True)
    for name, source in files.items():
        shutil.copy(source, folder / name)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps(config or {}))
    return folder


def processor(path):
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


FAIRSEQ = {0: 3, 1: 0, 2: 2}
SENTENCEPIECE = {
    "t5": ("spiece.model", "t5", lambda ids: [*ids, 1]),
    "xlm-roberta": ("sentencepiece.bpe.model", "unigram", lambda ids: [0, *(FAIRSEQ.get(i, i + 1) for i in ids), 2]),
    "deberta-v2": ("spm.model", "deberta", lambda ids: [1, *ids, 2]),
    "llama": ("tokenizer.model", "bpe", lambda ids: [1, *ids]),
    "mistral": ("tokenizer.model", "bytes", lambda ids: [1, *ids]),
    "gemma": ("tokenizer.model", "gemma", lambda ids: [2, *ids]),
}


@pytest.fixture(scope="module")
def converted(spm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted")
    return {
        kind: (Tokenizer.load(folder_of(folder / kind, {file: spm[name]}, {"model_type": kind})), processor(spm[name]))
        for kind, (file, name, _) in SENTENCEPIECE.items()
    }


@pytest.mark.parametrize("kind", SENTENCEPIECE)
def test_ids_are_those_of_sentencepiece(kind, converted):
    ours, theirs = converted[kind]
    expected = SENTENCEPIECE[kind][2]
    for text in [*HOSTILE, *CORPUS[:5]]:
        assert ours.encode(text) == expected(theirs.encode(text)), text
        known = theirs.decode(theirs.encode(text)).replace(" \N{DOUBLE QUESTION MARK} ", "")
        assert ours.decode(ours.encode(text)) == known or "▁" in text


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma"])
@given(text=any_text)
def test_bytes_stand_for_what_is_unknown(kind, converted, text):
    ours, theirs = converted[kind]
    assert ours.encode(text) == SENTENCEPIECE[kind][2](theirs.encode(text))


@pytest.mark.parametrize("kind", SENTENCEPIECE)
@given(text=any_text)
def test_special_tokens_in_a_text_stay_text(kind, converted, text):
    ours, _ = converted[kind]
    added = ours.engine.get_added_tokens_decoder()
    special = {index for index, token in added.items() if token.special} - {ours.unknown_id}
    assert special and not special & set(next(ours.encode_stream([text], bare=True)).tolist())


def trained_bpe(folder, special=()):
    engine = tokenizers.ByteLevelBPETokenizer()
    engine.train_from_iterator(CORPUS, vocab_size=300, special_tokens=list(special), show_progress=False)
    folder.mkdir(exist_ok=True)
    engine.save_model(str(folder))
    return engine


def test_byte_level_bpe(tmp_path):
    names = {"gpt2": ["<|endoftext|>"], "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]}
    for kind, special in names.items():
        engine = trained_bpe(folder_of(tmp_path / kind, {}, {"model_type": kind}), special)
        ours = Tokenizer.load(tmp_path / kind)
        before, after = ([0], [2]) if kind == "roberta" else ([], [])
        for text in HOSTILE:
            assert ours.encode(text) == [*before, *engine.encode(text).ids, *after]
            assert ours.decode(ours.encode(text)) == text
        assert ours.encode(special[0], parse_special=True) == [*before, 0, *after]
        assert ours.end_id == (2 if kind == "roberta" else 0)


def test_usual_tokens_that_a_vocabulary_lacks_are_not_added(tmp_path):
    trained_bpe(folder_of(tmp_path, {}, {"model_type": "gpt2"}))
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.vocab_size, tokenizer.end_id) == (300, None)


def test_gpt2_and_its_folder_without_a_tokenizer_json(shared_data):
    ours = Tokenizer.load(shared_data / "gpt2_bpe")
    assert ours.encode("Hello world, don't  panic") == [15496, 995, 11, 836, 470, 220, 13619]
    assert (ours.vocab_size, ours.end_id) == (50257, 50256)


def test_wordpiece(tmp_path):
    rules = {
        "do_lower_case": "lowercase",
        "strip_accents": "strip_accents",
        "tokenize_chinese_chars": "handle_chinese_chars",
    }
    trained = tokenizers.BertWordPieceTokenizer(lowercase=False)
    trained.train_from_iterator(CORPUS, vocab_size=200, show_progress=False)
    for changed in [{}, {"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False}]:
        folder = folder_of(tmp_path / str(len(changed)) / str(list(changed)), {}, {"model_type": "bert"}, **changed)
        trained.save_model(str(folder))
        options = {rules[name]: value for name, value in changed.items()}
        engine = tokenizers.BertWordPieceTokenizer(str(folder / "vocab.txt"), **options)
        ours = Tokenizer.load(folder)
        for text in HOSTILE:
            assert ours.encode(text) == engine.encode(text).ids
        bare = next(ours.encode_stream(["[SEP] [MASK]"], bare=True)).tolist()
        assert ours.mask_id not in bare and ours.end_id not in bare


def test_t5_has_its_sentinels_behind_the_vocabulary(converted):
    tokenizer, model = converted["t5"]
    assert tokenizer.vocab_size == len(model) + 100
    assert tokenizer.encode("<extra_id_0>", parse_special=True) == [tokenizer.vocab_size - 1, 1]
    assert (tokenizer.pad_id, tokenizer.end_id, tokenizer.unknown_id) == (0, 1, 2)


def pieces_of(path):
    return [processor(path).id_to_piece(i) for i in range(len(processor(path)))]


def test_deberta_has_its_mask_behind_the_vocabulary(spm, converted, tmp_path):
    ours, theirs = converted["deberta-v2"]
    assert (ours.pad_id, ours.start_id, ours.end_id, ours.mask_id) == (0, 1, 2, theirs.vocab_size())
    folder = folder_of(tmp_path, {"spm.model": spm["deberta"]}, {"model_type": "deberta-v2"}, do_lower_case=True)
    with pytest.raises(ValueError, match="asks for do_lower_case=True beside a model of SentencePiece"):
        Tokenizer.load(folder)


def test_marian_has_two_models_and_one_vocabulary(spm, tmp_path):
    pieces = [*sorted({*pieces_of(spm["unigram"]), *pieces_of(spm["t5"]), ">>de<<"} - {"<s>", "<pad>"}), "<pad>"]
    ids = {piece: index for index, piece in enumerate(pieces)}
    folder = folder_of(tmp_path, {"source.spm": spm["unigram"], "target.spm": spm["t5"]}, {"model_type": "marian"})
    (folder / "vocab.json").write_text(json.dumps(ids))
    sides = Sides.of(load_tokenizer(folder))
    for text in HOSTILE:
        theirs = [
            [ids.get(p, ids["<unk>"]) for p in processor(spm[n]).encode(text, out_type=str)] for n in ("unigram", "t5")
        ]
        assert next(sides.encode_sources([text])) == [*theirs[0], ids["</s>"]]
        assert next(sides.encode_targets([text])) == [ids["<pad>"], *theirs[1], ids["</s>"]]
    german, plain = sides.encode_sources([">>de<< the cat", "the cat"])
    assert german == [ids[">>de<<"], *plain]
    (tmp_path / "again").mkdir()
    write_marian(sides.source.engine, sides.target.engine, tmp_path / "again")
    again = Sides.of(load_tokenizer(tmp_path / "again"))
    for text in [*HOSTILE, ">>de<< the cat"]:
        assert [*again.encode_sources([text])] == [*sides.encode_sources([text])]
        assert [*again.encode_targets([text])] == [*sides.encode_targets([text])]


def test_languages_stand_where_their_models_expect_them(spm, tmp_path):
    body = processor(spm["unigram"]).encode("the cat")
    fairseq, size = [FAIRSEQ.get(i, i + 1) for i in body], len(processor(spm["unigram"]))
    file = {"sentencepiece.bpe.model": spm["unigram"]}
    mbart = Tokenizer.load(folder_of(tmp_path / "mbart", file, {"model_type": "mbart"}, src_lang="ro_RO"))
    assert mbart.encode("the cat") == [*fairseq, 2, size + 1 + 19]
    assert (mbart.vocab_size, mbart.mask_id) == (size + 27, size + 26)
    languages = {"additional_special_tokens": ["eng_Latn", "fra_Latn"]}
    nllb = folder_of(tmp_path / "nllb", file, None, tokenizer_class="NllbTokenizer", src_lang="fra_Latn", **languages)
    assert Tokenizer.load(nllb).encode("the cat") == [size + 2, *fairseq, 2]
    folder_of(nllb, {}, None, tokenizer_class="NllbTokenizerFast", legacy_behaviour=True, **languages)
    assert Tokenizer.load(nllb).encode("the cat") == [*fairseq, 2, size + 1]
    m2m = folder_of(tmp_path / "m2m", file, {"model_type": "m2m_100"}, additional_special_tokens=["__de__", "__en__"])
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", *reversed(pieces_of(spm["unigram"])[3:])]
    (m2m / "vocab.json").write_text(json.dumps({piece: index for index, piece in enumerate(vocabulary)}))
    theirs = [vocabulary.index(piece) for piece in processor(spm["unigram"]).encode("the cat", out_type=str)]
    assert Tokenizer.load(m2m).encode("the cat") == [len(vocabulary) + 1, *theirs, 2]
    sides = Sides.of(Tokenizer.load(m2m))
    assert next(sides.encode_sources(["the cat"])) == [len(vocabulary) + 1, *theirs, 2]


def test_added_and_special_tokens_are_taken_along(spm, tmp_path):
    file, size = {"tokenizer.model": spm["bpe"]}, len(processor(spm["bpe"]))
    decoder = {
        str(size): {"content": "<|im_start|>", "special": True},
        str(size + 1): {"content": "<tool>", "special": False, "rstrip": True},
    }
    tokens = {"eos_token": {"content": "<|im_start|>"}, "add_bos_token": False, "add_eos_token": True}
    folder = folder_of(tmp_path / "a", file, {"model_type": "llama"}, added_tokens_decoder=decoder, **tokens)
    (folder / "special_tokens_map.json").write_text('{"pad_token": "<new>", "eos_token": "</s>"}')
    tokenizer = Tokenizer.load(folder)
    assert (tokenizer.end_id, tokenizer.pad_id, tokenizer.vocab_size) == (size, size + 2, size + 3)
    assert size + 1 in tokenizer.encode("the <tool> cat") and tokenizer.encode("<|im_start|>")[-1] == size
    folder = folder_of(tmp_path / "b", file, {"model_type": "llama"})
    (folder / "added_tokens.json").write_text(json.dumps({"<b>": size + 1, "<a>": size}))
    assert Tokenizer.load(folder).encode("<a><b>")[-2:] == [size, size + 1]
    tokenizer.save(tmp_path / "c")
    again = Tokenizer.load(tmp_path / "c")
    assert again.fingerprint() == tokenizer.fingerprint() and again.encode("the <tool>") == tokenizer.encode(
        "the <tool>"
    )


def test_only_the_beginning_gets_a_space_where_the_settings_say_so(spm, tmp_path):
    file, model = {"tokenizer.model": spm["bpe"]}, processor(spm["bpe"])
    for legacy, expected in ((True, "▁the"), (False, "the")):
        folder = folder_of(tmp_path / str(legacy), file, {"model_type": "llama"}, legacy=legacy)
        tokenizer = Tokenizer.load(folder)
        ids = tokenizer.encode("the</s>the", parse_special=True)
        before, behind = ids[1 : ids.index(2)], ids[ids.index(2) + 1 :]
        assert before == model.encode("the")
        assert "".join(map(tokenizer.engine.id_to_token, behind)) == expected


def truncated(path):
    path.write_bytes(path.read_bytes()[:-9])


BAD = {
    "a truncated model": ("bpe", lambda f: truncated(f / "tokenizer.model"), "is not a whole model of SentencePiece"),
    "an empty model": ("bpe", lambda f: (f / "tokenizer.model").write_bytes(b""), "is not a whole model of Sentence"),
    "a model cut between fields": (
        "bpe",
        lambda f: (f / "tokenizer.model").write_bytes(b"\x0a\x03\x0a\x01a"),
        "is not a whole model of SentencePiece",
    ),
    "no languages": (
        "bpe",
        lambda f: ((f / "tokenizer.model").rename(f / "sentencepiece.bpe.model"), named(f, "NllbTokenizer")),
        "does not name the languages",
    ),
    "an unknown class": (
        "bpe",
        lambda f: named(f, "CpmTokenizer"),
        "its class of tokenizers, CpmTokenizer; it does for",
    ),
    "another file than its class has": (
        "bpe",
        lambda f: named(f, "BertTokenizer"),
        "neither tokenizer.json nor vocab.txt",
    ),
    "another id": (
        "bpe",
        lambda f: (f / "added_tokens.json").write_text('{"<a>": 9999}'),
        "gives the token '<a>' the id 9999, and its vocabulary",
    ),
    "ids that are none": (
        "bpe",
        lambda f: (f / "added_tokens.json").write_text('{"<a>": "x"}'),
        "added_tokens.json does not list added tokens with their ids",
    ),
    "a setting of another type": (
        None,
        lambda f: (f / "tokenizer_config.json").write_text('{"add_prefix_space": "no"}'),
        "a setting of tokenizer_config.json is of the wrong type",
    ),
    "ends that are no ids": (
        None,
        lambda f: (f / "tokenizer_config.json").write_text('{"end_ids": [999999]}'),
        "names end_ids that are no ids",
    ),
    "a template that is no text": (
        None,
        lambda f: (f / "chat_template.jinja").write_bytes(b"\xff"),
        "chat_template.jinja is not UTF-8: byte 0",
    ),
    "settings that are no object": ("bpe", lambda f: (f / "tokenizer_config.json").write_text("[]"), "holds a list"),
    "a merge of one token": (
        None,
        lambda f: broken_merge(f, "abc"),
        "merges.txt has in line 3 no two tokens of vocab.j",
    ),
    "a merge of unknown tokens": (None, lambda f: broken_merge(f, "a ☃"), "merges.txt has in line 3 no two tokens"),
    "no merges": (None, lambda f: (f / "merges.txt").unlink(), "neither tokenizer.json nor merges.txt"),
    "a vocabulary that is none": (None, lambda f: (f / "vocab.json").write_text('{"a": -1}'), "give each token an id"),
    "one id twice": (None, lambda f: (f / "vocab.json").write_text('{"a": 1, "b": 1}'), "several tokens the same id"),
    "a damaged vocabulary": (None, lambda f: truncated(f / "vocab.json"), "vocab.json is not JSON"),
}


def named(folder, name):
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))


def broken_merge(folder, line):
    lines = (folder / "merges.txt").read_text().split("\n")
    (folder / "merges.txt").write_text("\n".join([*lines[:2], line, *lines[3:]]))


@pytest.mark.parametrize(("model", "damage", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_read_is_refused_in_one_sentence(model, damage, message, spm, tmp_path):
    if model:
        folder_of(tmp_path, {"tokenizer.model": spm[model]}, {"model_type": "llama"})
    else:
        trained_bpe(folder_of(tmp_path, {}, {"model_type": "gpt2"}))
    damage(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(raised.value)
