"""Gemma 1, 2 and the text part of 3 (https://arxiv.org/abs/2403.08295, https://arxiv.org/abs/2408.00118,
https://arxiv.org/abs/2503.19786): as Llama, with norms that keep a scale less 1."""

import functools

from kerasllm.huggingface.families import llama
from kerasllm.huggingface.families.family import ACTIVATIONS, Row, always, choice, setting
from kerasllm.huggingface.families.rotary import rotary
from kerasllm.huggingface.families.windows import FULL, SLIDING, WINDOW_TYPES, rotary_by_type, windows
from kerasllm.huggingface.names import in_blocks

_ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", **ACTIVATIONS}


def _every_other(settings, fields):
    return [(SLIDING, FULL)[i % 2] for i in range(fields["num_layers"])]


def _all_but_every_sixth(settings, fields):
    every = settings.take("sliding_window_pattern", 6)
    return [SLIDING if (i + 1) % every else FULL for i in range(fields["num_layers"])]


_GEMMA = (
    rotary(),
    # transformers reads "gelu" as its approximation too.
    choice("activation", "hidden_act", {**_ACTIVATIONS, "gelu": "gelu_tanh"}),
    llama.ATTENTION_BIAS,
    always(scale_embeddings=True),
)
_SANDWICHED = (
    choice("activation", "hidden_act", _ACTIVATIONS),  # written only, as Gemma 1 has it
    choice("activation", "hidden_activation", _ACTIVATIONS),
    llama.ATTENTION_BIAS,
    setting("attention_scale", "query_pre_attn_scalar", read=lambda d: d**-0.5, write=lambda scale: round(scale**-2)),
    setting("logit_soft_cap", "final_logit_softcapping"),
    always(scale_embeddings=True, norm_placement="sandwich"),
)
_GEMMA2 = (
    *_SANDWICHED,
    rotary(),
    windows(_every_other, WINDOW_TYPES.write),
    setting("attention_soft_cap", "attn_logit_softcapping"),
)
_GEMMA3 = (
    *_SANDWICHED,
    rotary_by_type(
        _all_but_every_sixth,
        {SLIDING: ("rope_local_base_freq", 10000.0), FULL: ("rope_theta", 1000000.0)},
        scaled=(FULL,),
    ),
    windows(_all_but_every_sixth, WINDOW_TYPES.write),
    Row(write=lambda config: {"attn_logit_softcapping": config.attention_soft_cap}),
    always(qk_norm=True),
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
    "gemma": llama.family("GemmaForCausalLM", *_GEMMA, weights=_weights),
    "gemma2": llama.family("Gemma2ForCausalLM", *_GEMMA2, weights=_sandwiched_weights),
    "gemma3_text": llama.family("Gemma3ForCausalLM", *_GEMMA3, weights=_sandwiched_weights),
}
