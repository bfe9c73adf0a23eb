"""Llama (Touvron et al. 2023, https://arxiv.org/abs/2302.13971) and what is built like it: Mistral, Ministral, Qwen 2
and 3, ERNIE 4.5, Phi-3, OLMo 2 and SmolLM3."""

import dataclasses

from kerasllm.huggingface.families.family import ACTIVATIONS, SIZES, Family, Row, always, choice, setting
from kerasllm.huggingface.families.rotary import rotary
from kerasllm.huggingface.families.windows import FULL, ONE_WINDOW, SLIDING, WINDOW_SWITCH, WINDOW_TYPES, windows
from kerasllm.huggingface.names import Source, dense, in_blocks, linear, plain
from kerasllm.models import CausalLM

COMMON = (
    *SIZES,
    setting("num_kv_heads", "num_key_value_heads"),
    setting("head_dim"),
    setting("norm_epsilon", "rms_norm_eps"),
    choice("activation", "hidden_act", ACTIVATIONS),
    setting("tie_embeddings", "tie_word_embeddings"),
    setting("attention_dropout", default=0.0),
    always(norm="rms", gated=True, use_bias=False, attention_bias=False),
)
ATTENTION_BIAS = setting("attention_bias")
BIASES = (ATTENTION_BIAS, setting("use_bias", "mlp_bias"))


def _types_by_rotation(settings, fields):
    """SmolLM3's layers without rotary positions have the window, where there is one."""
    windowed = settings.take("use_sliding_window") and settings.take("sliding_window")
    return [SLIDING if windowed and not share else FULL for share in fields["partial_rotary_factor"]]


def _read_no_rope(settings, fields):
    count, every = fields["num_layers"], settings.take("no_rope_layer_interval")
    rotated = settings.take("no_rope_layers", [(i + 1) % every != 0 for i in range(count)])[:count]
    return {"partial_rotary_factor": [float(bool(one)) for one in rotated]}


def _write_no_rope(config):
    return {"no_rope_layers": [int(share) for share in config.by_layer("partial_rotary_factor")]}


_SMOLLM3_ROTARY = rotary(2000000.0)
_SMOLLM3 = (
    _SMOLLM3_ROTARY._replace(
        write=lambda config: _SMOLLM3_ROTARY.write(dataclasses.replace(config, partial_rotary_factor=1.0))
    ),
    Row(_read_no_rope, _write_no_rope),
    windows(_types_by_rotation, WINDOW_SWITCH.write),
)


def _write_trained_length(config):
    scaling = config.by_layer("rope_scaling")[0] or {}
    return {"original_max_position_embeddings": scaling.get("original_max_position_embeddings", config.max_length)}


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
    return {**table, **{name: table[name]._replace(interleaved=(h, h, 0)) for name in names}}


def _olmo2_weights(config, values):
    norms = {
        **norm("attention_output_norm", "post_attention_layernorm"),
        **norm("feed_forward_output_norm", "post_feedforward_layernorm"),
    }
    return {**weights(config, values), **in_blocks(norms, "transformer/block_#", "model.layers.#")}


def norm(ours, theirs, offset=0.0):
    return {f"{ours}/scale": Source((f"{theirs}.weight",), offset=offset)}


def family(architecture, *rows, weights=weights):
    return Family(
        architecture,
        CausalLM,
        (*COMMON, *rows),
        weights,
        renames=((r"^(?=embed_tokens\.|layers\.|norm\.)", "model."),),
        unused=r"rotary_emb\.inv_freq$",
    )


FAMILIES = {
    "llama": family("LlamaForCausalLM", rotary(), *BIASES),
    "mistral": family("MistralForCausalLM", rotary(), ONE_WINDOW),
    "ministral": family("MinistralForCausalLM", rotary(), WINDOW_TYPES),
    "qwen2": family("Qwen2ForCausalLM", rotary(), always(qkv_bias=True), WINDOW_SWITCH),
    "qwen3": family("Qwen3ForCausalLM", rotary(), always(qk_norm=True), ATTENTION_BIAS, WINDOW_SWITCH),
    "ernie4_5": family(
        "Ernie4_5ForCausalLM",
        rotary(500000.0),
        setting("use_bias", default=False),
        always(attention_bias=None),
        weights=_ernie4_5_weights,
    ),
    "phi3": family(
        "Phi3ForCausalLM",
        rotary(share_name="partial_rotary_factor", scalings=("longrope",)),
        Row(write=_write_trained_length),
        ONE_WINDOW,
        weights=_phi3_weights,
    ),
    "olmo2": family(
        "Olmo2ForCausalLM",
        rotary(),
        ATTENTION_BIAS,
        always(norm_placement="output", qk_norm="full"),
        weights=_olmo2_weights,
    ),
    "smollm3": family("SmolLM3ForCausalLM", *_SMOLLM3, *BIASES),
}
