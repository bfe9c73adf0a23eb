"""Mixtures of experts in the Llama way: Mixtral (Jiang et al. 2024, https://arxiv.org/abs/2401.04088), Qwen 3's
(https://arxiv.org/abs/2505.09388) and OLMoE (Muennighoff et al. 2024, https://arxiv.org/abs/2409.02060)."""

import functools

from kerasllm.huggingface.families.family import Row, always, ignored, required, setting
from kerasllm.huggingface.families.llama import ATTENTION_BIAS, family, weights
from kerasllm.huggingface.families.rotary import rotary
from kerasllm.huggingface.families.windows import ONE_WINDOW, WINDOW_SWITCH
from kerasllm.huggingface.names import in_blocks, linear, stacked


def _read_loss(settings, fields):
    """The loss that keeps routers even is part of training where their logits are put out. There it is of all layers at
    once, here the sum of that of each."""
    weight, is_used = settings.take("router_aux_loss_coef"), settings.take("output_router_logits")
    return {"router_loss": weight / fields["num_layers"] if is_used else 0.0}


def _write_loss(config):
    is_used = config.router_loss > 0
    loss = {"router_aux_loss_coef": config.router_loss * config.num_layers} if is_used else {}
    return {**loss, "output_router_logits": is_used}


_COMMON = (setting("experts_per_token", "num_experts_per_tok"), Row(_read_loss, _write_loss))
_ALL_LAYERS = (
    required("decoder_sparse_step", 1),
    Row(lambda settings, fields: settings.only("mlp_only_layers", [], None), lambda config: {"mlp_only_layers": []}),
)
# The first is what transformers 5 calls what files call by the second.
_COUNT = Row(
    lambda settings, fields: {"num_experts": settings.take("num_local_experts", 128)},
    lambda config: {"num_experts": config.num_experts},
)


def _weights(config, values, room, router, parts):
    """Llama's, with experts in the place of feed-forward layers.

    Args:
        room: str, what holds the router and the experts.
        router: str, its name there.
        parts: tuple of str, what a gate, the other half of the widening layer, and the narrowing layer are called.
    """
    E, (gate, up, down) = config.num_experts, parts
    mixture = {
        "feed_forward/router/kernel": linear(f"{room}.{router}"),
        "feed_forward/inner_kernels": stacked(E, f"{room}.experts.{{}}", gate, up),
        "feed_forward/outer_kernels": stacked(E, f"{room}.experts.{{}}", down),
    }
    table = {name: source for name, source in weights(config, values).items() if "/feed_forward/" not in name}
    return {**table, **in_blocks(mixture, "transformer/block_#", "model.layers.#")}


_IN_MLP = functools.partial(_weights, room="mlp", router="gate", parts=("gate_proj", "up_proj", "down_proj"))
_IN_BLOCK = functools.partial(_weights, room="block_sparse_moe", router="gate", parts=("w1", "w3", "w2"))

FAMILIES = {
    "mixtral": family(
        "MixtralForCausalLM",
        rotary(1000000.0),
        ONE_WINDOW,
        *_COMMON,
        setting("num_experts", "num_local_experts"),
        ignored("router_jitter_noise"),  # in training
        always(normalize_experts=True),
        weights=_IN_BLOCK,
    ),
    "qwen3_moe": family(
        "Qwen3MoeForCausalLM",
        rotary(),
        always(qk_norm=True),
        ATTENTION_BIAS,
        WINDOW_SWITCH,
        *_COMMON,
        *_ALL_LAYERS,
        setting("dff", "moe_intermediate_size"),
        _COUNT,
        setting("normalize_experts", "norm_topk_prob"),
        weights=_IN_MLP,
    ),
    "olmoe": family(
        "OlmoeForCausalLM",
        rotary(),
        always(qk_norm="full"),
        ATTENTION_BIAS,
        required("clip_qkv", None),
        *_COMMON,
        setting("num_experts"),
        setting("normalize_experts", "norm_topk_prob"),
        weights=_IN_MLP,
    ),
}
