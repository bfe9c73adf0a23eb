"""Records what tests without torch compare with: tiny checkpoints of transformers and their logits.

    python tests/parity/record_fixtures.py

writes tests/fixtures/huggingface/<model_type>, one for each way in which families are laid out. Weights are drawn far
from their initial values.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

FOLDER = Path(__file__).parents[1] / "fixtures" / "huggingface"
V, T = 29, 13
DECODER = {
    "vocab_size": V,
    "max_position_embeddings": 24,
    "num_hidden_layers": 2,
    "hidden_size": 12,
    "num_attention_heads": 4,
    "intermediate_size": 20,
}
GROUPED = {**DECODER, "num_key_value_heads": 2, "head_dim": 4}
BART = {
    "vocab_size": V,
    "max_position_embeddings": 24,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "d_model": 12,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 20,
}
OPUS = {"pad_token_id": 28, "decoder_start_token_id": 28, "eos_token_id": 0, "forced_eos_token_id": 0}
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
PART = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}
CHECKPOINTS = {
    "gpt2": (
        "GPT2LMHeadModel",
        {
            "vocab_size": V,
            "n_positions": 24,
            "n_layer": 2,
            "n_embd": 12,
            "n_head": 3,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
    ),
    "opt": ("OPTForCausalLM", {**DECODER, "ffn_dim": 20, "word_embed_proj_dim": 12}),
    "gpt_neox": ("GPTNeoXForCausalLM", {**DECODER, "hidden_size": 16, "rope_parameters": PART}),
    "llama": ("LlamaForCausalLM", {**GROUPED, "rope_parameters": LLAMA_3}),
    "arcee": ("ArceeForCausalLM", GROUPED),
    "nanochat": ("NanoChatForCausalLM", {**GROUPED, "final_logit_softcapping": 5.0, "pad_token_id": 0}),
    "gemma3_text": (
        "Gemma3ForCausalLM",
        {**GROUPED, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "bert": ("BertForMaskedLM", DECODER),
    "bart": ("BartForConditionalGeneration", BART),
    "marian": ("MarianMTModel", {**BART, **OPUS, "scale_embedding": True, "activation_function": "swish"}),
    "m2m_100": ("M2M100ForConditionalGeneration", BART),
    "t5": (
        "T5ForConditionalGeneration",
        {
            "vocab_size": V,
            "num_layers": 2,
            "num_decoder_layers": 1,
            "d_model": 12,
            "num_heads": 3,
            "d_kv": 6,
            "d_ff": 20,
        },
    ),
}


@torch.no_grad()
def record(kind):
    architecture, values = CHECKPOINTS[kind]
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(transformers.CONFIG_MAPPING[kind](**values)).eval()
    for name, parameter in model.named_parameters():
        is_scale = parameter.ndim == 1 and name.endswith("weight") and "gemma" not in kind
        if parameter.requires_grad:  # Marian's sinusoids stay
            parameter.normal_(1.0 if is_scale else 0.0, 0.4)
    if kind == "marian":
        model.final_logits_bias.normal_()
    draw = np.random.default_rng(0)
    ids, targets = draw.integers(5, V - 1, (2, T)), draw.integers(5, V - 1, (2, 7))  # none of them padding
    visible = np.arange(T) < np.array([[T], [8]])
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(visible)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.tensor(targets)
    logits = model(**inputs).logits.numpy()
    folder = FOLDER / kind
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    save_file({"ids": ids, "visible": visible, "targets": targets, "logits": logits}, folder / "expected.safetensors")


if __name__ == "__main__":
    for kind in CHECKPOINTS:
        record(kind)
