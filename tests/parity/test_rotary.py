"""Rotary positions of every kind beside transformers, in texts shorter and longer than those of the training."""

import json

import numpy as np
import pytest

import kerasllm
from kerasllm.generation import generate_ids
from kerasllm.tokenizers import Tokenizer

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install kerasllm[parity]")

pytestmark = pytest.mark.parity

V, TRAINED = 29, 12
SIZES = {
    "vocab_size": V,
    "max_position_embeddings": 24,
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 20,
    "pad_token_id": 0,
}
GROUPED = {"rms_norm_eps": 1e-6, "num_key_value_heads": 2}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": TRAINED}
EDGES = {"beta_fast": 4, "beta_slow": 0.5, "mscale": 0.7, "mscale_all_dim": 0.4, "truncate": False}
LISTS = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0]}
LONGROPE = {"rope_type": "longrope", "original_max_position_embeddings": TRAINED, **LISTS}
PART = {"short_factor": [1.0, 1.1, 1.2], "long_factor": [2.0, 3.0, 4.0]}
LLAMA_3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": TRAINED}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0}
# What a config.json says of them, by the family.
SETTINGS = {
    "linear": ("llama", {"rope_scaling": {"type": "linear", "factor": 3.0}}),
    "dynamic": ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "rope_theta": 500.0}),
    "dynamic in part": ("gpt_neox", {"rope_parameters": {**DYNAMIC, "partial_rotary_factor": 0.5}}),
    "yarn": ("qwen2", {"rope_scaling": YARN, "rope_theta": 500.0}),
    "yarn with its edges": ("mistral", {"rope_parameters": {**YARN, **EDGES, "rope_theta": 500.0}}),
    "yarn with its factor": ("arcee", {"rope_parameters": {**YARN, "attention_factor": 1.3}}),
    "longrope": ("llama", {"rope_parameters": LONGROPE}),
    "longrope with its factor": ("qwen3", {"rope_parameters": {**LONGROPE, "factor": 3.0}, "head_dim": 8}),
    "longrope with its attention": ("llama", {"rope_parameters": {**LONGROPE, "attention_factor": 1.4}}),
    "longrope beside": (
        "phi3",
        {"rope_scaling": {"type": "longrope", **LISTS}, "original_max_position_embeddings": TRAINED},
    ),
    "longrope by an older name": (
        "phi3",
        {"rope_scaling": {"type": "yarn", **LISTS}, "original_max_position_embeddings": TRAINED},
    ),
    "longrope in part": (
        "phi3",
        {
            "rope_scaling": {"type": "longrope", **PART},
            "original_max_position_embeddings": TRAINED,
            "partial_rotary_factor": 0.75,
        },
    ),
    "llama3": ("llama", {"rope_scaling": {"rope_type": "llama3", **LLAMA_3}, "rope_theta": 500.0}),
    "proportional": ("llama", {"rope_parameters": {"rope_type": "proportional", "partial_rotary_factor": 0.5}}),
    "by kind of layer": (
        "gemma3_text",
        {
            "rope_parameters": {"sliding_attention": {**YARN, **EDGES}, "full_attention": LONGROPE},
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "sliding_window": 9,
            "head_dim": 8,
        },
    ),
    "by kind of layer, older": (
        "gemma3_text",
        {
            "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
            "rope_theta": 700.0,
            "rope_local_base_freq": 70.0,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            "sliding_window": 9,
            "head_dim": 8,
        },
    ),
}
IDS = np.random.default_rng(0).integers(1, V, (2, 60))


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["a dog, a cat"], kind="char", progress=False)


def checkpoint(folder, values, tokenizer, deviation=0.3):
    """A folder with this very config.json, and weights far from their initial values."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values))
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(folder))
    for name, parameter in model.named_parameters():
        is_scale = parameter.ndim == 1 and "norm" in name and "gemma" not in values["model_type"]
        parameter.data.normal_(1.0 if is_scale else 0.0, deviation)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(values))
    tokenizer.save(folder)
    return folder


@torch.no_grad()
def their_logits(folder, ids):
    """By a new model: those of the kind "dynamic" remember the longest text that they have seen."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    return model(torch.tensor(ids)).logits.numpy()


@pytest.mark.parametrize("name", SETTINGS)
def test_logits_are_the_same_at_every_length(name, tokenizer, tmp_path):
    kind, own = SETTINGS[name]
    common = {"model_type": kind, **SIZES, **({} if kind == "gpt_neox" else GROUPED)}
    folder = checkpoint(tmp_path / "theirs", {**common, **own}, tokenizer)
    model, _ = kerasllm.huggingface.load(folder)
    kerasllm.huggingface.save(model, tokenizer, tmp_path / "ours")
    plain = {"rope_scaling": None, "rope_parameters": None, "original_max_position_embeddings": TRAINED}
    unscaled = checkpoint(tmp_path / "plain", {**common, **own, **plain}, tokenizer)
    for length in (TRAINED, TRAINED + 1, 25, 60):
        expected = their_logits(folder, IDS[:, :length])
        np.testing.assert_allclose(model(IDS[:, :length]), expected, atol=1e-4)
        np.testing.assert_allclose(their_logits(tmp_path / "ours", IDS[:, :length]), expected, atol=1e-5)
    assert np.abs(expected - their_logits(unscaled, IDS)).max() > 0.1  # The kind is of consequence.


@pytest.mark.parametrize("name", ["dynamic", "longrope beside"])
def test_greedy_text_that_grows_too_long_for_the_training_is_the_same(name, tokenizer, tmp_path):
    kind, own = SETTINGS[name]
    values = {"model_type": kind, **SIZES, **GROUPED, **own}
    if kind == "phi3":
        values["max_position_embeddings"] = 48
    folder = checkpoint(tmp_path / "theirs", values, tokenizer)
    model, _ = kerasllm.huggingface.load(folder)
    text = IDS[0, :9].tolist()
    for token in generate_ids(model, [text], max_new_tokens=30)[0]:
        logits = their_logits(folder, [text])[0, -1]
        assert logits.argmax() == token or logits.max() - logits[token] < 1e-3
        text.append(token)


QWEN_YARN = {"rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}}
REAL = {
    "microsoft__Phi-3-mini-128k-instruct": (2 * 96, 4097, {}),
    "microsoft__Phi-4-mini-instruct": (2 * 128, 4097, {}),
    "deepseek-ai__deepseek-coder-1.3b-instruct": (2 * 128, 500, {}),
    "meta-llama__Llama-3.2-1B-Instruct": (2 * 64, 500, {}),
    "Qwen__Qwen2.5-7B-Instruct": (2 * 128, 500, QWEN_YARN),  # as its card says
}


@pytest.mark.parametrize("name", REAL)
def test_real_settings_give_the_same_logits(name, tokenizer, shared_data, tmp_path):
    """Cut down in all but the heads."""
    width, length, own = REAL[name]
    values = json.loads((shared_data / "hf_configs" / name / "config.json").read_text())
    inert = ("auto_map", "full_attn_mod", "interpolate_factor", "lm_head_bias", "mlp_bias")
    values = {name: value for name, value in values.items() if name not in inert}
    sizes = {"hidden_size": width, "num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 2}
    values |= {**sizes, "intermediate_size": 16, "vocab_size": V, "pad_token_id": 0, "eos_token_id": 1, **own}
    values["torch_dtype"] = "float32"
    folder = checkpoint(tmp_path / "theirs", values, tokenizer, deviation=width**-0.5)
    model, _ = kerasllm.huggingface.load(folder)
    ids = np.random.default_rng(0).integers(1, V, (1, length))
    for end in (length - 1, length):
        np.testing.assert_allclose(model(ids[:, :end]), their_logits(folder, ids[:, :end]), atol=2e-4)
