"""Gemma 1, 2 and the text part of 3 (https://arxiv.org/abs/2403.08295, https://arxiv.org/abs/2408.00118,
https://arxiv.org/abs/2503.19786): as Llama, with norms that keep a scale less 1."""

import functools

from kerasllm.huggingface import rotary
from kerasllm.huggingface.families import llama
from kerasllm.huggingface.names import in_blocks
from kerasllm.huggingface.settings import (
    EVERYTHING,
    WINDOW,
    activation_name,
    attention_bias,
    windows,
)


def _gemma(settings):
    # transformers reads "gelu" as its approximation too.
    own = {"activation": "gelu_tanh"} if settings.take("hidden_act") == "gelu" else {}
    return llama.common(settings, scale_embeddings=True, **own)


def _gemma2(settings):
    fields = _sandwiched(settings, attention_soft_cap=settings.take("attn_logit_softcapping"))
    kinds = settings.layer_types([(WINDOW, EVERYTHING)[i % 2] for i in range(fields["num_layers"])])
    return {**fields, "attention_window": llama.windows_of(kinds, settings.take("sliding_window"))}


def _gemma3(settings):
    given = settings.take("rope_parameters", {})
    local, far = dict(given.get(WINDOW) or {}), {**(given.get(EVERYTHING) or {}), **settings.take("rope_scaling", {})}
    bases = settings.take("rope_local_base_freq", 10000.0), settings.take("rope_theta", 1000000.0)
    length = settings.take("max_position_embeddings")
    fields = _sandwiched(settings, rope={"max_length": length}, qk_norm=True)
    every = settings.take("sliding_window_pattern", 6)
    kinds = settings.layer_types([WINDOW if (i + 1) % every else EVERYTHING for i in range(fields["num_layers"])])
    rotations = {
        kind: rotary.rotation(settings, {**parameters, "truncate": None}, base, length)  # It is not read by kind.
        for kind, parameters, base in zip((WINDOW, EVERYTHING), (local, far), bases, strict=True)
    }
    by_layer = [rotations[kind] for kind in kinds]
    return {
        **fields,
        **{name: [rotation[name] for rotation in by_layer] for name in by_layer[0]},
        "max_length": max(rotary.longest_text(rotation["rope_scaling"], length) for rotation in by_layer),
        "attention_window": llama.windows_of(kinds, settings.take("sliding_window")),
    }


def _sandwiched(settings, **own):
    return llama.common(
        settings,
        scale_embeddings=True,
        norm_placement="sandwich",
        activation=settings.activation("hidden_activation"),
        attention_scale=settings.take("query_pre_attn_scalar") ** -0.5,
        logit_soft_cap=settings.take("final_logit_softcapping"),
        **own,
    )


def _gemma_settings(config):
    return llama.settings_of(config, attention_bias=attention_bias(config), hidden_act="gelu_pytorch_tanh")


def _gemma2_settings(config, **own):
    scale = config.attention_scale or (config.head_dim or config.d_model // config.num_heads) ** -0.5
    seen = windows(config)
    activation = "gelu_pytorch_tanh" if config.activation == "gelu_tanh" else activation_name(config.activation)
    return llama.settings_of(
        config,
        hidden_act=activation,
        hidden_activation=activation,
        attention_bias=attention_bias(config),
        query_pre_attn_scalar=round(scale**-2),
        attn_logit_softcapping=config.attention_soft_cap,
        final_logit_softcapping=config.logit_soft_cap,
        layer_types=seen["layer_types"],
        sliding_window=seen["sliding_window"] or config.max_length,  # transformers needs one that no layer has, too.
        **own,
    )


def _gemma3_settings(config):
    names = ("rope_theta", "rope_scaling", "partial_rotary_factor")
    rotations = [rotary.rotation_parameters(*own) for own in zip(*map(config.by_layer, names), strict=True)]
    by_kind = dict(zip(windows(config)["layer_types"], rotations, strict=True))
    local = by_kind.get(WINDOW, {"rope_type": "default", "rope_theta": 10000.0})
    far = by_kind.get(EVERYTHING, {"rope_type": "default", "rope_theta": 1000000.0})
    return _gemma2_settings(
        config,
        max_position_embeddings=rotary.trained_length(config),
        rope_theta=far["rope_theta"],
        rope_scaling=None if far["rope_type"] == "default" else far,
        rope_local_base_freq=local["rope_theta"],
        rope_parameters={EVERYTHING: far, WINDOW: local},
    )


_weights = functools.partial(llama.weights, scale_offset=1.0)


def _sandwiched_weights(config, values):
    norm = functools.partial(llama.norm, offset=1.0)
    norms = {
        **norm("attention_output_norm", "post_attention_layernorm"),
        **norm("feed_forward_norm", "pre_feedforward_layernorm"),
        **norm("feed_forward_output_norm", "post_feedforward_layernorm"),
    }
    return {**_weights(config, values), **in_blocks(norms, "transformer/block_#", "model.layers.#")}


FAMILIES = {
    "gemma": llama.family("GemmaForCausalLM", _gemma, _gemma_settings, _weights),
    "gemma2": llama.family("Gemma2ForCausalLM", _gemma2, _gemma2_settings, _sandwiched_weights),
    "gemma3_text": llama.family("Gemma3ForCausalLM", _gemma3, _gemma3_settings, _sandwiched_weights),
}
