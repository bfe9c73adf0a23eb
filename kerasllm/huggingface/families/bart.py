"""BART (Lewis et al. 2019, https://arxiv.org/abs/1910.13461) and what is built like it: mBART
(https://arxiv.org/abs/2001.08210), Marian (https://arxiv.org/abs/1804.00344), with which OPUS-MT is made, and M2M-100
(https://arxiv.org/abs/2010.11125), which NLLB is built as."""

import functools

from kerasllm.huggingface.families.family import Family
from kerasllm.huggingface.names import Source, dense, in_blocks, layer_norm, linear, plain
from kerasllm.huggingface.settings import activation_name
from kerasllm.models import Seq2SeqLM

_FIRST_PLACE = 2  # Their tables of positions begin with two rows that nothing reads.
_PADDING = 1  # M2M-100 counts places from the one after its padding token's id.

_BART = {"positions": "learned", "norm_placement": "post", "embedding_norm": True}
_MBART = {**_BART, "norm_placement": "pre"}
_MARIAN = {"positions": "sinusoidal", "norm_placement": "post", "embedding_norm": False}
_M2M_100 = {"positions": "fairseq_sinusoidal", "norm_placement": "pre", "embedding_norm": False, "output_bias": False}


def _fields(settings, always, activation="gelu", scaled=False, shared=True):
    # Where the output layer is another, files have three tables more, one of which nothing reads.
    tied = settings.only("tie_word_embeddings", True) if shared else settings.take("tie_word_embeddings", True)
    settings.only("is_decoder", False)
    settings.only("normalize_before", always["norm_placement"] == "pre")
    settings.only("add_final_layer_norm", always["norm_placement"] == "pre")
    settings.only("normalize_embedding", always["embedding_norm"])
    settings.only("static_position_embeddings", always["positions"] != "learned")
    settings.ignore("encoder_layerdrop", "decoder_layerdrop", "activation_dropout", "init_std", "classifier_dropout")
    settings.ignore("num_hidden_layers", "classif_dropout", "gradient_checkpointing", "extra_pos_embeddings")
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
        "activation": settings.activation("activation_function", activation),
        "scale_embeddings": settings.take("scale_embedding", scaled),
        "tie_embeddings": tied,
        # Files say False where there is one, too: loading looks at its values.
        "output_bias": settings.take("add_bias_logits", False),
        "dropout": settings.take("dropout", 0.1),
        "attention_dropout": settings.take("attention_dropout", 0.0),
        **always,
    }


def _marian_fields(settings):
    shared = settings.take("share_encoder_decoder_embeddings", True)
    fields = _fields(settings, _MARIAN, shared=shared)
    of_targets = settings.take("decoder_vocab_size", fields["vocab_size"])
    return fields if shared else {**fields, "vocab_size": of_targets, "source_vocab_size": fields["vocab_size"]}


def _m2m_100_fields(settings):
    if settings.values.get("pad_token_id", _PADDING) != _PADDING:
        settings.refuse("pad_token_id", settings.values["pad_token_id"], _PADDING)
    return _fields(settings, _M2M_100, activation="relu", scaled=True)


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
        "add_bias_logits": config.output_bias,
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
    table = "shared" if config.source_vocab_size is None else "decoder.embed_tokens"
    return {
        "token_embedding/embeddings": plain(f"model.{table}.weight"),
        "token_embedding/reverse_embeddings": linear("lm_head"),
        "source_embedding/embeddings": plain("model.encoder.embed_tokens.weight"),
        "output_bias": Source(("final_logits_bias",), as_row=True),
        **_stack("encoder", _ENCODER_BLOCK),
        **_stack("decoder", _DECODER_BLOCK),
    }


def _zeros(config):
    return {} if config.output_bias else {"final_logits_bias": (1, config.vocab_size)}


def _family(architecture, fields, settings=_settings, zeros=_zeros):
    # Marian's sinusoids, where a file has them, are computed anew, as transformers does.
    return Family(
        architecture,
        Seq2SeqLM,
        fields,
        settings,
        _weights,
        renames=((r"^(?=shared\.|encoder\.|decoder\.)", "model."),),
        unused=r"^model\.(encoder|decoder)\.(embed_tokens\.weight|embed_positions\.weights?|version)$",
        zeros=zeros,
    )


FAMILIES = {
    "bart": _family("BartForConditionalGeneration", functools.partial(_fields, always=_BART)),
    "mbart": _family("MBartForConditionalGeneration", functools.partial(_fields, always=_MBART)),
    "marian": _family("MarianMTModel", _marian_fields, _marian_settings),
    "m2m_100": _family("M2M100ForConditionalGeneration", _m2m_100_fields, _m2m_100_settings, zeros=lambda config: {}),
}
