"""Tokenizers and chats beside transformers: the same ids from old files, from what is saved here, and of messages."""

import json
import shutil

import pytest
import sentencepiece
import tokenizers
from chat_templates import MESSAGES, TOKENS, chat_tokenizer
from test_older_formats import CORPUS, FILES, folder_of, trained_bpe

import kerasllm
from kerasllm.models import CausalLM, Seq2SeqLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer
from kerasllm.tokenizers.sides import load_tokenizer

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install kerasllm[parity]")
pytestmark = pytest.mark.parity

HOSTILE = [
    *[
        "",
        "the cat sat",
        "two  spaces \t tab\r\n x ",
        "naïve café Straße",
        "日本語 東京",
        "\0nul\0",
        "🙂 \u200d e\u0301",
    ],
    *["\u3000wide", "A\u00a0nbsp", "1234567", "ﬁ ½ Ⅷ", "مرحبا ६", "DON'T stop", "<0x41>", "a" * 300],
]
SPM = {
    "t5": ("t5", "spiece.model", {}),
    "xlm-roberta": ("unigram", "sentencepiece.bpe.model", {}),
    "llama": ("bpe", "tokenizer.model", {"add_bos_token": True, "tokenizer_class": "LlamaTokenizer"}),
    "gemma": ("gemma", "tokenizer.model", {"add_bos_token": True, "tokenizer_class": "GemmaTokenizer"}),
    "m2m_100": ("unigram", "sentencepiece.bpe.model", {"src_lang": "de", "tokenizer_class": "M2M100Tokenizer"}),
    "mbart": ("unigram", "sentencepiece.bpe.model", {"src_lang": "de_DE", "tokenizer_class": "MBartTokenizer"}),
}


def spm(folder, name, file):
    model = folder / file.removesuffix(".model")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_prefix=str(model),
        vocab_size=330 if "byte_fallback" in FILES[name] else 70,
        hard_vocab_limit=False,
        minloglevel=2,
        **FILES[name],
    )
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / file))


def theirs_of(folder):
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    return lambda text: theirs(text)["input_ids"]


@pytest.mark.parametrize("kind", SPM)
def test_ids_of_sentencepiece_models(kind, tmp_path):
    name, file, settings = SPM[kind]
    folder = folder_of(tmp_path, {}, {"model_type": kind}, **settings)
    model = spm(folder, name, file)
    if kind == "m2m_100":
        pieces = ["<s>", "<pad>", "</s>", "<unk>", *(model.id_to_piece(i) for i in range(3, len(model)))]
        (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
        codes = transformers.models.m2m_100.tokenization_m2m_100.FAIRSEQ_LANGUAGE_CODES["m2m100"]
        languages = {"additional_special_tokens": [f"__{code}__" for code in codes]}
        (folder / "special_tokens_map.json").write_text(json.dumps(languages))
    ours, theirs = Tokenizer.load(folder), theirs_of(folder)
    plain = kind == "mbart"  # of which transformers 5 leaves out the rules for characters
    for text in [*CORPUS[:9], *(["the cat sat"] if plain else HOSTILE)]:
        assert ours.encode(text) == theirs(text), text


def test_ids_of_marian(tmp_path):
    folder = folder_of(tmp_path, {}, {"model_type": "marian"}, tokenizer_class="MarianTokenizer")
    models = [spm(folder, name, f"{side}.model") for side, name in (("source", "unigram"), ("target", "t5"))]
    for side in ("source", "target"):
        (folder / f"{side}.model").rename(folder / f"{side}.spm")
    pieces = sorted({model.id_to_piece(i) for model in models for i in range(len(model))} - {"<s>", "<pad>"})
    ids = {piece: i for i, piece in enumerate([*pieces, ">>de<<", "<pad>"])}
    (folder / "vocab.json").write_text(json.dumps(ids))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    pair = load_tokenizer(folder)
    sizes = {"num_layers": 1, "d_model": 8, "num_heads": 2, "dff": 8, "max_length": 16, "num_encoder_layers": 1}
    fields = {**sizes, "positions": "sinusoidal", "embedding_norm": False, "output_bias": True}
    config = TransformerConfig.preset("bart", vocab_size=len(ids), **fields)
    model = Seq2SeqLM(config)
    model.huggingface_type = "marian"
    kerasllm.huggingface.save(model, pair, tmp_path / "saved")
    saved = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    _, again = kerasllm.load(tmp_path / "saved")
    for text in [*CORPUS[:9], *HOSTILE, ">>de<< the cat"]:
        for source, _ in (pair, again):
            assert source.encode(text) == theirs(text)["input_ids"] == saved(text)["input_ids"]
        for _, target in (pair, again) if not text.startswith(">>") else ():
            assert target.encode(text) == theirs(text_target=text)["input_ids"] == saved(text_target=text)["input_ids"]


BYTE_LEVEL = {
    "gpt2": ("GPT2Tokenizer", ["<|endoftext|>"], {}),
    "roberta": ("RobertaTokenizer", ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], {}),
    "bart": ("BartTokenizer", ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], {"add_prefix_space": True}),
    "qwen2": ("Qwen2Tokenizer", ["<|endoftext|>"], {}),
}


@pytest.mark.parametrize("kind", BYTE_LEVEL)
def test_ids_of_byte_level_bpe(kind, tmp_path):
    name, special, settings = BYTE_LEVEL[kind]
    folder = folder_of(tmp_path, {}, {"model_type": kind}, tokenizer_class=name, **settings)
    trained_bpe(folder, special)
    ours, theirs = Tokenizer.load(folder), theirs_of(folder)
    for text in [*CORPUS[:9], *HOSTILE]:
        assert ours.encode(text) == theirs(text), text


@pytest.mark.parametrize(
    "changed", [{}, {"do_lower_case": False}, {"strip_accents": False, "tokenize_chinese_chars": False}]
)
def test_ids_of_wordpiece(changed, tmp_path):
    folder = folder_of(tmp_path, {}, {"model_type": "bert"}, **changed)
    engine = tokenizers.BertWordPieceTokenizer(lowercase=False)
    engine.train_from_iterator(CORPUS, vocab_size=200, show_progress=False)
    engine.save_model(str(folder))
    ours, theirs = Tokenizer.load(folder), theirs_of(folder)
    for text in [*CORPUS[:9], *HOSTILE]:
        assert ours.encode(text) == theirs(text), text
    pair = transformers.AutoTokenizer.from_pretrained(folder)("the cat", "sat")["input_ids"]
    assert ours.engine.encode("the cat", "sat").ids == pair


def test_ids_of_gpt2(shared_data, tmp_path):
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(shared_data / "gpt2_bpe" / name, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    ours, theirs = Tokenizer.load(tmp_path), theirs_of(tmp_path)
    for text in [*HOSTILE, (shared_data / "tinyshakespeare" / "input.txt").read_text()[:20000]]:
        assert ours.encode(text) == theirs(text)


@pytest.fixture(scope="module", params=TOKENS)
def saved(request, tmp_path_factory):
    """A checkpoint with a chat template: its folder, our tokenizer and theirs."""
    tokenizer = chat_tokenizer(request.param)
    tokenizer.end_ids.append(5)
    sizes = {"num_layers": 1, "d_model": 8, "num_heads": 2, "dff": 8, "max_length": 16}
    model = CausalLM(TransformerConfig.preset("llama", vocab_size=tokenizer.vocab_size, **sizes))
    folder = tmp_path_factory.mktemp("chat") / "model"
    kerasllm.huggingface.save(model, tokenizer, folder)
    return folder, tokenizer, transformers.AutoTokenizer.from_pretrained(folder)


def test_chats_have_the_ids_of_apply_chat_template(saved):
    _, ours, theirs = saved
    chats = [MESSAGES, MESSAGES[1:2], MESSAGES[1:3], [{"role": "user", "content": " <b> 東京 ünd\n\n"}]]
    for messages in chats:
        for asks in (True, False):
            expected = theirs.apply_chat_template(messages, add_generation_prompt=asks, return_dict=False)
            assert ours.encode_chat(messages, add_generation_prompt=asks) == expected


def test_what_is_saved_is_read_by_transformers(saved):
    folder, ours, theirs = saved
    for text in HOSTILE:
        assert theirs(text)["input_ids"] == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == ours.decode(ours.encode(text)) == text
    assert theirs.chat_template == ours.chat_template
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (1, 2, 0)
    assert transformers.GenerationConfig.from_pretrained(folder).eos_token_id == ours.end_ids == [2, 5]
    _, again = kerasllm.load(folder)
    assert (again.end_ids, again.chat_template) == (ours.end_ids, ours.chat_template)


def test_what_was_converted_is_read_by_transformers(tmp_path):
    for kind in ("t5", "llama", "gemma"):
        name, file, settings = SPM[kind]
        folder = folder_of(tmp_path / kind, {}, {"model_type": kind}, **settings)
        spm(folder, name, file)
        ours = Tokenizer.load(folder)
        ours.save(tmp_path / f"{kind}-saved")
        shutil.copy(folder / "config.json", tmp_path / f"{kind}-saved")
        theirs = theirs_of(tmp_path / f"{kind}-saved")
        assert all(theirs(text) == ours.encode(text) for text in HOSTILE)


def test_a_sentencepiece_tokenizer_chats_with_the_same_ids(tmp_path):
    """Where a space stands before every text, parts encoded apart would have other ids than the whole."""
    folder = folder_of(tmp_path, {}, {"model_type": "llama"}, **SPM["llama"][2], legacy=True)
    spm(folder, "bpe", "tokenizer.model")
    ours = Tokenizer.load(folder)
    ours.chat_template = TOKENS["mistral"][0]
    ours.save(tmp_path / "saved")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "saved")
    expected = theirs.apply_chat_template(MESSAGES, return_dict=False)
    assert ours.encode_chat(MESSAGES) == expected
