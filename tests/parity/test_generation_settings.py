"""Settings of generation_config.json beside transformers: the same ids and texts on random weights."""

import json
from pathlib import Path

import pytest

import kerasllm
from kerasllm.generation import generate_ids
from kerasllm.generation.settings import rule_options
from kerasllm.tokenizers import Tokenizer

torch = pytest.importorskip("torch", reason="torch is not installed: pip install kerasllm[parity]")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install kerasllm[parity]")
pytestmark = pytest.mark.parity

CONFIGS = Path(__file__).parents[3] / "shared" / "data" / "hf_configs"
SIZES = {
    "gpt2": {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 128},
    "bart": {
        "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 64,
    },
    "marian": {
        "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 64,
    },
}  # fmt: skip
CLASSES = {"gpt2": "GPT2LMHeadModel", "bart": "BartForConditionalGeneration", "marian": "MarianMTModel"}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["abcdefghijklmnopqrstuvwxyz"], kind="char", progress=False)


@pytest.fixture(scope="module")
def checkpoints(tokenizer, tmp_path_factory):
    """A folder and its model there and here, by kind; random weights that prefer some tokens clearly."""
    found = {}
    special = {"pad_token_id": tokenizer.pad_id, "eos_token_id": tokenizer.end_id, "bos_token_id": tokenizer.start_id}
    for kind, sizes in SIZES.items():
        folder = tmp_path_factory.mktemp(kind)
        more = {} if kind == "gpt2" else {"decoder_start_token_id": tokenizer.start_id, "forced_eos_token_id": None}
        torch.manual_seed(3)
        config = transformers.CONFIG_MAPPING[kind](**sizes, **special, **more, vocab_size=tokenizer.vocab_size)
        theirs = getattr(transformers, CLASSES[kind])(config).eval()
        for name, parameter in theirs.named_parameters():
            if parameter.requires_grad:
                parameter.data.normal_(0.0, 0.3)
                if name.endswith("norm.weight"):
                    parameter.data += 1
        theirs.save_pretrained(folder)
        tokenizer.save(folder)
        found[kind] = folder, theirs, kerasllm.huggingface.load(folder)[0]
        special_ids = {**special, **{key: value for key, value in more.items() if value is not None}}
        theirs.generation_config = transformers.GenerationConfig(**special_ids)
    return found


CAUSAL = [
    {},
    {"repetition_penalty": 1.4},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3, "repetition_penalty": 1.1},
    {"suppress_tokens": [4, 7, 9], "begin_suppress_tokens": [5, 6, 11]},
    {"bad_words_ids": [[8], [10]]},
    {"min_length": 20},
    {"min_new_tokens": 12},
]


@torch.no_grad()
@pytest.mark.parametrize("settings", CAUSAL, ids=str)
def test_ids_are_those_of_transformers(checkpoints, tokenizer, settings):
    _, theirs, ours = checkpoints["gpt2"]
    ours.generation_settings = settings
    rules = rule_options(ours, [tokenizer.end_id])
    for text in ("abcab", "hello", "q"):
        prompt = tokenizer.encode(text)
        ids = theirs.generate(torch.tensor([prompt]), max_new_tokens=24, **settings)
        expected = ids[0, len(prompt) :].tolist()
        expected = expected[: expected.index(tokenizer.end_id)] if tokenizer.end_id in expected else expected
        made = generate_ids(ours, [prompt], 24, end_ids=[tokenizer.end_id], **rules)[0]
        assert made == expected, text
        assert kerasllm.generate(ours, tokenizer, text, 24) == tokenizer.decode(expected)


BEAMS = [
    {"num_beams": 1},
    {"num_beams": 4},
    {"num_beams": 3, "early_stopping": True, "length_penalty": 2.0, "no_repeat_ngram_size": 2},
    {"num_beams": 4, "early_stopping": True, "min_length": 9, "no_repeat_ngram_size": 3, "forced_eos_token_id": 2},
    {"num_beams": 2, "length_penalty": -1.0, "repetition_penalty": 1.5},
    {"num_beams": 4, "length_penalty": 0.5, "renormalize_logits": True, "bad_words_ids": [[0], [1], [8]]},
    {"num_beams": 3, "begin_suppress_tokens": [4, 9, 12, 17], "suppress_tokens": [5, 6], "min_new_tokens": 5},
    {"num_beams": 3, "forced_bos_token_id": 7, "begin_suppress_tokens": [4, 9, 12, 17], "early_stopping": True},
]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["bart", "marian"])
@pytest.mark.parametrize("settings", BEAMS, ids=str)
def test_translations_are_those_of_transformers(checkpoints, tokenizer, kind, settings, tmp_path):
    folder, theirs, _ = checkpoints[kind]
    generation = {"eos_token_id": tokenizer.end_id, "pad_token_id": tokenizer.pad_id, "max_length": 24, **settings}
    generation["decoder_start_token_id"] = tokenizer.start_id
    (folder / "generation_config.json").write_text(json.dumps(generation))
    ours, _ = kerasllm.huggingface.load(folder)
    never = {"suppress_tokens": sorted({tokenizer.pad_id, tokenizer.start_id, *settings.get("suppress_tokens", ())})}
    for text in ("hello", "abcabcabcabc"):
        source = torch.tensor([[*tokenizer.encode(text), tokenizer.end_id]])
        ids = theirs.generate(source, max_length=24, **{**settings, **never})
        expected = tokenizer.decode(ids[0].numpy())
        assert kerasllm.translate(ours, tokenizer, text) == expected
    kerasllm.huggingface.save(ours, tokenizer, tmp_path / "out")
    kerasllm.save(ours, tokenizer, tmp_path / "run")
    for again in ("out", "run"):
        assert kerasllm.load(tmp_path / again)[0].generation_settings == ours.generation_settings
    config = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    assert {name: getattr(config, name) for name in settings} == settings


def test_settings_of_older_folders_are_read(checkpoints):
    folder, *_ = checkpoints["bart"]
    path = CONFIGS / "facebook__bart-large-cnn" / "config.json"
    if not path.exists():
        pytest.skip("../shared/data is not here")
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    names = ("num_beams", "length_penalty", "min_length", "max_length", "no_repeat_ngram_size", "early_stopping")
    given = {name: json.loads(path.read_text())[name] for name in names}
    (folder / "config.json").write_text(json.dumps({**config, **given}))
    ours, _ = kerasllm.huggingface.load(folder)
    theirs = transformers.BartForConditionalGeneration.from_pretrained(folder).generation_config
    assert ours.generation_settings == {name: getattr(theirs, name) for name in names}
