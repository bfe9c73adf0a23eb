"""Backbones of KerasHub as models of ours: the same logits, and what ours does not compute is refused."""

import keras
import numpy as np
import pytest
from oracles import scramble

from kerasllm import keras_hub
from kerasllm.models import CausalLM

keras_nlp = pytest.importorskip("keras_nlp")
V, T = 31, 19
SIZES = {"vocabulary_size": V, "num_layers": 3, "hidden_dim": 24, "intermediate_dim": 44}
GROUPED = {**SIZES, "num_query_heads": 6, "num_key_value_heads": 2}
LLAMA_3 = {
    "rope_frequency_adjustment_factor": 4.0,
    "rope_low_freq_factor": 1.0,
    "rope_high_freq_factor": 4.0,
    "rope_pretraining_sequence_length": 16,
}
GEMMA_2 = {
    "use_post_ffw_norm": True,
    "use_post_attention_norm": True,
    "attention_logit_soft_cap": 2.0,
    "final_logit_soft_cap": 3.0,
    "use_sliding_window_attention": True,
    "sliding_window_size": 5,
}
BACKBONES = {
    "gpt2": ("GPT2Backbone", {**SIZES, "num_heads": 3, "max_sequence_length": 32}),
    "llama": ("LlamaBackbone", {**GROUPED, "rope_max_wavelength": 500}),
    "llama 3": ("Llama3Backbone", {**GROUPED, **LLAMA_3, "layer_norm_epsilon": 1e-3, "tie_word_embeddings": True}),
    "mistral": ("MistralBackbone", {**GROUPED, "sliding_window": 4, "head_dim": 10, "rope_scaling_factor": 3.0}),
    "gemma": ("GemmaBackbone", {**GROUPED, "head_dim": 10, "layer_norm_epsilon": 1e-3}),
    "gemma 2": ("GemmaBackbone", {**GROUPED, **GEMMA_2, "head_dim": 10}),
    "qwen": ("QwenBackbone", {**GROUPED, "tie_word_embeddings": False}),
    "qwen, windows": ("QwenBackbone", {**GROUPED, "use_sliding_window_attention": True, "sliding_window_size": 6}),
    "bert": ("BertBackbone", {**SIZES, "num_heads": 3, "max_sequence_length": 32}),
}
IDS = np.random.default_rng(0).integers(0, V, (2, T))
VISIBLE = np.arange(T) < np.array([[T], [12]])


def made(name):
    kind, options = BACKBONES[name]
    backbone = scramble(getattr(keras_nlp.models, kind)(**options), seed=3)
    for weight in backbone.weights:
        if "gemma" in name and weight.name == "scale":
            weight.assign(weight - 1)  # which Gemma adds
    return backbone


@pytest.mark.parametrize("name", BACKBONES)
def test_what_is_converted_computes_the_same(name):
    backbone = made(name)
    model = keras_hub.load(backbone)
    inputs = {"token_ids": IDS, "padding_mask": VISIBLE.astype("int32")}
    if isinstance(model, CausalLM):
        expected = backbone.token_embedding(backbone(inputs), reverse=True)
        found = model(IDS, padding_mask=VISIBLE)
    else:
        types = IDS % 2
        expected = backbone({**inputs, "segment_ids": types})["sequence_output"]
        embedded = model.token_embedding(IDS) + model.token_type_embedding(types)
        found = model.transformer(embedded, mask=VISIBLE)
    found, expected = (keras.ops.convert_to_numpy(values)[VISIBLE] for values in (found, expected))
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_preset_is_read_from_its_folder(tmp_path):
    backbone = made("mistral")
    backbone.save_to_preset(str(tmp_path / "preset"))
    model = keras_hub.load(tmp_path / "preset", max_length=100)
    assert model.config.max_length == 100
    np.testing.assert_array_equal(model(IDS), keras_hub.load(backbone)(IDS))


def test_what_cannot_be_converted_is_refused():
    with pytest.raises(ValueError, match=r"converts KerasHub's GPT2Backbone, LlamaBackbone, .*, got a OPTBackbone"):
        keras_hub.load(keras_nlp.models.OPTBackbone(V, 1, 2, 8, 8))
    adapted = made("llama")
    adapted.enable_lora(2)
    with pytest.raises(ValueError, match=r"This LlamaBackbone has the weight '.*/query/lora_kernel_a', for which"):
        keras_hub.load(adapted)
    gemma = {**GROUPED, "head_dim": 4}
    for option, only in ({"query_head_dim_normalize": False}, True), ({"use_post_ffw_norm": True}, False):
        with pytest.raises(ValueError, match=f"GemmaBackbone with {next(iter(option))}=.*, only one with {only}"):
            keras_hub.load(keras_nlp.models.GemmaBackbone(**gemma, **option))
