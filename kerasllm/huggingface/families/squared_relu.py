"""As Llama, but with squared ReLU and no gate: Arcee (https://huggingface.co/arcee-ai/AFM-4.5B), which is what
`kerasllm train` makes by default, and NanoChat (https://github.com/karpathy/nanochat), as which the presets "speedrun"
go out."""

from kerasllm.huggingface.families import llama
from kerasllm.huggingface.families.family import always, setting
from kerasllm.huggingface.families.rotary import rotary
from kerasllm.huggingface.names import dense, in_blocks
from kerasllm.layers.rotary import ROPE_SCALINGS

# NanoChat's heads are normed once they are turned, which undoes the factor by which the others multiply them.
_WITHOUT_FACTOR = tuple(name for name in ROPE_SCALINGS if name not in ("yarn", "longrope"))


def _weights(config, values, inner, outer):
    feed_forward = {**dense("feed_forward/inner", f"mlp.{inner}"), **dense("feed_forward/outer", f"mlp.{outer}")}
    return {**llama.weights(config, values), **in_blocks(feed_forward, "transformer/block_#", "model.layers.#")}


def _arcee_weights(config, values):
    return _weights(config, values, "up_proj", "down_proj")


def _nanochat_weights(config, values):
    """NanoChat turns heads the other way: the same, where half of their channels have the other sign."""
    h = config.head_dim or config.d_model // config.num_heads
    table = _weights(config, values, "fc1", "fc2")
    return {
        name: source._replace(mirrored=(h, h, 0)) if "query_key_value" in name else source
        for name, source in table.items()
    }


FAMILIES = {
    "arcee": llama.family("ArceeForCausalLM", rotary(), *llama.BIASES, always(gated=False), weights=_arcee_weights),
    "nanochat": llama.family(
        "NanoChatForCausalLM",
        rotary(scalings=_WITHOUT_FACTOR),
        llama.ATTENTION_BIAS,
        setting("logit_soft_cap", "final_logit_softcapping"),
        always(gated=False, norm_scale=False, embedding_norm=True, qk_norm=True),
        weights=_nanochat_weights,
    ),
}
