"""Every class of tokenizers that our families use, each of its options both ways: the ids of AutoTokenizer."""

import json

import pytest
import tokenizer_folders as folders
from peer_tokenizers import M2M100, MBART, MBART50, NLLB, check, transformers
from sentencepiece import sentencepiece_model_pb2

from kerasllm.tokenizers import Tokenizer
from kerasllm.tokenizers.sides import load_tokenizer

pytestmark = pytest.mark.parity

BOTH = (True, False)
ENDS = {"add_bos_token": BOTH, "add_eos_token": BOTH}
LLAMA = {
    **{"byte_fallback": True, "remove_extra_whitespaces": False, "split_digits": True, "character_coverage": 0.99},
    **{"normalization_rule_name": "identity"},
}
GEMMA = {
    **{**LLAMA, "add_dummy_prefix": False, "pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3},
    **{"pad_piece": "<pad>", "eos_piece": "<eos>", "bos_piece": "<bos>", "control_symbols": "<mask>"},
}
T5 = ("<pad>", "</s>", "<unk>")
ALBERT_TOKENS = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
ALBERT = {"do_lower_case": BOTH, "keep_accents": BOTH}
INFILLING = ("▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>", "<FILL_ME>")
TEMPLATES = {"none": None, "both": "{} $A {}"}


def byte_level(**parts):
    """A tokenizer.json of byte-level BPE, and one that says otherwise in everything that a class may decide."""
    plain = folders.byte_level()
    digits = {"type": "Digits", "individual_digits": True}
    words = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    other = {
        **{**plain, "model": {**plain["model"], "unk_token": "<unk>", "fuse_unk": True}},
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, words]},
        "post_processor": folders.template("<s> $A </s>", folders.ids_of(plain)),
    }
    return {"plain": plain, "other": other}


def with_start(spec, token):
    return {"plain": spec, "start": {**spec, "post_processor": folders.template(f"{token} $A", folders.ids_of(spec))}}


def of_words(special=("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")):
    plain = folders.word_pieces(special)
    around = folders.template(f"{special[2]} $A", folders.ids_of(plain))
    return {"plain": plain, "other": {**plain, "normalizer": None, "post_processor": around}}


def spaced(spec):
    """Gemma's words as its own tokenizer.json has them."""
    normalizer = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    return {"plain": spec, "other": {**spec, "normalizer": normalizer}}


BERT = {"do_lower_case": BOTH, "strip_accents": (True, False, None), "tokenize_chinese_chars": BOTH}
PREFIX = {"add_prefix_space": BOTH}
DEBERTA = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
MPNET = ("<s>", "<pad>", "</s>", "[UNK]", "<mask>")
# Class and model type: the tokenizer.jsons, and the options.
JSONS = {
    "GPT2Tokenizer gpt2": (byte_level, PREFIX | ENDS),
    "GPT2Tokenizer opt": (byte_level, {"add_bos_token": BOTH}),
    "GPT2Tokenizer phi3": (byte_level, PREFIX),
    "GPT2TokenizerFast llama": (byte_level, PREFIX),
    "GPTNeoXTokenizerFast gpt_neox": (byte_level, PREFIX | ENDS | {"trim_offsets": BOTH}),
    "Qwen2Tokenizer qwen2": (byte_level, PREFIX | ENDS | {"tokenizer_class": ("PreTrainedTokenizerFast", None)}),
    "Qwen2Tokenizer qwen3": (byte_level, PREFIX | {"tokenizer_class": ("PreTrainedTokenizerFast", None)}),
    "LlamaTokenizerFast qwen2": (byte_level, PREFIX),
    "LlamaTokenizerFast llama": (byte_level, PREFIX | {"legacy": BOTH}),
    "RobertaTokenizer roberta": (byte_level, PREFIX | {"trim_offsets": BOTH} | ENDS),
    "BartTokenizer bart": (byte_level, PREFIX | {"trim_offsets": BOTH}),
    "PreTrainedTokenizerFast llama": (byte_level, PREFIX | ENDS | {"clean_up_tokenization_spaces": BOTH}),
    "PreTrainedTokenizerFast smollm3": (byte_level, ENDS),
    "TokenizersBackend gpt2": (byte_level, PREFIX | ENDS),
    "SomeTokenizer bert": (byte_level, PREFIX),
    "None olmo2": (byte_level, PREFIX),
    "BertTokenizer bert": (of_words, BERT),
    "BertTokenizer roberta": (of_words, {"do_lower_case": BOTH}),
    "None ernie": (of_words, {"do_lower_case": BOTH}),
    "ElectraTokenizerFast bert": (of_words, {"do_lower_case": BOTH}),
    "DistilBertTokenizer distilbert": (of_words, BERT),
    "ElectraTokenizer electra": (of_words, BERT),
    "None electra": (of_words, {"do_lower_case": BOTH}),
    "PreTrainedTokenizerFast modernbert": (byte_level, PREFIX | ENDS),
    "AlbertTokenizer albert": (lambda: {"plain": folders.unigram(ALBERT_TOKENS, ())}, PREFIX | ALBERT),
    "None albert": (lambda: {"plain": folders.unigram(ALBERT_TOKENS, ())}, ALBERT),
    "MPNetTokenizer mpnet": (lambda: of_words(MPNET), BERT),
    "DebertaV2Tokenizer deberta-v2": (
        lambda: {"plain": folders.unigram(DEBERTA, ("[MASK]",))},
        {"do_lower_case": BOTH, "split_by_punct": BOTH, **PREFIX},
    ),
    "XLMRobertaTokenizer xlm-roberta": (lambda: {"plain": folders.unigram()}, PREFIX),
    "MBartTokenizer mbart": (
        lambda: {"plain": folders.unigram(last=(*MBART, "<mask>"))},
        {"src_lang": ("en_XX", "ro_RO")},
    ),
    "MBart50Tokenizer mbart": (
        lambda: {"plain": folders.unigram(last=(*MBART50, "<mask>"))},
        {"src_lang": ("en_XX", "sl_SI")},
    ),
    "NllbTokenizer m2m_100": (
        lambda: {"plain": folders.underscored(("<s>", *T5[:1], "</s>", "<unk>", *NLLB, "<mask>"))},
        {"src_lang": ("eng_Latn", "zul_Latn"), "legacy_behaviour": BOTH},
    ),
    "T5Tokenizer t5": (
        lambda: {"plain": folders.unigram(T5, ("<extra_id_1>", "<extra_id_0>")), "bare": folders.unigram(T5, ())},
        {"extra_ids": (0, 2, 100), "additional_special_tokens": (["<extra_id_0>", "<extra_id_1>"], None)},
    ),
    "None mt5": (lambda: {"plain": folders.unigram(T5, ())}, {"extra_ids": (0, 2)}),
    "LlamaTokenizer llama": (
        lambda: with_start(folders.underscored(), "<s>"),
        PREFIX | ENDS | {"legacy": (True, False, None)},
    ),
    "LlamaTokenizer mistral": (lambda: with_start(folders.underscored(), "<s>"), PREFIX | ENDS | {"legacy": BOTH}),
    "LlamaTokenizer phi3": (lambda: with_start(folders.underscored(), "<s>"), PREFIX | {"legacy": BOTH}),
    "CodeLlamaTokenizer llama": (
        lambda: with_start(folders.underscored(("<unk>", "<s>", "</s>", *INFILLING)), "<s>"),
        PREFIX | ENDS,
    ),
    "GemmaTokenizer gemma2": (
        lambda: spaced(folders.underscored(("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>"))),
        ENDS,
    ),
}


# The first case of each class has all texts.
FIRST = {case.split()[0].removesuffix("Fast"): case for case in reversed(JSONS)}.values()


def variants(options, **base):
    """Settings with no option, and with one option at a time."""
    yield base
    for name, values in options.items():
        for value in values:
            yield {**base, name: value}


@pytest.mark.parametrize("case", JSONS)
def test_ids_of_a_tokenizer_json_and_its_settings(case, tmp_path):
    (name, kind), (specs, options) = case.split(), JSONS[case]
    texts = folders.texts()[:: 1 if case in FIRST else 5]
    for number, (which, spec) in enumerate(specs().items()):
        for index, settings in enumerate(variants(options, **({} if name == "None" else {"tokenizer_class": name}))):
            folder = folders.write(tmp_path / f"{number}-{index}", spec, settings, {"model_type": kind})
            check(folder, texts, which=which, **settings)


def vocabulary():
    return folders.as_vocabulary(folders.byte_level())


def vocab_txt(*special):
    return {"vocab__txt": "\n".join(folders.word_pieces(*special)["model"]["vocab"]) + "\n"}


# Of SentencePiece's files, ids are those of SentencePiece itself, which only some classes of transformers give.
OLDER = {
    "GPT2Tokenizer gpt2": (vocabulary, PREFIX | ENDS),
    "GPT2Tokenizer opt": (vocabulary, PREFIX | ENDS | {"bos_token": ("</s>",)}),
    "GPTNeoXTokenizer gpt_neox": (vocabulary, PREFIX | ENDS),
    "Qwen2Tokenizer qwen2": (vocabulary, PREFIX | ENDS),
    "RobertaTokenizer roberta": (vocabulary, PREFIX | ENDS),
    "BartTokenizer bart": (vocabulary, PREFIX),
    "BertTokenizer bert": (vocab_txt, BERT),
    "DistilBertTokenizer distilbert": (vocab_txt, BERT),
    "MPNetTokenizer mpnet": (lambda: vocab_txt(MPNET), BERT),
    "LlamaTokenizer mistral": (
        lambda: {"tokenizer__model": folders.sentencepiece_file("bpe", **LLAMA)},
        {"legacy": BOTH, "add_eos_token": BOTH},
    ),
    "GemmaTokenizer gemma": (
        lambda: {"tokenizer__model": folders.sentencepiece_file("bpe", **GEMMA)},
        {"add_eos_token": BOTH},
    ),
    "ByT5Tokenizer t5": (dict, {"extra_ids": (0, 2)}),
}


@pytest.mark.parametrize("case", OLDER)
def test_ids_of_older_files_and_their_settings(case, tmp_path):
    (name, kind), (files, options) = case.split(), OLDER[case]
    texts = folders.texts()
    if name == "ByT5Tokenizer":  # transformers puts no end behind a text that has one
        texts = [text for text in texts if not text.rstrip().endswith("</s>")]
    base = {"tokenizer_class": name, **({"add_bos_token": True} if "tokenizer__model" in files() else {})}
    for index, settings in enumerate(variants(options, **base)):
        check(folders.write(tmp_path / str(index), None, settings, {"model_type": kind}, **files()), texts, **settings)


OF_FILES = {
    "t5": ("spiece__model", {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}, {"extra_ids": (0, 2)}),
    "albert": (
        "spiece__model",
        {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": "[CLS],[SEP],[MASK]"},
        ALBERT,
    ),
    "xlm-roberta": ("sentencepiece__bpe.model", {}, {}),
}


@pytest.mark.parametrize("kind", OF_FILES)
def test_ids_of_unigram_files(kind, tmp_path):
    name, own, options = OF_FILES[kind]
    file = {name: folders.sentencepiece_file("unigram", **own)}
    # transformers takes this control character for white space, SentencePiece for a letter
    texts = [text for text in folders.texts() if "\x85" not in text]
    for index, settings in enumerate(variants(options)):
        check(folders.write(tmp_path / str(index), None, settings, {"model_type": kind}, **file), texts, **settings)


def pieces_of(model):
    return [piece.piece for piece in sentencepiece_model_pb2.ModelProto.FromString(model).pieces]


def test_ids_of_m2m_100(tmp_path):
    model = folders.sentencepiece_file("unigram")
    ids = {piece: index for index, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", *pieces_of(model)[3:]])}
    files = {"sentencepiece__bpe.model": model, "vocab__json": ids}
    base = {"tokenizer_class": "M2M100Tokenizer", "additional_special_tokens": M2M100}
    for index, settings in enumerate(variants({"src_lang": ("en", "zu")}, **base)):
        check(folders.write(tmp_path / str(index), None, settings, {"model_type": "m2m_100"}, **files), **settings)


@pytest.mark.parametrize("separate", BOTH)
def test_ids_of_marian(separate, tmp_path):
    own = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    sides = {"source": folders.sentencepiece_file("unigram"), "target": folders.sentencepiece_file("unigram", **own)}
    pieces = {side: sorted({*pieces_of(model)} - {"<s>", "<pad>"}) for side, model in sides.items()}
    shared = sorted({*pieces["source"], *pieces["target"], ">>de<<"})
    vocabularies = (pieces["source"], pieces["target"]) if separate else (shared, shared)
    source, target = ({piece: i for i, piece in enumerate([*tokens, "<pad>"])} for tokens in vocabularies)
    files = {"source__spm": sides["source"], "target__spm": sides["target"], "vocab__json": source}
    files |= {"target_vocab__json": target} if separate else {}
    settings = {"tokenizer_class": "MarianTokenizer", "separate_vocabs": separate}
    folder = folders.write(tmp_path, None, settings, {"model_type": "marian"}, **files)
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), load_tokenizer(folder)
    texts = [*folders.texts()[::4], *([] if separate else [">>de<< the cat"])]
    assert ours[0].encode_batch(texts, parse_special=True) == theirs(texts)["input_ids"]
    texts = texts[:500]
    assert ours[1].encode_batch(texts, parse_special=True) == theirs(text_target=texts)["input_ids"]


@pytest.mark.parametrize("case", JSONS)
def test_what_is_saved_is_read_with_the_same_ids(case, tmp_path):
    (name, kind), (specs, options) = case.split(), JSONS[case]
    *_, settings = variants(options, **({} if name == "None" else {"tokenizer_class": name}))
    *_, spec = specs().values()
    ours = Tokenizer.load(folders.write(tmp_path / "read", spec, settings, {"model_type": kind}))
    ours.save(tmp_path / "saved")
    texts = folders.texts()[::5]
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert theirs(texts)["input_ids"] == ours.encode_batch(texts, parse_special=True)
    (tmp_path / "saved" / "config.json").write_text(json.dumps({"model_type": kind}))
    again = Tokenizer.load(tmp_path / "saved")
    assert again.fingerprint() == ours.fingerprint()
    _, again = check(tmp_path / "saved", texts)
    assert again.encode_batch(texts) == ours.encode_batch(texts)
