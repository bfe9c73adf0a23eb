"""OPT: Zhang et al. 2022, https://arxiv.org/abs/2205.01068."""

from kerasllm.huggingface.families.bart import FIRST_PLACE, LAYER
from kerasllm.huggingface.families.family import Family
from kerasllm.huggingface.names import Source, constant, in_blocks, layer_norm, linear, plain
from kerasllm.huggingface.settings import activation_name
from kerasllm.models import CausalLM


def _fields(settings):
    d_model = settings.take("hidden_size")
    settings.only("word_embed_proj_dim", None, d_model)
    settings.ignore("enable_bias", "layer_norm_elementwise_affine")  # See `_weights`.
    return {
        "vocab_size": settings.take("vocab_size"),
        "num_layers": settings.take("num_hidden_layers"),
        "d_model": d_model,
        "num_heads": settings.take("num_attention_heads"),
        "dff": settings.take("ffn_dim"),
        "max_length": settings.take("max_position_embeddings"),
        "positions": "learned",
        "norm_placement": "pre" if settings.take("do_layer_norm_before") else "post",
        "activation": settings.activation("activation_function"),
        "tie_embeddings": settings.take("tie_word_embeddings"),
        "dropout": settings.take("dropout"),
        "attention_dropout": settings.take("attention_dropout"),
    }


def _settings(config):
    return {
        "vocab_size": config.vocab_size,
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.d_model,
        "word_embed_proj_dim": config.d_model,
        "num_attention_heads": config.num_heads,
        "ffn_dim": config.dff,
        "max_position_embeddings": config.max_length,
        "do_layer_norm_before": config.norm_placement == "pre",
        "activation_function": activation_name(config.activation),
        "tie_word_embeddings": config.tie_embeddings,
        "dropout": config.dropout,
        "attention_dropout": config.dropout if config.attention_dropout is None else config.attention_dropout,
    }


def _weights(config, values):
    """Where a checkpoint has no biases, or norms without weights, ours keep what they stand for."""
    table = {
        "token_embedding/embeddings": plain("model.decoder.embed_tokens.weight"),
        "token_embedding/reverse_embeddings": linear("lm_head"),
        "transformer/position_embedding/embeddings": Source(
            ("model.decoder.embed_positions.weight",), first_row=FIRST_PLACE
        ),
        **in_blocks(LAYER, "transformer/block_#", "model.decoder.layers.#"),
        **layer_norm("transformer/final_norm", "model.decoder.final_layer_norm"),
    }
    if not values.get("enable_bias", True):
        table |= {name: constant(0.0) for name in table if name.endswith("/bias")}
    if not values.get("layer_norm_elementwise_affine", True):
        table |= {name: constant(float(name.endswith("gamma"))) for name in table if "_norm/" in name}
    return table


FAMILIES = {
    "opt": Family("OPTForCausalLM", CausalLM, _fields, _settings, _weights, renames=((r"^(?=decoder\.)", "model."),))
}
