"""GPT-2: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"."""

from kerasllm.huggingface.families.family import Family
from kerasllm.huggingface.names import in_blocks, layer_norm, linear, plain
from kerasllm.huggingface.settings import activation_name
from kerasllm.models import CausalLM


def _fields(settings):
    d_model = settings.take("n_embd")
    return {
        "vocab_size": settings.take("vocab_size"),
        "num_layers": settings.take("n_layer"),
        "d_model": d_model,
        "num_heads": settings.take("n_head"),
        "dff": settings.take("n_inner", 4 * d_model),
        "max_length": settings.take("n_positions"),
        "positions": "learned",
        "norm_epsilon": settings.take("layer_norm_epsilon"),
        "activation": settings.activation("activation_function"),
        "tie_embeddings": settings.take("tie_word_embeddings"),
        "dropout": settings.take("resid_pdrop"),
        "attention_dropout": settings.take("attn_pdrop"),
    }


def _settings(config):
    attention_dropout = config.dropout if config.attention_dropout is None else config.attention_dropout
    return {
        "vocab_size": config.vocab_size,
        "n_layer": config.num_layers,
        "n_embd": config.d_model,
        "n_head": config.num_heads,
        "n_inner": config.dff,
        "n_positions": config.max_length,
        "layer_norm_epsilon": config.norm_epsilon,
        "activation_function": activation_name(config.activation),
        "tie_word_embeddings": config.tie_embeddings,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": attention_dropout,
    }


def _conv(ours, theirs):
    """GPT-2's `Conv1D` keeps its kernel as a `Dense` does."""
    return {f"{ours}/kernel": plain(f"{theirs}.weight"), f"{ours}/bias": plain(f"{theirs}.bias")}


_BLOCK = {
    **layer_norm("attention_norm", "ln_1"),
    **_conv("attention/query_key_value", "attn.c_attn"),
    **_conv("attention/output", "attn.c_proj"),
    **layer_norm("feed_forward_norm", "ln_2"),
    **_conv("feed_forward/inner", "mlp.c_fc"),
    **_conv("feed_forward/outer", "mlp.c_proj"),
}


def _weights(config, _):
    return {
        "token_embedding/embeddings": plain("transformer.wte.weight"),
        "token_embedding/reverse_embeddings": linear("lm_head"),
        "transformer/position_embedding/embeddings": plain("transformer.wpe.weight"),
        **in_blocks(_BLOCK, "transformer/block_#", "transformer.h.#"),
        **layer_norm("transformer/final_norm", "transformer.ln_f"),
    }


FAMILIES = {
    "gpt2": Family(
        "GPT2LMHeadModel",
        CausalLM,
        _fields,
        _settings,
        _weights,
        renames=((r"^(?=wte\.|wpe\.|h\.|ln_f\.)", "transformer."),),
        unused=r"\.attn\.(bias|masked_bias)$",
    )
}
