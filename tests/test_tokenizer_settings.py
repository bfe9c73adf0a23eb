"""A tokenizer.json beside its settings: the ids that transformers gives, as the parity suite checks."""

import functools
import json

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from kerasllm.tokenizers import Tokenizer
from kerasllm.tokenizers.training import byte_characters

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
MARKED = ["▁", "▁a", "a", "▁b", "b", "▁▁", "<", "/", "s", ">"]


def made(model, *special, **parts):
    """A tokenizer.json from a model of `tokenizers`, special tokens of its vocabulary, and other parts."""
    engine = tokenizers.Tokenizer(model)
    for name, part in parts.items():
        setattr(engine, name, part)
    engine.add_special_tokens(list(special))
    return json.loads(engine.to_str())


def around(start, end):
    return processors.TemplateProcessing(f"{start} $A {end}", special_tokens=[(start, 0), (end, 2)])


def byte_level(**parts):
    """GPT-2's kind, which puts "<s>" and "</s>" around a text and a space before it."""
    merges = [("h", "i"), ("Ġ", "h"), ("Ġh", "i"), ("1", "2"), ("Ġ", "1")]
    tokens = [*SPECIAL, *byte_characters(), *map("".join, merges)]
    model = models.BPE({token: index for index, token in enumerate(tokens)}, merges)
    words = {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True), "decoder": decoders.ByteLevel()}
    return made(model, *SPECIAL, **{**words, "post_processor": around("<s>", "</s>"), **parts})


def word_pieces():
    """BERT's kind, which keeps capitals, and puts nothing around a text."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cafe", "café", "Cafe", "Café", "東", "京", "東京"]
    model = models.WordPiece({token: index for index, token in enumerate(tokens)}, unk_token="[UNK]")
    words = pre_tokenizers.BertPreTokenizer()
    return made(model, *tokens[:5], pre_tokenizer=words, normalizer=normalizers.BertNormalizer(lowercase=False))


def unigram(special=SPECIAL, last=()):
    """SentencePiece's kind, which puts a space before the first word only, and nothing around a text."""
    vocabulary = [*((token, 0.0) for token in special), *((piece, -2.0) for piece in MARKED), *((t, 0.0) for t in last)]
    words = pre_tokenizers.Metaspace(prepend_scheme="first")
    return made(models.Unigram(vocabulary, special.index("<unk>")), *special, *last, pre_tokenizer=words)


def underscored(special=("<unk>", "<s>", "</s>", "<pad>")):
    """Llama's kind as it was published: a space before every part of a text."""
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *MARKED]
    ids = {token: index for index, token in enumerate(tokens)}
    merges = [("▁", "a"), ("▁", "b"), ("▁", "▁")]
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    model = models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    return made(model, *special, normalizer=normalizer)


T5 = functools.partial(unigram, ["<pad>", "</s>", "<unk>"], ["<extra_id_1>", "<extra_id_0>"])
LANGUAGES = ["en_XX", "ro_RO"]
MBART = functools.partial(unigram, SPECIAL[:4], [*LANGUAGES, "<mask>"])
NLLB = functools.partial(underscored, ("<s>", "<pad>", "</s>", "<unk>", "eng_Latn", "fra_Latn"))
GEMMA = functools.partial(underscored, ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"))
# Class, model type, tokenizer.json, settings, text, and the tokens that transformers makes of it.
RECORDED = [
    ("GPT2Tokenizer", "gpt2", byte_level, {}, "hi 12", "<s> hi Ġ 12 </s>"),
    (
        "GPT2Tokenizer",
        "gpt2",
        byte_level,
        {"add_prefix_space": True, "add_bos_token": True},
        "hi 12",
        "<s> Ġ hi Ġ 12 </s>",
    ),
    ("GPT2Tokenizer", "phi3", byte_level, {"add_prefix_space": False}, "hi 12", "<s> Ġ hi Ġ 12 </s>"),
    ("GPT2Tokenizer", "llama", byte_level, {"add_prefix_space": False}, "hi 12", "<s> hi Ġ 12 </s>"),
    ("GPTNeoXTokenizer", "gpt_neox", byte_level, {"add_bos_token": True}, "hi é", "hi Ġ Ã ©"),
    ("Qwen2Tokenizer", "qwen2", byte_level, {}, "hi 12", "<s> hi Ġ 1 2 </s>"),
    ("PreTrainedTokenizerFast", "qwen2", byte_level, {}, "hi 12", "<s> hi Ġ 1 2 </s>"),
    ("PreTrainedTokenizerFast", "qwen3", byte_level, {}, "hi 12", "<s> Ġ hi Ġ 12 </s>"),
    ("RobertaTokenizer", "roberta", byte_level, {}, "hi 12", "<s> hi Ġ 12 </s>"),
    ("BartTokenizer", "bart", byte_level, {"add_prefix_space": True}, "hi 12", "<s> Ġ hi Ġ 12 </s>"),
    ("LlamaTokenizerFast", "llama", byte_level, {"legacy": False}, "hi 12", "<s> Ġ hi Ġ 12 </s>"),
    (
        "PreTrainedTokenizerFast",
        "gpt2",
        byte_level,
        {"add_prefix_space": False, "add_bos_token": False},
        "hi 12",
        "<s> Ġ hi Ġ 12 </s>",
    ),
    ("BertTokenizer", "bert", word_pieces, {}, "Café 東京", "[CLS] cafe 東 京 [SEP]"),
    ("BertTokenizer", "bert", word_pieces, {"do_lower_case": False}, "Café 東京", "[CLS] Café 東 京 [SEP]"),
    ("BertTokenizer", "bert", word_pieces, {"strip_accents": False}, "Café 東京", "[CLS] café 東 京 [SEP]"),
    (
        "BertTokenizer",
        "bert",
        word_pieces,
        {"do_lower_case": False, "strip_accents": True},
        "Café 東京",
        "[CLS] Cafe 東 京 [SEP]",
    ),
    (
        "DistilBertTokenizerFast",
        "distilbert",
        word_pieces,
        {"tokenize_chinese_chars": False},
        "Café 東京",
        "[CLS] cafe 東京 [SEP]",
    ),
    (None, "ernie", word_pieces, {}, "Café 東京", "[CLS] cafe 東 京 [SEP]"),
    ("T5Tokenizer", "t5", T5, {}, "a <extra_id_0> b", "▁a <extra_id_0> ▁b </s>"),
    (
        "T5Tokenizer",
        "t5",
        T5,
        {"additional_special_tokens": ["<extra_id_0>", "<extra_id_1>"], "extra_ids": 2},
        "a<extra_id_0>b  a",
        "▁a <extra_id_0> ▁b ▁a </s>",
    ),
    ("XLMRobertaTokenizer", "xlm-roberta", unigram, {}, "a  b", "<s> ▁a ▁b </s>"),
    ("XLMRobertaTokenizer", "xlm-roberta", unigram, {"add_prefix_space": False}, "a  b", "<s> a b </s>"),
    ("MBartTokenizer", "mbart", MBART, {"src_lang": "ro_RO"}, "a b", "▁a ▁b </s> ro_RO"),
    ("MBart50Tokenizer", "mbart", MBART, {"src_lang": "ro_RO"}, "a b", "ro_RO ▁a ▁b </s>"),
    ("NllbTokenizer", "m2m_100", NLLB, {"src_lang": "fra_Latn"}, "a b", "fra_Latn ▁a ▁b </s>"),
    ("NllbTokenizer", "m2m_100", NLLB, {"legacy_behaviour": True}, "a b", "▁a ▁b </s> eng_Latn"),
    ("LlamaTokenizer", "llama", underscored, {}, "a</s>a  b", "▁a </s> a ▁ ▁b"),
    ("LlamaTokenizer", "llama", underscored, {"legacy": True, "add_bos_token": True}, "a</s>a  b", "▁a </s> ▁a ▁ ▁b"),
    ("LlamaTokenizer", "llama", underscored, {"add_prefix_space": False}, "a</s>a  b", "a </s> a ▁ ▁b"),
    ("LlamaTokenizer", "mistral", underscored, {"add_prefix_space": False}, "a</s>a  b", "▁a </s> ▁a ▁ ▁b"),
    ("CodeLlamaTokenizer", "llama", underscored, {"add_bos_token": False}, "a</s>a  b", "<s> ▁a </s> a ▁ ▁b"),
    ("GemmaTokenizer", "gemma", GEMMA, {}, "a<eos>a  b", "a <eos> a ▁ ▁b"),
    (None, "olmo2", byte_level, {}, "hi 12", "<s> Ġ hi Ġ 12 </s>"),
]


def folder_of(folder, spec, settings=None, kind=None, **files):
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"tokenizer.json": spec, "tokenizer_config.json": settings, "config.json": {"model_type": kind}}
    for name, value in {**contents, **files}.items():
        if value is not None:
            (folder / name).write_text(json.dumps(value), encoding="utf-8")
    return folder


def settings_of(name, settings):
    return settings if name is None else {"tokenizer_class": name, **settings}


@pytest.mark.parametrize(
    "case", RECORDED, ids=lambda case: f"{case[0]}-{case[1]}-{'-'.join(map(str, case[3].items()))}"
)
def test_ids_where_a_tokenizer_json_and_its_settings_disagree(case, tmp_path):
    name, kind, spec, settings, text, tokens = case
    ours = Tokenizer.load(folder_of(tmp_path / "read", spec(), settings_of(name, settings), kind))
    assert [*map(ours.engine.id_to_token, ours.encode(text, parse_special=True))] == tokens.split()
    ours.save(tmp_path / "saved")
    again = Tokenizer.load(folder_of(tmp_path / "saved", None, None, kind))
    assert again.fingerprint() == ours.fingerprint()


TURN = "<|im_end|>"
WHERE = {
    "added_tokens_decoder": {"added_tokens_decoder": {"266": {"content": TURN, "special": True}}},
    "a token of a model's own": {"eot_token": TURN},
    "extra_special_tokens": {"extra_special_tokens": [TURN]},
    "named extra_special_tokens": {"extra_special_tokens": {"end_of_turn": TURN}},
    "additional_special_tokens": {"additional_special_tokens": [TURN]},
    "eos_token": {"eos_token": {"__type": "AddedToken", "content": TURN, "normalized": True, "lstrip": False}},
}


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("where", [*WHERE, "added_tokens.json", "special_tokens_map.json", "additional in the map"])
def test_added_tokens_wherever_they_stand(where, kind, tmp_path):
    files = {
        "added_tokens.json": {"added_tokens.json": {TURN: 266}, "special_tokens_map.json": {"eos_token": TURN}},
        "special_tokens_map.json": {"special_tokens_map.json": {"pad_token": {"content": TURN}, "eos_token": None}},
        "additional in the map": {"special_tokens_map.json": {"additional_special_tokens": [TURN]}},
    }.get(where, {})
    tokenizer = Tokenizer.load(
        folder_of(tmp_path, byte_level(post_processor=None), WHERE.get(where, {}), kind, **files)
    )
    assert (tokenizer.encode(f"hi{TURN}", parse_special=True)[-1], len(tokenizer)) == (266, 267)
    assert 266 not in tokenizer.encode(f"hi{TURN}") and tokenizer.decode(tokenizer.encode(f"hi{TURN}"))[-10:] == TURN
    assert tokenizer.decode([*tokenizer.encode("hi"), 266]).strip() == "hi"
    assert (tokenizer.end_id == 266) == (where in ("eos_token", "added_tokens.json"))
    assert (tokenizer.pad_id == 266) == (where == "special_tokens_map.json")


def test_the_end_of_a_turn_is_one_token(tmp_path):
    template = "{% for m in messages %}{{ m.content + '<|im_end|>' }}{% endfor %}"
    settings = {"additional_special_tokens": [TURN], "chat_template": [{"name": "default", "template": template}]}
    tokenizer = Tokenizer.load(folder_of(tmp_path, byte_level(), {**settings, "model_max_length": 1e30}, "gpt2"))
    assert tokenizer.encode_chat([{"role": "user", "content": "hi"}])[-1] == 266


def test_a_token_that_is_not_special_is_found_in_every_text(tmp_path):
    decoder = {"266": {"content": "<tool>", "special": False, "rstrip": True}}
    tokenizer = Tokenizer.load(folder_of(tmp_path, byte_level(), {"added_tokens_decoder": decoder}, "gpt2"))
    assert tokenizer.encode("<tool> hi", parse_special=True)[1] == tokenizer.encode("<tool> hi")[1] == 266


def test_of_two_files_the_one_counts_that_transformers_reads(tmp_path):
    named = {"eos_token": "<mask>", "pad_token": "<unk>"}
    folder = folder_of(tmp_path, byte_level(), {"eos_token": "</s>"}, "gpt2", **{"special_tokens_map.json": named})
    assert Tokenizer.load(folder).special_tokens["end"] == "<mask>"
    folder_of(tmp_path, None, {"eos_token": "</s>", "added_tokens_decoder": {}})
    tokenizer = Tokenizer.load(folder)
    assert (tokenizer.special_tokens["end"], tokenizer.special_tokens["pad"]) == ("</s>", "<unk>")


def test_texts_begin_with_no_token_where_the_files_say_so(tmp_path):
    tokenizer = Tokenizer.load(folder_of(tmp_path / "a", byte_level(), {"bos_token": None}, "llama"))
    assert (tokenizer.start_id, tokenizer.end_id) == (None, 2)
    tokenizer.save(tmp_path / "b")
    assert Tokenizer.load(tmp_path / "b").start_id is None
    assert Tokenizer.load(folder_of(tmp_path / "c", byte_level(), {}, "llama")).start_id == 0


def test_other_ids_than_those_of_the_file_are_said_once(tmp_path):
    decoder = {str(index): {"content": f"<{index}>", "special": True} for index in (500, 501)}
    folder = folder_of(tmp_path, byte_level(), {"added_tokens_decoder": decoder}, "gpt2")
    with pytest.warns(UserWarning, match="gives the token '<500>' the id 500, but it is 266 by its") as said:
        assert Tokenizer.load(folder).encode("<500><501>", parse_special=True) == [0, 266, 267, 2]
    assert len(said) == 1


def test_files_with_a_byte_order_mark(tmp_path):
    words = word_pieces()
    tokens, ids = byte_level()["model"]["vocab"], {"model_type": "gpt2"}
    folder = folder_of(tmp_path / "json", words, {"do_lower_case": False, "tokenizer_class": "BertTokenizer"}, "bert")
    folder_of(
        tmp_path / "bytes",
        None,
        {"unk_token": "<unk>"},
        "gpt2",
        **{"vocab.json": tokens, "added_tokens.json": {"<a>": 266}},
    )
    (tmp_path / "bytes" / "merges.txt").write_text("#version: 0.2\nh i\n")
    folder_of(tmp_path / "words", None, {}, "bert", **{"special_tokens_map.json": ids})
    (tmp_path / "words" / "vocab.txt").write_text("\n".join(words["model"]["vocab"]) + "\n", encoding="utf-8")
    expected = [Tokenizer.load(folder).encode("Café hi") for folder in sorted(tmp_path.iterdir())]
    for file in tmp_path.rglob("*.*"):
        file.write_text(file.read_text(encoding="utf-8"), encoding="utf-8-sig")
        assert file.read_bytes().startswith(b"\xef\xbb\xbf")
    assert [Tokenizer.load(folder).encode("Café hi") for folder in sorted(tmp_path.iterdir())] == expected
    assert folder.is_dir() and len(expected) == 3


def test_files_of_old_and_new_versions(tmp_path):
    spec = byte_level()
    pairs = [" ".join(pair) for pair in spec["model"]["merges"]]
    old = {**spec, "model": {key: value for key, value in spec["model"].items() if key != "type"} | {"merges": pairs}}
    expected = Tokenizer.load(folder_of(tmp_path / "new", spec)).encode("hi 12")
    assert Tokenizer.load(folder_of(tmp_path / "old", old)).encode("hi 12") == expected
    whole = {**spec["model"], "ignore_merges": True, "vocab": {**spec["model"]["vocab"], "Ġhihi": 266}}
    for name, last in (("PreTrainedTokenizerFast", "Ġhihi"), ("GPT2Tokenizer", "hi")):
        settings = {"tokenizer_class": name, "add_prefix_space": True}
        folder = folder_of(tmp_path / name, {**spec, "model": whole}, settings, "llama")
        assert Tokenizer.load(folder).encode("hihi")[-2] == whole["vocab"][last]


def test_a_vocabulary_of_another_kind_than_its_class_is_taken_as_it_is(tmp_path):
    as_it_is = Tokenizer.load(folder_of(tmp_path / "a", unigram())).encode("a b")
    folder = folder_of(
        tmp_path / "b", unigram(), {"do_lower_case": True, "cls_token": "<s>", "sep_token": "</s>"}, "bert"
    )
    assert Tokenizer.load(folder).encode("a b") == as_it_is


def test_byt5_has_no_vocabulary_but_bytes(tmp_path):
    tokenizer = Tokenizer.load(folder_of(tmp_path, None, {"tokenizer_class": "ByT5Tokenizer"}, "t5"))
    assert tokenizer.encode("aé <extra_id_0>", parse_special=True) == [100, 198, 172, 35, 259, 1]
    assert (len(tokenizer), tokenizer.pad_id, tokenizer.end_id) == (384, 0, 1)
    assert tokenizer.decode(tokenizer.encode("naïve 東京")) == "naïve 東京"


def test_opt_begins_with_its_end_token(tmp_path):
    spec = byte_level()
    tokens = {"bos_token": {"__type": "AddedToken", "content": "</s>", "normalized": True}, "eos_token": "</s>"}
    settings = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "unk_token": "</s>", **tokens}
    folder = folder_of(tmp_path, None, settings, "opt", **{"vocab.json": spec["model"]["vocab"]})
    (folder / "merges.txt").write_text("#version: 0.2\nh i\n")
    assert Tokenizer.load(folder).encode("hi") == [2, spec["model"]["vocab"]["hi"]]


def test_what_is_wrong_is_said_in_one_sentence(tmp_path):
    tokenizer = Tokenizer.load(folder_of(tmp_path, byte_level()))
    with pytest.raises(TypeError, match=r"encode takes str, got list; encode_batch\(texts\) takes many") as raised:
        tokenizer.encode(["hi", "12"])
    assert "\n" not in str(raised.value) and len(tokenizer) == tokenizer.vocab_size == 266
    folder_of(tmp_path, None, {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": "no"}, "gpt2")
    with pytest.raises(ValueError, match=r"a setting of .* is of the wrong type"):
        Tokenizer.load(tmp_path)
    for content in ("[]", "{}", '{"model": 3}', "{", "\x00", '{"model": {"type": "BPE"}, "added_tokens": []}'):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(ValueError, match="is not a Hugging Face") as raised:
            Tokenizer.load(tmp_path)
        assert "\n" not in str(raised.value)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="json is not UTF-8: byte 0"):
        Tokenizer.load(tmp_path)
