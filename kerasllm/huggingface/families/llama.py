"""Llama (Touvron et al. 2023, https://arxiv.org/abs/2302.13971) and what is built like it: Mistral, Qwen 2 and 3, the
first Gemma, ERNIE 4.5 and Phi-3."""

import functools

from kerasllm.huggingface.families.family import Family
from kerasllm.huggingface.names import Source, dense, in_blocks, linear, plain
from kerasllm.huggingface.settings import activation_name, rope_parameters, size_settings
from kerasllm.models import CausalLM


def _common(settings, **own):
    return {
        **settings.sizes(),
        "max_length": settings.take("max_position_embeddings", 2048),
        "num_kv_heads": settings.take("num_key_value_heads"),
        "head_dim": settings.take("head_dim"),
        "norm": "rms",
        "norm_epsilon": settings.need("rms_norm_eps"),
        "activation": settings.activation("hidden_act", "silu"),
        "gated": True,
        "use_bias": False,
        "tie_embeddings": settings.take("tie_word_embeddings", False),
        "attention_dropout": settings.take("attention_dropout", 0.0),
        **({} if "rope_theta" in own else settings.rope()),
        **own,
    }


def _window(settings, used=True, default=None):
    """How far a token sees, if all layers agree on it; `default` says what an absent setting means."""
    layers = settings.values["num_hidden_layers"]
    window = settings.values.get("sliding_window", default)  # null says that there is none
    settings.ignore("sliding_window")
    used = settings.take("use_sliding_window", used) and window is not None
    first = settings.take("max_window_layers", 0)
    kinds = ["sliding_attention" if used and i >= first else "full_attention" for i in range(layers)]
    kinds = settings.take("layer_types", kinds)
    if len(set(kinds)) > 1:
        settings.refuse("layer_types", kinds, "layers that all see alike")
    return {"attention_window": window if kinds[0] == "sliding_attention" else None}


def _llama(settings):
    bias = settings.take("attention_bias", False)
    if settings.take("mlp_bias", False) != bias:
        settings.refuse("attention_bias", bias, "biases everywhere or nowhere")
    return _common(settings, use_bias=bias)


def _mistral(settings):
    return _common(settings, **_window(settings, default=4096))


def _qwen2(settings):
    return _common(settings, qkv_bias=True, **_window(settings, used=False))


def _qwen3(settings):
    settings.only("attention_bias", False)
    return _common(settings, qk_norm=True, **_window(settings, used=False))


def _phi3(settings):
    settings.only("attention_bias", False)
    settings.only("partial_rotary_factor", 1.0)
    settings.ignore("embd_pdrop", "resid_pdrop", "original_max_position_embeddings")
    return _common(settings, **_window(settings))


def _ernie4_5(settings):
    tied, bias = settings.take("tie_word_embeddings", True), settings.take("use_bias", False)
    return _common(settings, tie_embeddings=tied, use_bias=bias, **settings.rope(500000.0))


def _gemma(settings):
    settings.only("attention_bias", False)
    settings.only("use_bidirectional_attention", False)
    settings.only("hidden_act", "gelu_pytorch_tanh", "gelu")  # transformers reads both as the first.
    settings.ignore("hidden_activation")
    tied = settings.take("tie_word_embeddings", True)
    return _common(settings, activation="gelu_tanh", scale_embeddings=True, tie_embeddings=tied)


def _llama_settings(config):
    return _settings(config, attention_bias=config.use_bias, mlp_bias=config.use_bias)


def _ernie4_5_settings(config):
    return _settings(config, use_bias=config.use_bias)


def _settings(config, **own):
    return {
        **size_settings(config),
        "max_position_embeddings": config.max_length,
        "num_key_value_heads": config.num_kv_heads or config.num_heads,
        "head_dim": config.head_dim or config.d_model // config.num_heads,
        "rms_norm_eps": config.norm_epsilon,
        "hidden_act": activation_name(config.activation),
        "tie_word_embeddings": config.tie_embeddings,
        "attention_dropout": config.attention_dropout or 0.0,
        **rope_parameters(config),
        **own,
    }


def _windowed(config):
    return _settings(config, sliding_window=config.attention_window)


def _qwen(config):
    window = config.attention_window
    sliding = {"sliding_window": window, "use_sliding_window": window is not None, "max_window_layers": 0}
    return _settings(config, **(sliding if window else {"use_sliding_window": False}))


def _gemma_settings(config):
    return _settings(config, hidden_act="gelu_pytorch_tanh")


def _weights(config, _, scale_offset=0.0):
    norm = functools.partial(_norm, offset=scale_offset)
    block = {
        **norm("attention_norm", "input_layernorm"),
        **dense("attention/query_key_value", "self_attn.{}_proj", "q", "k", "v"),
        **norm("attention/query_norm", "self_attn.q_norm"),
        **norm("attention/key_norm", "self_attn.k_norm"),
        **dense("attention/output", "self_attn.o_proj"),
        **norm("feed_forward_norm", "post_attention_layernorm"),
        **dense("feed_forward/inner", "mlp.{}_proj", "gate", "up"),
        **dense("feed_forward/outer", "mlp.down_proj"),
    }
    return {
        "token_embedding/embeddings": plain("model.embed_tokens.weight"),
        "token_embedding/reverse_embeddings": linear("lm_head"),
        **in_blocks(block, "transformer/block_#", "model.layers.#"),
        **norm("transformer/final_norm", "model.norm"),
    }


def _phi3_weights(config, values):
    """Phi-3 keeps query, key and value in one matrix, and the two halves of the feed-forward layer in another."""
    together = {
        "attention/query_key_value/kernel": linear("self_attn.qkv_proj"),
        "feed_forward/inner/kernel": linear("mlp.gate_up_proj"),
    }
    return {**_weights(config, values), **in_blocks(together, "transformer/block_#", "model.layers.#")}


def _ernie4_5_weights(config, values):
    h = config.head_dim or config.d_model // config.num_heads
    table = _weights(config, values)
    names = [name for name in table if "query_key_value" in name]
    return {**table, **{name: table[name]._replace(paired=(h, h, 0)) for name in names}}


def _norm(ours, theirs, offset):
    return {f"{ours}/scale": Source((f"{theirs}.weight",), offset=offset)}


def _family(architecture, fields, settings, weights=_weights):
    return Family(
        architecture,
        CausalLM,
        fields,
        settings,
        weights,
        renames=((r"^(?=embed_tokens\.|layers\.|norm\.)", "model."),),
        unused=r"rotary_emb\.inv_freq$",
    )


FAMILIES = {
    "llama": _family("LlamaForCausalLM", _llama, _llama_settings),
    "mistral": _family("MistralForCausalLM", _mistral, _windowed),
    "qwen2": _family("Qwen2ForCausalLM", _qwen2, _qwen),
    "qwen3": _family("Qwen3ForCausalLM", _qwen3, _qwen),
    "gemma": _family("GemmaForCausalLM", _gemma, _gemma_settings, functools.partial(_weights, scale_offset=1.0)),
    "ernie4_5": _family("Ernie4_5ForCausalLM", _ernie4_5, _ernie4_5_settings, _ernie4_5_weights),
    "phi3": _family("Phi3ForCausalLM", _phi3, _windowed, _phi3_weights),
}
