"""Published architectures as numbers: a row of family settings, and a row for each size.

A family's "laptop" size is the same architecture, small enough to train on two cores. Parameter counts that follow
from these rows are tested against the published ones.
"""

# https://github.com/openai/gpt-2 (hparams of each size) and Radford et al. 2019.
GPT2 = {
    "vocab_size": 50257,
    "max_length": 1024,
    "positions": "learned",
    "activation": "gelu_tanh",
}

# Biderman et al. 2023, https://arxiv.org/abs/2304.01373, table 1: the architecture of GPT-NeoX,
# https://arxiv.org/abs/2204.06745.
PYTHIA = {
    "vocab_size": 50304,
    "max_length": 2048,
    "partial_rotary_factor": 0.25,
    "parallel": True,
    "shared_norm": False,
    "activation": "gelu",
    "tie_embeddings": False,
}

# The choices of the records in https://github.com/KellerJordan/modded-nanogpt, as https://github.com/karpathy/nanochat
# has them: norms without scales, one of the embedding too, an output layer of its own, and logits below a cap.
SPEEDRUN = {
    "vocab_size": 50257,
    "max_length": 1024,
    "norm": "rms",
    "norm_epsilon": 1e-6,
    "norm_scale": False,
    "embedding_norm": True,
    "qk_norm": True,
    "activation": "relu_squared",
    "use_bias": False,
    "tie_embeddings": False,
    "logit_soft_cap": 15.0,
}

# Touvron et al. 2023, https://arxiv.org/abs/2302.13971, section 2.2 and table 2.
LLAMA = {
    "vocab_size": 32000,
    "max_length": 2048,
    "norm": "rms",
    "norm_epsilon": 1e-6,
    "activation": "silu",
    "gated": True,
    "use_bias": False,
    "tie_embeddings": False,
}

# Touvron et al. 2023, https://arxiv.org/abs/2307.09288, table 1 and appendix A.2.
LLAMA_2 = {**LLAMA, "max_length": 4096, "norm_epsilon": 1e-5}

# Llama Team 2024, https://arxiv.org/abs/2407.21783, table 3.
LLAMA_3 = {**LLAMA_2, "vocab_size": 128256, "max_length": 8192, "rope_theta": 500000.0, "num_kv_heads": 8}

# Jiang et al. 2024, https://arxiv.org/abs/2401.04088, table 1: Mistral's layers, with eight experts in each.
MIXTRAL = {
    **LLAMA_2,
    "max_length": 32768,
    "rope_theta": 1000000.0,
    "num_kv_heads": 8,
    "num_experts": 8,
    "experts_per_token": 2,
}

# Qwen Team 2025, https://arxiv.org/abs/2505.09388, table 2, and config.json of https://huggingface.co/Qwen.
QWEN_3_MOE = {
    **LLAMA,
    "vocab_size": 151936,
    "max_length": 40960,
    "rope_theta": 1000000.0,
    "head_dim": 128,
    "num_kv_heads": 4,
    "qk_norm": True,
    "num_experts": 128,
    "experts_per_token": 8,
}

# Gemma Team 2024, https://arxiv.org/abs/2408.00118, section 2 and table 1: every other layer sees a window only.
GEMMA_2 = {
    "vocab_size": 256000,
    "max_length": 8192,
    "attention_soft_cap": 50.0,
    "norm": "rms",
    "norm_placement": "sandwich",
    "norm_epsilon": 1e-6,
    "activation": "gelu_tanh",
    "gated": True,
    "use_bias": False,
    "logit_soft_cap": 30.0,
    "scale_embeddings": True,
}

# Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, section 2 and table 1: multi-query attention, parallel
# layers, SwiGLU, no biases, shared embeddings.
PALM = {
    "vocab_size": 256000,
    "max_length": 2048,
    "num_kv_heads": 1,
    "head_dim": 256,
    "parallel": True,
    "activation": "silu",
    "gated": True,
    "use_bias": False,
}

# Thoppilan et al. 2022, https://arxiv.org/abs/2201.08239, section 3 and table 27: T5's relative positions and
# gated GELU.
LAMDA = {
    "vocab_size": 32000,
    "max_length": 1024,
    "head_dim": 128,
    "positions": "relative",
    "activation": "gelu_tanh",
    "gated": True,
    "use_bias": False,
}

# Devlin et al. 2019, https://arxiv.org/abs/1810.04805, section 3 and appendix A.2, and bert_config.json of the uncased
# models at https://github.com/google-research/bert. For `MaskedLM`.
BERT = {
    "vocab_size": 30522,
    "max_length": 512,
    "positions": "learned",
    "norm_placement": "post",
    "norm_epsilon": 1e-12,
    "embedding_norm": True,
    "num_token_types": 2,
    "activation": "gelu",
    "dropout": 0.1,
}

# Liu et al. 2019, https://arxiv.org/abs/1907.11692, section 4 and table 9: no token types, and byte-level BPE.
ROBERTA = {**BERT, "vocab_size": 50265, "norm_epsilon": 1e-5, "num_token_types": 0}

# Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, sections 3 and 5.1 and table 3. For `Seq2SeqLM`, as are the two
# that follow.
TRANSFORMER = {
    "vocab_size": 37000,
    "max_length": 1024,
    "positions": "sinusoidal",
    "norm_placement": "post",
    "activation": "relu",
    "scale_embeddings": True,
    "dropout": 0.1,
}

# Lewis et al. 2020, https://arxiv.org/abs/1910.13461, section 2, and config.json of https://huggingface.co/facebook.
BART = {
    "vocab_size": 50265,
    "max_length": 1024,
    "positions": "learned",
    "norm_placement": "post",
    "embedding_norm": True,
    "activation": "gelu",
    "dropout": 0.1,
}

# Raffel et al. 2020, https://arxiv.org/abs/1910.10683, sections 2.1 and 3.7, and config.json of
# https://huggingface.co/google-t5.
T5 = {
    "vocab_size": 32128,
    "max_length": 512,
    "positions": "relative",
    "attention_scale": 1.0,
    "norm": "rms",
    "norm_epsilon": 1e-6,
    "activation": "relu",
    "use_bias": False,
    "dropout": 0.1,
}


def _size(num_layers, d_model, num_heads, dff, **more):
    return {"num_layers": num_layers, "d_model": d_model, "num_heads": num_heads, "dff": dff, **more}


def _sizes(num_layers, d_model, num_heads, dff, **more):
    """The same of an encoder and a decoder, each of so many layers."""
    return {**_size(num_layers, d_model, num_heads, dff), "num_encoder_layers": num_layers, **more}


def _gemma_2(num_layers, d_model, num_heads, dff, window=4096, **more):
    windows = tuple(None if i % 2 else window for i in range(num_layers))
    return {**GEMMA_2, **_size(num_layers, d_model, num_heads, dff), "attention_window": windows, **more}


PRESETS = {
    "gpt2": {**GPT2, **_size(12, 768, 12, 3072)},
    "gpt2-medium": {**GPT2, **_size(24, 1024, 16, 4096)},
    "gpt2-large": {**GPT2, **_size(36, 1280, 20, 5120)},
    "gpt2-xl": {**GPT2, **_size(48, 1600, 25, 6400)},
    "gpt2-laptop": {**GPT2, **_size(4, 256, 4, 1024, vocab_size=4096, max_length=256)},
    "pythia-70m": {**PYTHIA, **_size(6, 512, 8, 2048)},
    "pythia-160m": {**PYTHIA, **_size(12, 768, 12, 3072)},
    "pythia-410m": {**PYTHIA, **_size(24, 1024, 16, 4096)},
    "pythia-1b": {**PYTHIA, **_size(16, 2048, 8, 8192)},
    "pythia-1.4b": {**PYTHIA, **_size(24, 2048, 16, 8192)},
    "pythia-2.8b": {**PYTHIA, **_size(32, 2560, 32, 10240)},
    "pythia-6.9b": {**PYTHIA, **_size(32, 4096, 32, 16384, vocab_size=50432)},
    "pythia-12b": {**PYTHIA, **_size(36, 5120, 40, 20480, vocab_size=50688)},
    "pythia-laptop": {**PYTHIA, **_size(4, 256, 4, 1024, vocab_size=4096, max_length=256)},
    "speedrun": {**SPEEDRUN, **_size(12, 768, 6, 3072)},
    "speedrun-laptop": {**SPEEDRUN, **_size(6, 256, 4, 1024, vocab_size=4096, max_length=256)},
    "llama-7b": {**LLAMA, **_size(32, 4096, 32, 11008)},
    "llama-13b": {**LLAMA, **_size(40, 5120, 40, 13824)},
    "llama-33b": {**LLAMA, **_size(60, 6656, 52, 17920)},
    "llama-65b": {**LLAMA, **_size(80, 8192, 64, 22016)},
    "llama-2-7b": {**LLAMA_2, **_size(32, 4096, 32, 11008)},
    "llama-2-13b": {**LLAMA_2, **_size(40, 5120, 40, 13824)},
    "llama-2-70b": {**LLAMA_2, **_size(80, 8192, 64, 28672, num_kv_heads=8)},
    "llama-3-8b": {**LLAMA_3, **_size(32, 4096, 32, 14336)},
    "llama-3-70b": {**LLAMA_3, **_size(80, 8192, 64, 28672)},
    "llama-laptop": {**LLAMA, **_size(4, 256, 4, 688, vocab_size=4096, max_length=256, num_kv_heads=2)},
    "mixtral-8x7b": {**MIXTRAL, **_size(32, 4096, 32, 14336)},
    "mixtral-laptop": {
        **MIXTRAL,
        **_size(4, 256, 4, 344, vocab_size=4096, max_length=256, num_kv_heads=2, router_loss=0.01),
    },
    "qwen-3-30b-a3b": {**QWEN_3_MOE, **_size(48, 2048, 32, 768)},
    "qwen-3-235b-a22b": {**QWEN_3_MOE, **_size(94, 4096, 64, 1536)},
    "gemma-2-2b": _gemma_2(26, 2304, 8, 9216, num_kv_heads=4, head_dim=256),
    "gemma-2-9b": _gemma_2(42, 3584, 16, 14336, num_kv_heads=8, head_dim=256),
    "gemma-2-27b": _gemma_2(46, 4608, 32, 36864, num_kv_heads=16, head_dim=128, attention_scale=144**-0.5),
    "gemma-2-laptop": _gemma_2(4, 256, 4, 688, window=64, vocab_size=4096, max_length=256, num_kv_heads=2),
    "palm-8b": {**PALM, **_size(32, 4096, 16, 16384)},
    "palm-62b": {**PALM, **_size(64, 8192, 32, 32768)},
    "palm-540b": {**PALM, **_size(118, 18432, 48, 73728)},
    "palm-laptop": {**PALM, **_size(4, 256, 4, 1024, vocab_size=4096, max_length=256, head_dim=64)},
    "lamda-2b": {**LAMDA, **_size(10, 2560, 40, 20480)},
    "lamda-8b": {**LAMDA, **_size(16, 4096, 64, 32768)},
    "lamda-137b": {**LAMDA, **_size(64, 8192, 128, 65536)},
    "lamda-laptop": {**LAMDA, **_size(4, 256, 4, 1024, vocab_size=4096, max_length=256, head_dim=64)},
    "bert-base": {**BERT, **_size(12, 768, 12, 3072)},
    "bert-large": {**BERT, **_size(24, 1024, 16, 4096)},
    "bert-laptop": {**BERT, **_size(4, 256, 4, 1024, vocab_size=4096, max_length=256)},
    "roberta-base": {**ROBERTA, **_size(12, 768, 12, 3072)},
    "roberta-large": {**ROBERTA, **_size(24, 1024, 16, 4096)},
    "transformer-base": {**TRANSFORMER, **_sizes(6, 512, 8, 2048)},
    "transformer-big": {**TRANSFORMER, **_sizes(6, 1024, 16, 4096, dropout=0.3)},
    "transformer-laptop": {**TRANSFORMER, **_sizes(3, 256, 4, 1024, vocab_size=8000, max_length=256)},
    "bart-base": {**BART, **_sizes(6, 768, 12, 3072)},
    "bart-large": {**BART, **_sizes(12, 1024, 16, 4096)},
    "t5-small": {**T5, **_sizes(6, 512, 8, 2048)},
    "t5-base": {**T5, **_sizes(12, 768, 12, 3072)},
    "t5-large": {**T5, **_sizes(24, 1024, 16, 4096)},
    "t5-3b": {**T5, **_sizes(24, 1024, 32, 16384, head_dim=128)},
    "t5-11b": {**T5, **_sizes(24, 1024, 128, 65536, head_dim=128)},
    "t5-laptop": {**T5, **_sizes(3, 256, 4, 1024, vocab_size=8000, max_length=256)},
}
# A family's bare name is its smallest published size.
PRESETS |= {"llama": PRESETS["llama-7b"], "palm": PRESETS["palm-8b"], "lamda": PRESETS["lamda-2b"]}
PRESETS |= {"mixtral": PRESETS["mixtral-8x7b"], "pythia": PRESETS["pythia-70m"], "gemma-2": PRESETS["gemma-2-2b"]}
PRESETS |= {"bert": PRESETS["bert-base"], "roberta": PRESETS["roberta-base"]}
PRESETS |= {name: PRESETS[f"{name}-base"] for name in ("transformer", "bart")} | {"t5": PRESETS["t5-small"]}


def preset_fields(name):
    """The fields of `TransformerConfig` for a preset.

    Raises:
        ValueError: if there is no preset of that name.
    """
    if name not in PRESETS:
        raise ValueError(f"Unknown preset {name!r}. The presets are {', '.join(sorted(PRESETS))}.")
    return dict(PRESETS[name])
