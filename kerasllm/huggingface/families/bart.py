"""BART (Lewis et al. 2019, https://arxiv.org/abs/1910.13461) and mBART (https://arxiv.org/abs/2001.08210)."""

import functools

from kerasllm.huggingface.families.family import Family
from kerasllm.huggingface.names import Source, dense, in_blocks, layer_norm, linear, plain
from kerasllm.huggingface.settings import activation_name
from kerasllm.models import Seq2SeqLM

_FIRST_PLACE = 2  # Their tables of positions begin with two rows that nothing reads.


def _fields(settings, norm_placement):
    settings.only("is_decoder", False)
    settings.only("normalize_before", norm_placement == "pre")
    settings.only("add_final_layer_norm", norm_placement == "pre")
    settings.only("normalize_embedding", True)
    settings.only("static_position_embeddings", False)
    settings.ignore("encoder_layerdrop", "decoder_layerdrop", "activation_dropout", "init_std", "classifier_dropout")
    settings.ignore("num_hidden_layers", "forced_eos_token_id", "forced_bos_token_id", "classif_dropout", "num_beams")
    settings.ignore("add_bias_logits", "early_stopping", "no_repeat_ngram_size", "length_penalty", "min_length")
    settings.ignore("gradient_checkpointing")
    heads, dff = settings.need("encoder_attention_heads"), settings.need("encoder_ffn_dim")
    settings.only("decoder_attention_heads", heads)
    settings.only("decoder_ffn_dim", dff)
    return {
        "vocab_size": settings.need("vocab_size"),
        "num_layers": settings.need("decoder_layers"),
        "num_encoder_layers": settings.need("encoder_layers"),
        "d_model": settings.need("d_model"),
        "num_heads": heads,
        "dff": dff,
        "max_length": settings.take("max_position_embeddings", 1024),
        "positions": "learned",
        "norm_placement": norm_placement,
        "embedding_norm": True,
        "activation": settings.activation("activation_function", "gelu"),
        "scale_embeddings": settings.take("scale_embedding", False),
        "tie_embeddings": settings.take("tie_word_embeddings", True),
        "dropout": settings.take("dropout", 0.1),
        "attention_dropout": settings.take("attention_dropout", 0.0),
    }


def _settings(config):
    return {
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size,
        "decoder_layers": config.num_layers,
        "encoder_layers": config.num_encoder_layers,
        "d_model": config.d_model,
        "encoder_attention_heads": config.num_heads,
        "decoder_attention_heads": config.num_heads,
        "encoder_ffn_dim": config.dff,
        "decoder_ffn_dim": config.dff,
        "max_position_embeddings": config.max_length,
        "activation_function": activation_name(config.activation),
        "scale_embedding": config.scale_embeddings,
        "tie_word_embeddings": config.tie_embeddings,
        "dropout": config.dropout,
        "attention_dropout": config.dropout if config.attention_dropout is None else config.attention_dropout,
    }


_ENCODER_BLOCK = {
    **dense("attention/query_key_value", "self_attn.{}_proj", "q", "k", "v"),
    **dense("attention/output", "self_attn.out_proj"),
    **layer_norm("attention_norm", "self_attn_layer_norm"),
    **dense("feed_forward/inner", "fc1"),
    **dense("feed_forward/outer", "fc2"),
    **layer_norm("feed_forward_norm", "final_layer_norm"),
}
_DECODER_BLOCK = {
    **_ENCODER_BLOCK,
    **dense("cross_attention/query", "encoder_attn.q_proj"),
    **dense("cross_attention/key_value", "encoder_attn.{}_proj", "k", "v"),
    **dense("cross_attention/output", "encoder_attn.out_proj"),
    **layer_norm("cross_attention_norm", "encoder_attn_layer_norm"),
}


def _stack(ours, block):
    return {
        f"{ours}/position_embedding/embeddings": Source(
            (f"model.{ours}.embed_positions.weight",), first_row=_FIRST_PLACE
        ),
        **layer_norm(f"{ours}/input_norm", f"model.{ours}.layernorm_embedding"),
        **in_blocks(block, f"{ours}/block_#", f"model.{ours}.layers.#"),
        **layer_norm(f"{ours}/final_norm", f"model.{ours}.layer_norm"),
    }


def _weights(config, _):
    return {
        "token_embedding/embeddings": plain("model.shared.weight"),
        "token_embedding/reverse_embeddings": linear("lm_head"),
        **_stack("encoder", _ENCODER_BLOCK),
        **_stack("decoder", _DECODER_BLOCK),
    }


def _zeros(config):
    return {"final_logits_bias": (1, config.vocab_size)}


def _family(architecture, norm_placement):
    return Family(
        architecture,
        Seq2SeqLM,
        functools.partial(_fields, norm_placement=norm_placement),
        _settings,
        _weights,
        renames=((r"^(?=shared\.|encoder\.|decoder\.)", "model."),),
        unused=r"^model\.(encoder|decoder)\.(embed_tokens\.weight|version)$",
        zeros=_zeros,
    )


FAMILIES = {
    "bart": _family("BartForConditionalGeneration", "post"),
    "mbart": _family("MBartForConditionalGeneration", "pre"),
}
