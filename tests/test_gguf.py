"""GGUF: what is written is read again and lies as llama.cpp has it; what cannot be is said in a sentence."""

import struct
import sys
import warnings

import keras
import numpy as np
import pytest
import tokenizer_folders as folders
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, pre_tokenizers, trainers

import kerasllm
from kerasllm.cli import main
from kerasllm.gguf.container import Container
from kerasllm.gguf.pre_tokenizers import WORDS
from kerasllm.gguf.reading_tokenizers import WHOLE
from kerasllm.huggingface.choosing import logit_fields
from kerasllm.layers.rotary import Rotation
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer

gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install gguf")

TEXT = "The quick brown fox, it's 12345 years old,  jumps over\n\nthe lazy dog! Größe 日本 🙂"
IDS = np.arange(24)[None] % 7
LLAMA = dict(norm="rms", activation="silu", gated=True, use_bias=False, tie_embeddings=False)
GEMMA = {**LLAMA, "activation": "gelu_tanh", "scale_embeddings": True, "tie_embeddings": True, "norm_epsilon": 1e-6}
SANDWICHED = {**GEMMA, "norm_placement": "sandwich", "head_dim": 16}
LLAMA_3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
MODELS = {
    "llama": [
        {**LLAMA, "num_kv_heads": 2, "rope_scaling": {**LLAMA_3, "original_max_position_embeddings": 32}},
        {**LLAMA, "use_bias": True, "attention_bias": True, "rope_scaling": {"rope_type": "linear", "factor": 3.0}},
    ],
    "qwen2": [
        {
            **LLAMA,
            "qkv_bias": True,
            "rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32},
        }
    ],
    "arcee": [{**LLAMA, "activation": "relu_squared", "gated": False, "tie_embeddings": True}],
    "qwen3": [{**LLAMA, "qk_norm": True, "head_dim": 12, "tie_embeddings": True}],
    "phi3": [
        {
            **LLAMA,
            "rope_scaling": {
                "rope_type": "longrope",
                "short_factor": [1.0, 1.5],
                "long_factor": [1.0, 3.0],
                "original_max_position_embeddings": 32,
                "factor": 2.0,
            },
            "partial_rotary_factor": 0.5,
        }
    ],
    "gemma": [{**GEMMA, "head_dim": 12}],
    "gemma2": [{**SANDWICHED, "attention_window": [9, None], "attention_soft_cap": 50.0, "logit_soft_cap": 30.0}],
    "gemma3": [
        {
            **SANDWICHED,
            "qk_norm": True,
            "num_layers": 6,
            "attention_window": [9] * 5 + [None],
            "rope_theta": [10000.0] * 5 + [1000000.0],
        }
    ],
    "gpt2": [{"positions": "learned", "activation": "gelu_tanh"}],
}


def byte_level(row):
    """A tokenizer that finds words as a row of `WORDS` does."""
    engine = Engine(models.BPE(ignore_merges=row.takes_whole))
    engine.pre_tokenizer, engine.decoder = row.pre_tokenizer(), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator([TEXT] * 3, trainer)
    return Tokenizer(engine, start="", end="<|im_end|>")


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level(WORDS[0])


@pytest.fixture(scope="module")
def make(tokenizer):
    """Makes a model with weights far from those that it begins with."""

    def make(options, seed=0):
        sizes = dict(vocab_size=tokenizer.vocab_size + 3, num_layers=2, d_model=32, num_heads=4, dff=64, max_length=64)
        model = CausalLM(TransformerConfig(**{**sizes, **options}))
        rng = np.random.default_rng(seed)
        for weight in model.weights:
            weight.assign(weight + rng.normal(0, 0.2, weight.shape))
        return model

    return make


@pytest.fixture(scope="module")
def llama(make):
    return make(MODELS["llama"][0])


def logits(model):
    return keras.ops.convert_to_numpy(model(IDS))


@pytest.mark.parametrize(("name", "options"), [(name, one) for name, several in MODELS.items() for one in several])
def test_what_is_written_is_read_again(make, tokenizer, name, options, tmp_path):
    model, path = make(options), tmp_path / "my.gguf"
    kerasllm.gguf.save(model, tokenizer, path, dtype="F32")
    read, again = kerasllm.load(path)
    assert logit_fields(read.config) == logit_fields(model.config)
    np.testing.assert_allclose(logits(read), logits(model), atol=1e-5 if "gemma" in name else 0)
    assert again.encode(TEXT) == tokenizer.encode(TEXT) and again.vocab_size == tokenizer.vocab_size
    file = gguf.GGUFReader(path)
    assert file.fields["general.architecture"].contents() == name
    assert {tensor.name: tensor.tensor_type.name for tensor in file.tensors if "norm" in tensor.name}.popitem()[
        1
    ] == "F32"


def tensors(path):
    return {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(path).tensors}


def kernels(model, layer):
    weights = {weight.path.split("/", 1)[1]: keras.ops.convert_to_numpy(weight) for weight in model.weights}
    return {name.split(f"block_{layer}/")[1]: w for name, w in weights.items() if f"block_{layer}/" in name}


def test_tensors_lie_as_llama_cpp_has_them(make, llama, tokenizer, tmp_path):
    """Rows of Llama's queries and keys turn about, Gemma's scales whole, GPT-2's matrices (out, in)."""
    kerasllm.gguf.save(llama, tokenizer, tmp_path / "llama.gguf", dtype="F32")
    found, ours = tensors(tmp_path / "llama.gguf"), kernels(llama, 1)
    kernel, h = ours["attention/query_key_value/kernel"], 8
    heads = kernel.T.reshape(-1, 2, h // 2, 32)  # queries, keys and values; halves of each head
    turned = heads.swapaxes(1, 2).reshape(-1, 32)
    np.testing.assert_array_equal(found["blk.1.attn_q.weight"], turned[:32])
    np.testing.assert_array_equal(found["blk.1.attn_k.weight"], turned[32:48])
    np.testing.assert_array_equal(found["blk.1.attn_v.weight"], kernel.T[48:])
    # Llama 3 divides slow frequencies by its factor, and quick ones by 1.
    assert found["rope_freqs.weight"][0] == 1 and found["rope_freqs.weight"][-1] == 8

    gemma, gpt2 = make(MODELS["gemma"][0]), make(MODELS["gpt2"][0])
    kerasllm.gguf.save(gemma, tokenizer, tmp_path / "gemma.gguf", dtype="F32")
    np.testing.assert_allclose(
        tensors(tmp_path / "gemma.gguf")["blk.1.attn_norm.weight"],
        kernels(gemma, 1)["attention_norm/scale"],
        rtol=1e-6,
    )
    kerasllm.gguf.save(gpt2, tokenizer, tmp_path / "gpt2.gguf", dtype="F32")
    np.testing.assert_array_equal(
        tensors(tmp_path / "gpt2.gguf")["blk.0.ffn_up.weight"], kernels(gpt2, 0)["feed_forward/inner/kernel"].T
    )


@pytest.mark.parametrize(("dtype", "error"), [("F16", 1e-3), ("BF16", 8e-3), ("Q8_0", 1e-2)])
def test_matrices_are_of_the_type_that_is_asked_for(llama, tokenizer, dtype, error, tmp_path):
    kerasllm.gguf.save(llama, tokenizer, tmp_path / "a.gguf", dtype=dtype)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    assert kinds["token_embd.weight"] == kinds["blk.0.ffn_down.weight"] == dtype
    assert {kinds[name] for name in kinds if "norm" in name or "rope" in name} == {"F32"}
    read, _ = kerasllm.gguf.load(tmp_path / "a.gguf", dtype="float32")
    for ours, theirs in zip(llama.weights, read.weights, strict=True):
        difference = keras.ops.convert_to_numpy(ours - theirs)
        assert np.abs(difference).max() < error * np.abs(ours).max()


def test_rows_that_have_no_whole_blocks_are_float16(make, tokenizer, tmp_path):
    kerasllm.gguf.save(make({**LLAMA, "dff": 40}), tokenizer, tmp_path / "a.gguf", dtype="Q8_0")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    assert kinds["blk.0.ffn_down.weight"] == "F16" and kinds["blk.0.ffn_up.weight"] == "Q8_0"


def test_every_type_of_block_is_read(tmp_path):
    """Those that the package itself reads, and floats."""
    writer, expected, rng = gguf.GGUFWriter(tmp_path / "a.gguf", "llama"), {}, np.random.default_rng(0)
    for kind in gguf.GGMLQuantizationType:
        per_block, size = gguf.GGML_QUANT_SIZES[kind]
        raw = rng.integers(0, 60, (3, 4 * size), "uint8")
        try:
            expected[kind.name] = gguf.dequantize(raw, kind)
        except NotImplementedError:
            continue
        writer.add_tensor(kind.name, raw, raw_dtype=kind)
        assert expected[kind.name].shape == (3, 4 * per_block)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = Container(tmp_path / "a.gguf")
    assert {"F32", "F16", "BF16", "Q4_0", "Q4_K", "Q6_K", "IQ2_XXS"} <= expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(file.read(name).astype("float32"), values, name)


@pytest.mark.parametrize("row", WORDS, ids=lambda row: row.names[0])
def test_words_are_found_as_the_file_says(row, llama, tmp_path):
    tokenizer = byte_level(row)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    kerasllm.gguf.save(llama, tokenizer, tmp_path / "a.gguf")
    assert Container(tmp_path / "a.gguf").metadata["tokenizer.ggml.pre"] == row.names[0]
    _, read = kerasllm.gguf.load(tmp_path / "a.gguf")
    assert read.encode(TEXT) == tokenizer.encode(TEXT) and read.decode(read.encode(TEXT)) == TEXT
    assert read.encode("<|im_end|>", parse_special=True) == [tokenizer.end_id] != read.encode("<|im_end|>")
    assert read.special_tokens == tokenizer.special_tokens and read.chat_template == tokenizer.chat_template
    assert read.encode_chat([{"role": "user", "content": "fox"}])[-1] == tokenizer.end_id


def test_a_vocabulary_trained_here_comes_back_whole_with_a_warning(llama, tmp_path):
    tokenizer = Tokenizer.train([TEXT] * 3, vocab_size=290, progress=False)
    with pytest.warns(UserWarning, match="finds words as Llama 3 does and not as vocabularies trained here do"):
        kerasllm.gguf.save(llama, tokenizer, tmp_path / "a.gguf")
    assert kerasllm.gguf.load(tmp_path / "a.gguf")[1].fingerprint() == tokenizer.fingerprint()


@pytest.mark.parametrize(
    ("options", "settings", "is_whole"),
    [
        ({}, {}, False),
        ({"add_dummy_prefix": False, "user_defined_symbols": "▁▁,<mark>"}, {}, False),
        ({}, {"legacy": False}, True),  # llama.cpp's keys cannot say that " a" gets no other space before it
    ],
)
def test_models_of_sentencepiece_are_an_order_of_pieces(options, settings, is_whole, make, tmp_path):
    file = folders.sentencepiece_file("bpe", byte_fallback=True, normalization_rule_name="identity",
                                     remove_extra_whitespaces=False, **options)  # fmt: skip
    folder = folders.write(tmp_path / "t", settings={"tokenizer_class": "LlamaTokenizer", **settings},
                           tokenizer__model=file)  # fmt: skip
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.encode("the")[0] == tokenizer.start_id
    kerasllm.gguf.save(make({**LLAMA, "vocab_size": 650}), tokenizer, tmp_path / "a.gguf")
    _, read = kerasllm.gguf.load(tmp_path / "a.gguf")
    texts = [text for text in folders.texts()[:200] if "\0" not in text]
    assert read.encode_batch(texts) == tokenizer.encode_batch(texts)
    assert read.encode_batch(texts, parse_special=True) == tokenizer.encode_batch(texts, parse_special=True)
    assert (WHOLE in Container(tmp_path / "a.gguf").metadata) == is_whole


@pytest.mark.parametrize(
    ("factors", "kind", "trained"),
    [
        ([1, 8, 8, 8], "llama3", 32),
        ([1, 1 / (0.1972 + 0.8028 / 8), 8, 8], "llama3", 100),  # 100 tokens turn the second pair 1.5916 times
        ([1, 1.2, 3, 2], "longrope", 32),
    ],
)
def test_factors_of_frequencies_are_those_of_parameters_or_taken_as_they_are(factors, kind, trained, written, tmp_path):
    """What a file divides its frequencies by, here of heads of 8 with theta 10000."""
    (tmp_path / "a.gguf").write_bytes(written)
    start = Container(tmp_path / "a.gguf").places["rope_freqs.weight"].start
    changed = written[:start] + np.array(factors, "float32").tobytes() + written[start + 16 :]
    (tmp_path / "a.gguf").write_bytes(changed)
    scaling = kerasllm.gguf.load(tmp_path / "a.gguf")[0].config.rope_scaling
    assert (scaling["rope_type"], scaling["original_max_position_embeddings"]) == (kind, trained)
    divided = Rotation(8, 10000.0).frequencies() / Rotation(8, 10000.0, scaling=scaling).frequencies([1, 60])
    np.testing.assert_allclose(np.broadcast_to(divided, (2, 4)), [factors] * 2, rtol=2e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({**LLAMA, "attention_window": 7}, "nearest architecture, llama, it differs in attention_window=7 .there None"),
        ({**LLAMA, "activation": "relu"}, "it differs in activation='relu'"),
        ({**SANDWICHED, "attention_scale": 0.5}, "attention_scale=0.5"),
        ({"positions": "rotary"}, r"activation=.* and positions='rotary' .there 'learned'.\. A run folder"),
        ({"positions": "sinusoidal"}, "llama.cpp does not compute what this model does"),
    ],
)
def test_what_llama_cpp_does_not_compute_is_refused_by_name(make, tokenizer, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        kerasllm.gguf.save(make(options), tokenizer, tmp_path / "a.gguf")
    assert not [*tmp_path.iterdir()]


def test_what_cannot_be_written_leaves_nothing_behind(llama, tokenizer, tmp_path):
    path = tmp_path / "a.gguf"
    with pytest.raises(ValueError, match="written as F32, F16, BF16, Q8_0, got dtype='Q4_K'"):
        kerasllm.gguf.save(llama, tokenizer, path, dtype="Q4_K")
    with pytest.raises(ValueError, match=r"named ….gguf, by which it is known, got .*my-model'"):
        kerasllm.gguf.save(llama, tokenizer, tmp_path / "my-model")
    with pytest.raises(TypeError, match="of a CausalLM and its Tokenizer, got a Sequential"):
        kerasllm.gguf.save(keras.Sequential(), tokenizer, path)
    with pytest.raises(ValueError, match="kind Unigram; train the model with --tokenizer bpe"):
        unigram = Tokenizer.train([TEXT] * 3, vocab_size=80, kind="unigram", progress=False)
        kerasllm.gguf.save(llama, unigram, path)
    with pytest.raises(ValueError, match="the model's table 303 rows"):
        kerasllm.gguf.save(llama, byte_level_of(310), path)
    large = keras.models.clone_model(llama)
    large.weights[0].assign(large.weights[0] + 1e6)
    with pytest.raises(ValueError, match="values that float16 cannot hold: write the file as BF16 or F32"):
        kerasllm.gguf.save(large, tokenizer, path)
    assert not [*tmp_path.iterdir()]
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="exists, and is left as it is"):
        kerasllm.gguf.save(llama, tokenizer, path)
    assert path.read_bytes() == b"mine"


def byte_level_of(size):
    engine = Engine.from_str(byte_level(WORDS[0]).engine.to_str())
    engine.add_tokens([f"<{number}>" for number in range(size - 300)])
    return Tokenizer(engine)


@pytest.fixture(scope="module")
def written(llama, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "a.gguf"
    kerasllm.gguf.save(llama, tokenizer, path, dtype="Q8_0")
    return path.read_bytes()


def packed(text):
    return struct.pack("<Q", len(text)) + text.encode()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"GGUF", b"GGML", "is no GGUF file: it does not begin with GGUF"),
        (b"GGUF\3", b"GGUF\1", "is GGUF of version 1; versions 2 and 3"),
        (packed("llama.block_count"), packed("llama.block_sound"), "lacks the key 'llama.block_count'"),
        (packed("llama") + packed("general.type"), packed("lambs") + packed("general.type"), "architecture 'lambs'"),
        (packed("llama.vocab_size"), packed("llama.experts_of"), "llama.experts_of=303, which kerasllm does not comp"),
        (
            packed("llama.feed_forward_length") + struct.pack("<II", 4, 64),
            packed("llama.feed_forward_length") + struct.pack("<II", 4, 2**31),
            "describes a model of .* parameters and holds .* values",
        ),
        (
            packed("llama.block_count") + struct.pack("<II", 4, 2),
            packed("llama.block_count") + struct.pack("<II", 4, 2**31),
            "says llama.block_count=2147483648 and holds 2 blocks",
        ),
        (packed("gpt2"), packed("bert"), "holds a tokenizer of kind 'bert'; kerasllm reads 'gpt2'"),
        (packed("gpt-2"), packed("gpt-x"), "finds words in the way 'gpt-x'; kerasllm knows gpt-2"),
        (packed("tokenizer.ggml.tokens"), packed("tokenizer.ggml.tokers"), "lacks the key 'tokenizer.ggml.tokens'"),
        (packed("blk.1.attn_q.weight"), packed("blk.1.attn_x.weight"), "lacks the tensor 'blk.1.attn_q.weight'"),
        (packed("token_embd.weight"), packed("token_emdb.weight"), "lacks the tensor 'token_embd.weight'"),
        (packed("general.size_label"), packed("general.size_xabel"), None),
    ],
)
def test_a_damaged_file_is_refused_in_a_sentence(written, old, new, message, tmp_path):
    assert old in written
    (tmp_path / "a.gguf").write_bytes(written.replace(old, new, 1))
    if message is None:  # what says nothing of the model may be anything
        kerasllm.load(tmp_path / "a.gguf")
        return
    with pytest.raises(ValueError, match=message):
        kerasllm.load(tmp_path / "a.gguf")


def test_cut_and_changed_bytes_never_end_in_another_error(written, tmp_path):
    rng, header = np.random.default_rng(0), written.index(b"tokenizer.ggml.tokens")
    path, refused = tmp_path / "a.gguf", 0
    for number in range(60):
        data = bytearray(written)
        if number % 2:
            data = data[: rng.integers(len(data))]
        else:
            data[rng.integers(24, header)] ^= rng.integers(1, 256)
        path.write_bytes(data)
        try:
            with warnings.catch_warnings(action="ignore"):
                kerasllm.gguf.load(path)
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused >= 40


def test_parts_unknown_blocks_and_no_file_at_all(tmp_path, monkeypatch):
    def file(name, keys=(), code=0):
        writer = gguf.GGUFWriter(tmp_path / name, "llama")
        for key, value in keys:
            writer.add_uint16(key, value)
        writer.add_tensor("token_embd.weight", np.zeros((2, 256), "float32"))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        data = (tmp_path / name).read_bytes()
        shape = struct.pack("<QQ", 256, 2)
        (tmp_path / name).write_bytes(data.replace(shape + bytes(4), shape + struct.pack("<I", code)))
        return tmp_path / name

    with pytest.raises(ValueError, match="is one of 3 parts of a model; join them with"):
        kerasllm.load(file("a.gguf", [("split.count", 3)]))
    with pytest.raises(ValueError, match="in blocks of type 77, which the installed package gguf does not know"):
        kerasllm.load(file("b.gguf", code=77))
    with pytest.raises(FileNotFoundError, match=r"There is no file .*nowhere\.gguf"):
        kerasllm.load(tmp_path / "nowhere.gguf")
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(ValueError, match="is no GGUF file"):
        kerasllm.load(tmp_path / "empty.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match="which is not installed: pip install gguf"):
        kerasllm.load(tmp_path / "a.gguf")


def test_the_command_line_converts_and_reads_files(llama, tokenizer, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    kerasllm.save(llama, tokenizer, "run")
    assert main(["convert", "run", "my.gguf", "--dtype", "Q8_0"]) == 0
    assert Container("my.gguf").metadata["general.file_type"] == 7
    assert main(["convert", "my.gguf", "again"]) == 0
    assert (tmp_path / "again" / "manifest.json").is_file()
    np.testing.assert_array_equal(logits(kerasllm.load("again")[0]), logits(kerasllm.load("my.gguf")[0]))
    assert main(["chat", "--model", "my.gguf"]) == 2
    assert "The tokenizer in my.gguf has no chat template" in capsys.readouterr().err
