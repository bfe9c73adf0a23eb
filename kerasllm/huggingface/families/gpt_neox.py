"""GPT-NeoX (Black et al. 2022, https://arxiv.org/abs/2204.06745) and Pythia (https://arxiv.org/abs/2304.01373)."""

from kerasllm.huggingface import rotary
from kerasllm.huggingface.families.family import Family
from kerasllm.huggingface.names import dense, in_blocks, layer_norm, linear, plain
from kerasllm.huggingface.settings import activation_name, attention_bias, size_settings
from kerasllm.models import CausalLM


def _fields(settings):
    parallel = settings.take("use_parallel_residual")
    return {
        **settings.sizes(),
        **rotary.rope(settings, settings.take("rotary_emb_base", 10000.0), share=settings.take("rotary_pct")),
        "parallel": parallel,
        "shared_norm": not parallel,
        "norm_epsilon": settings.take("layer_norm_eps"),
        "activation": settings.activation("hidden_act"),
        "attention_bias": settings.take("attention_bias"),
        "tie_embeddings": settings.take("tie_word_embeddings"),
        "dropout": settings.take("hidden_dropout"),
        "attention_dropout": settings.take("attention_dropout"),
    }


def _settings(config):
    rope = rotary.rope_parameters(config)
    rope["rope_parameters"]["partial_rotary_factor"] = config.partial_rotary_factor  # A quarter, where it is absent.
    return {
        **size_settings(config),
        **rope,
        "rotary_emb_base": config.rope_theta,
        "rotary_pct": config.partial_rotary_factor,
        "use_parallel_residual": config.parallel,
        "layer_norm_eps": config.norm_epsilon,
        "hidden_act": activation_name(config.activation),
        "attention_bias": attention_bias(config),
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_dropout": config.dropout,
        "attention_dropout": config.dropout if config.attention_dropout is None else config.attention_dropout,
    }


_BLOCK = {
    **layer_norm("attention_norm", "input_layernorm"),
    **dense("attention/output", "attention.dense"),
    **layer_norm("feed_forward_norm", "post_attention_layernorm"),
    **dense("feed_forward/inner", "mlp.dense_h_to_4h"),
    **dense("feed_forward/outer", "mlp.dense_4h_to_h"),
}


def _weights(config, _):
    together = dense("attention/query_key_value", "attention.query_key_value")
    by_head = {name: source._replace(heads=config.num_heads) for name, source in together.items()}
    return {
        "token_embedding/embeddings": plain("gpt_neox.embed_in.weight"),
        "token_embedding/reverse_embeddings": linear("embed_out"),
        **in_blocks({**_BLOCK, **by_head}, "transformer/block_#", "gpt_neox.layers.#"),
        **layer_norm("transformer/final_norm", "gpt_neox.final_layer_norm"),
    }


FAMILIES = {
    "gpt_neox": Family(
        "GPTNeoXForCausalLM",
        CausalLM,
        _fields,
        _settings,
        _weights,
        renames=((r"^(?=embed_in\.|layers\.|final_layer_norm\.)", "gpt_neox."), (r"^lm_head\.", "embed_out.")),
        unused=r"\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)$",
    )
}
