"""Llama (Touvron et al. 2023, https://arxiv.org/abs/2302.13971) and what is built like it: Mistral, Ministral, Qwen 2
and 3, ERNIE 4.5, Phi-3, OLMo 2 and SmolLM3."""

import dataclasses

from kerasllm.huggingface import rotary
from kerasllm.huggingface.families.family import Family
from kerasllm.huggingface.names import Source, dense, in_blocks, linear, plain
from kerasllm.huggingface.settings import (
    EVERYTHING,
    WINDOW,
    activation_name,
    attention_bias,
    size_settings,
    windows,
)
from kerasllm.models import CausalLM


def common(settings, rope=None, **own):
    """The fields of all of them. `own` are those of one family, `rope` its rotary ones where Llama's are not."""
    return {
        **settings.sizes(),
        "num_kv_heads": settings.take("num_key_value_heads"),
        "head_dim": settings.take("head_dim"),
        "norm": "rms",
        "norm_epsilon": settings.take("rms_norm_eps"),
        "activation": settings.activation("hidden_act"),
        "gated": True,
        "use_bias": settings.take("mlp_bias", False),
        "attention_bias": settings.take("attention_bias", False),
        "tie_embeddings": settings.take("tie_word_embeddings"),
        "attention_dropout": settings.take("attention_dropout", 0.0),
        **(rope or rotary.rope(settings)),
        **own,
    }


def windows_of(kinds, window):
    """How far each layer sees."""
    return [window if kind == WINDOW else None for kind in kinds]


def _windowed(settings, fields):
    """Fields with windows too."""
    used, first = settings.take("use_sliding_window", True), settings.take("max_window_layers", 0)
    kinds = [WINDOW if used and i >= first else EVERYTHING for i in range(fields["num_layers"])]
    return {
        **fields,
        "attention_window": windows_of(settings.layer_types(kinds), settings.take("sliding_window")),
    }


def _mistral(settings):
    return _windowed(settings, common(settings))


def _qwen2(settings):
    return _windowed(settings, common(settings, qkv_bias=True))


def _qwen3(settings):
    return _windowed(settings, common(settings, qk_norm=True))


def _phi3(settings):
    rope = rotary.rope(settings, share=settings.take("partial_rotary_factor", 1.0))
    if rope["rope_scaling"] and rope["rope_scaling"]["rope_type"] != "longrope":
        settings.refuse("rope_type", rope["rope_scaling"]["rope_type"], "'default' or 'longrope'")
    return _windowed(settings, common(settings, rope))


def _ernie4_5(settings):
    bias = settings.take("use_bias", False)
    return common(settings, rotary.rope(settings, 500000.0), use_bias=bias, attention_bias=None)


def _olmo2(settings):
    return common(settings, norm_placement="output", qk_norm="full")


def _smollm3(settings):
    fields = common(settings, rotary.rope(settings, 2000000.0))
    every = settings.take("no_rope_layer_interval")
    rotated = settings.take("no_rope_layers", [(i + 1) % every != 0 for i in range(fields["num_layers"])])
    rotated = rotated[: fields["num_layers"]]
    used, window = settings.take("use_sliding_window"), settings.take("sliding_window")
    kinds = settings.layer_types([WINDOW if used and window and not turns else EVERYTHING for turns in rotated])
    return {
        **fields,
        "partial_rotary_factor": [float(bool(turns)) for turns in rotated],
        "attention_window": windows_of(kinds, window),
    }


def settings_of(config, **own):
    """What config.json says of all of them, and `own`, what it says of one."""
    return {
        **size_settings(config),
        "num_key_value_heads": config.num_kv_heads or config.num_heads,
        "head_dim": config.head_dim or config.d_model // config.num_heads,
        "rms_norm_eps": config.norm_epsilon,
        "hidden_act": activation_name(config.activation),
        "tie_word_embeddings": config.tie_embeddings,
        "attention_dropout": config.attention_dropout or 0.0,
        **({} if "rope_parameters" in own else rotary.rope_parameters(config)),
        **own,
    }


def _llama_settings(config):
    return settings_of(config, attention_bias=attention_bias(config), mlp_bias=config.use_bias)


def _mistral_settings(config):
    return settings_of(config, sliding_window=config.attention_window)


def _ministral_settings(config):
    seen = windows(config)
    return settings_of(
        config, layer_types=seen["layer_types"], sliding_window=seen["sliding_window"] or config.max_length
    )


def _qwen2_settings(config, **own):
    seen = windows(config)
    return settings_of(config, use_sliding_window=seen["sliding_window"] is not None, **seen, **own)


def _qwen3_settings(config):
    return _qwen2_settings(config, attention_bias=attention_bias(config))


def _phi3_settings(config):
    scaling = config.by_layer("rope_scaling")[0] or {}
    trained = scaling.get("original_max_position_embeddings", config.max_length)
    own = {"partial_rotary_factor": config.partial_rotary_factor, "original_max_position_embeddings": trained}
    return {**_mistral_settings(config), **own}


def _ernie4_5_settings(config):
    return settings_of(config, use_bias=config.use_bias)


def _olmo2_settings(config):
    return settings_of(config, attention_bias=attention_bias(config))


def _smollm3_settings(config):
    rotated = [int(share) for share in config.by_layer("partial_rotary_factor")]
    rope = rotary.rope_parameters(dataclasses.replace(config, partial_rotary_factor=1.0))
    biases = {"attention_bias": attention_bias(config), "mlp_bias": config.use_bias}
    return _qwen2_settings(config, no_rope_layers=rotated, **biases, **rope)


def weights(config, _, scale_offset=0.0):
    block = {
        **norm("attention_norm", "input_layernorm", scale_offset),
        **dense("attention/query_key_value", "self_attn.{}_proj", "q", "k", "v"),
        **norm("attention/query_norm", "self_attn.q_norm", scale_offset),
        **norm("attention/key_norm", "self_attn.k_norm", scale_offset),
        **dense("attention/output", "self_attn.o_proj"),
        **norm("feed_forward_norm", "post_attention_layernorm", scale_offset),
        **dense("feed_forward/inner", "mlp.{}_proj", "gate", "up"),
        **dense("feed_forward/outer", "mlp.down_proj"),
    }
    return {
        "token_embedding/embeddings": plain("model.embed_tokens.weight"),
        "token_embedding/reverse_embeddings": linear("lm_head"),
        **in_blocks(block, "transformer/block_#", "model.layers.#"),
        **norm("transformer/final_norm", "model.norm", scale_offset),
    }


def _phi3_weights(config, values):
    """Phi-3 keeps query, key and value in one matrix, and the two halves of the feed-forward layer in another."""
    together = {
        "attention/query_key_value/kernel": linear("self_attn.qkv_proj"),
        "feed_forward/inner/kernel": linear("mlp.gate_up_proj"),
    }
    return {**weights(config, values), **in_blocks(together, "transformer/block_#", "model.layers.#")}


def _ernie4_5_weights(config, values):
    h = config.head_dim or config.d_model // config.num_heads
    table = weights(config, values)
    names = [name for name in table if "query_key_value" in name]
    return {**table, **{name: table[name]._replace(paired=(h, h, 0)) for name in names}}


def _olmo2_weights(config, values):
    norms = {
        **norm("attention_output_norm", "post_attention_layernorm"),
        **norm("feed_forward_output_norm", "post_feedforward_layernorm"),
    }
    return {**weights(config, values), **in_blocks(norms, "transformer/block_#", "model.layers.#")}


def norm(ours, theirs, offset=0.0):
    return {f"{ours}/scale": Source((f"{theirs}.weight",), offset=offset)}


def family(architecture, fields, settings, weights=weights):
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
    "llama": family("LlamaForCausalLM", common, _llama_settings),
    "mistral": family("MistralForCausalLM", _mistral, _mistral_settings),
    "ministral": family("MinistralForCausalLM", _mistral, _ministral_settings),
    "qwen2": family("Qwen2ForCausalLM", _qwen2, _qwen2_settings),
    "qwen3": family("Qwen3ForCausalLM", _qwen3, _qwen3_settings),
    "ernie4_5": family("Ernie4_5ForCausalLM", _ernie4_5, _ernie4_5_settings, _ernie4_5_weights),
    "phi3": family("Phi3ForCausalLM", _phi3, _phi3_settings, _phi3_weights),
    "olmo2": family("Olmo2ForCausalLM", _olmo2, _olmo2_settings, _olmo2_weights),
    "smollm3": family("SmolLM3ForCausalLM", _smollm3, _smollm3_settings),
}
