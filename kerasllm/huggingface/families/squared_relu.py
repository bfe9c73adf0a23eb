"""As Llama, but with squared ReLU and no gate: Arcee (https://huggingface.co/arcee-ai/AFM-4.5B), which is what
`kerasllm train` makes by default, and NanoChat (https://github.com/karpathy/nanochat), as which the presets "speedrun"
go out."""

from kerasllm.huggingface import rotary
from kerasllm.huggingface.families import llama
from kerasllm.huggingface.names import dense, in_blocks
from kerasllm.huggingface.settings import attention_bias


def _arcee(settings):
    return llama.common(settings, gated=False)


def _nanochat(settings):
    rope = rotary.rope(settings)
    if rope["rope_scaling"] and rope["rope_scaling"]["rope_type"] in ("yarn", "longrope"):
        # Its heads are normed once they are turned, which undoes the factor by which these multiply them.
        settings.refuse("rope_type", rope["rope_scaling"]["rope_type"], "those without an attention factor")
    return llama.common(
        settings,
        rope,
        gated=False,
        norm_scale=False,
        embedding_norm=True,
        qk_norm=True,
        logit_soft_cap=settings.take("final_logit_softcapping"),
    )


def _arcee_settings(config):
    return llama.settings_of(config, attention_bias=attention_bias(config), mlp_bias=config.use_bias)


def _nanochat_settings(config):
    return llama.settings_of(
        config, attention_bias=attention_bias(config), final_logit_softcapping=config.logit_soft_cap
    )


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
    "arcee": llama.family("ArceeForCausalLM", _arcee, _arcee_settings, _arcee_weights),
    "nanochat": llama.family("NanoChatForCausalLM", _nanochat, _nanochat_settings, _nanochat_weights),
}
