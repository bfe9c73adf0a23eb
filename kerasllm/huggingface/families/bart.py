"""BART (Lewis et al. 2019, https://arxiv.org/abs/1910.13461) and what is built like it: mBART
(https://arxiv.org/abs/2001.08210), Marian (https://arxiv.org/abs/1804.00344), with which OPUS-MT is made, and M2M-100
(https://arxiv.org/abs/2010.11125), which NLLB is built as."""

import functools

from kerasllm.huggingface.families.family import Family
from kerasllm.huggingface.names import Source, dense, in_blocks, layer_norm, linear, plain
from kerasllm.huggingface.settings import activation_name
from kerasllm.models import Seq2SeqLM

FIRST_PLACE = 2  # Their tables of positions begin with two rows that nothing reads.
_PADDING = 1  # M2M-100 counts places from the one after its padding token's id.

_BART = {"positions": "learned", "norm_placement": "post", "embedding_norm": True}
_MBART = {**_BART, "norm_placement": "pre"}
_MARIAN = {"positions": "sinusoidal", "norm_placement": "post", "embedding_norm": False}
_M2M_100 = {"positions": "fairseq_sinusoidal", "norm_placement": "pre", "embedding_norm": False, "output_bias": False}


def _fields(settings, always):
    heads, dff = settings.take("encoder_attention_heads"), settings.take("encoder_ffn_dim")
    settings.only("decoder_attention_heads", heads)
    settings.only("decoder_ffn_dim", dff)
    vocab_size, tied = settings.take("vocab_size"), settings.take("tie_word_embeddings")
    return {
        "vocab_size": vocab_size,
        "source_vocab_size": None if tied else vocab_size,  # Nothing is shared then: each side has a table.
        "num_layers": settings.take("decoder_layers"),
        "num_encoder_layers": settings.take("encoder_layers"),
        "d_model": settings.take("d_model"),
        "num_heads": heads,
        "dff": dff,
        "max_length": settings.take("max_position_embeddings"),
        "activation": settings.activation("activation_function"),
        "scale_embeddings": settings.take("scale_embedding"),
        "tie_embeddings": tied,
        "dropout": settings.take("dropout"),
        "attention_dropout": settings.take("attention_dropout"),
        **always,
    }


def _marian_fields(settings):
    fields = _fields(settings, _MARIAN)
    of_targets = settings.take("decoder_vocab_size", fields["vocab_size"])
    if settings.take("share_encoder_decoder_embeddings"):
        return fields
    return {**fields, "vocab_size": of_targets, "source_vocab_size": fields["vocab_size"]}


def _m2m_100_fields(settings):
    settings.only("pad_token_id", _PADDING)
    return _fields(settings, _M2M_100)


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


def _marian_settings(config):
    return {
        **_settings(config),
        "vocab_size": config.source_vocab_size or config.vocab_size,
        "decoder_vocab_size": config.vocab_size,
        "share_encoder_decoder_embeddings": config.source_vocab_size is None,
    }


def _m2m_100_settings(config):
    return {**_settings(config), "pad_token_id": _PADDING}


LAYER = {
    **dense("attention/query_key_value", "self_attn.{}_proj", "q", "k", "v"),
    **dense("attention/output", "self_attn.out_proj"),
    **layer_norm("attention_norm", "self_attn_layer_norm"),
    **dense("feed_forward/inner", "fc1"),
    **dense("feed_forward/outer", "fc2"),
    **layer_norm("feed_forward_norm", "final_layer_norm"),
}
_DECODER_BLOCK = {
    **LAYER,
    **dense("cross_attention/query", "encoder_attn.q_proj"),
    **dense("cross_attention/key_value", "encoder_attn.{}_proj", "k", "v"),
    **dense("cross_attention/output", "encoder_attn.out_proj"),
    **layer_norm("cross_attention_norm", "encoder_attn_layer_norm"),
}


def _stack(ours, block):
    return {
        f"{ours}/position_embedding/embeddings": Source(
            (f"model.{ours}.embed_positions.weight",), first_row=FIRST_PLACE
        ),
        **layer_norm(f"{ours}/input_norm", f"model.{ours}.layernorm_embedding"),
        **in_blocks(block, f"{ours}/block_#", f"model.{ours}.layers.#"),
        **layer_norm(f"{ours}/final_norm", f"model.{ours}.layer_norm"),
    }


_SHARED, _OUTPUT_BIAS = "model.shared.weight", "final_logits_bias"
_TABLES = {side: f"model.{side}.embed_tokens.weight" for side in ("encoder", "decoder")}


def _weights(config, _):
    return {
        "token_embedding/embeddings": plain(_SHARED if config.source_vocab_size is None else _TABLES["decoder"]),
        "token_embedding/reverse_embeddings": linear("lm_head"),
        "source_embedding/embeddings": plain(_TABLES["encoder"]),
        "output_bias": Source((_OUTPUT_BIAS,), as_row=True),
        **_stack("encoder", LAYER),
        **_stack("decoder", _DECODER_BLOCK),
    }


def _zeros(config):
    """With the table that both sides shared if they had not one each: transformers makes it, and never reads it."""
    unread = {} if config.source_vocab_size is None else {_SHARED: (config.vocab_size, config.d_model)}
    return {**_marian_zeros(config), **unread}


def _marian_zeros(config):
    return {} if config.output_bias else {_OUTPUT_BIAS: (1, config.vocab_size)}


def _m2m_100_zeros(config):
    return {name: shape for name, shape in _zeros(config).items() if name != _OUTPUT_BIAS}


def _family(architecture, fields, settings=_settings, zeros=_zeros, output_bias=(_OUTPUT_BIAS,)):
    return Family(
        architecture,
        Seq2SeqLM,
        fields,
        settings,
        _weights,
        renames=((r"^(?=shared\.|encoder\.|decoder\.)", "model."),),
        # Marian's sinusoids, where a file has them, are computed anew, as transformers does.
        unused=r"^model\.(encoder|decoder)\.(embed_positions\.weights?|version)$",
        zeros=zeros,
        sides=tuple(_TABLES.values()),
        shared=_SHARED,
        output_bias=output_bias,
        by_file=("output_bias",) if output_bias else (),
    )


FAMILIES = {
    "bart": _family("BartForConditionalGeneration", functools.partial(_fields, always=_BART)),
    "mbart": _family("MBartForConditionalGeneration", functools.partial(_fields, always=_MBART)),
    "marian": _family("MarianMTModel", _marian_fields, _marian_settings, zeros=_marian_zeros),
    "m2m_100": _family(
        "M2M100ForConditionalGeneration", _m2m_100_fields, _m2m_100_settings, _m2m_100_zeros, output_bias=()
    ),
}
