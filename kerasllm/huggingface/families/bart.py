"""BART (Lewis et al. 2019, https://arxiv.org/abs/1910.13461) and what is built like it: mBART
(https://arxiv.org/abs/2001.08210), Marian (https://arxiv.org/abs/1804.00344), with which OPUS-MT is made, and M2M-100
(https://arxiv.org/abs/2010.11125), which NLLB is built as."""

from kerasllm.huggingface.families.family import ACTIVATIONS, Family, Row, always, choice, required, same, setting
from kerasllm.huggingface.names import Source, dense, in_blocks, layer_norm, linear, plain
from kerasllm.models import Seq2SeqLM

POSITION_OFFSET = 2  # Their tables of positions begin with two rows that nothing reads.
_PADDING_ID = 1  # M2M-100 counts positions from the one after its padding token's id.

_COMMON = (
    Row(write=lambda config: {"is_encoder_decoder": True}),
    setting("vocab_size"),
    setting("num_layers", "decoder_layers"),
    setting("num_encoder_layers", "encoder_layers"),
    setting("d_model"),
    setting("num_heads", "encoder_attention_heads"),
    same("decoder_attention_heads", "num_heads"),
    setting("dff", "encoder_ffn_dim"),
    same("decoder_ffn_dim", "dff"),
    setting("max_length", "max_position_embeddings"),
    choice("activation", "activation_function", ACTIVATIONS),
    setting("scale_embeddings", "scale_embedding"),
    setting("tie_embeddings", "tie_word_embeddings"),
    # Where nothing is tied, nothing is shared either: each side has a table.
    Row(lambda settings, fields: {"source_vocab_size": None if fields["tie_embeddings"] else fields["vocab_size"]}),
    setting("dropout"),
    setting("attention_dropout"),
)


def _read_vocabularies(settings, fields):
    source, target = fields["vocab_size"], settings.take("decoder_vocab_size", fields["vocab_size"])
    if settings.take("share_encoder_decoder_embeddings"):
        return {}
    return {"vocab_size": target, "source_vocab_size": source}


def _write_vocabularies(config):
    return {
        "vocab_size": config.source_vocab_size or config.vocab_size,
        "decoder_vocab_size": config.vocab_size,
        "share_encoder_decoder_embeddings": config.source_vocab_size is None,
    }


_BART = (*_COMMON, always(positions="learned", norm_placement="post", embedding_norm=True))
_MBART = (*_COMMON, always(positions="learned", norm_placement="pre", embedding_norm=True))
_MARIAN = (
    *_COMMON,
    Row(_read_vocabularies, _write_vocabularies),
    always(positions="sinusoidal", norm_placement="post", embedding_norm=False),
)
_M2M_100 = (
    required("pad_token_id", _PADDING_ID),
    *_COMMON,
    always(positions="fairseq_sinusoidal", norm_placement="pre", embedding_norm=False, output_bias=False),
)

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
            (f"model.{ours}.embed_positions.weight",), first_row=POSITION_OFFSET
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
        "output_bias": Source((_OUTPUT_BIAS,), as_row=1),
        **_stack("encoder", LAYER),
        **_stack("decoder", _DECODER_BLOCK),
    }


def _shared_table(config):
    """What both sides shared if they had not a table each: transformers makes it, and never reads it."""
    return {} if config.source_vocab_size is None else {_SHARED: (config.vocab_size, config.d_model)}


def _no_output_bias(config):
    return {} if config.output_bias else {_OUTPUT_BIAS: (1, config.vocab_size)}


def _zeros(config):
    return {**_no_output_bias(config), **_shared_table(config)}


def _family(architecture, rows, zeros=_zeros, output_bias=(_OUTPUT_BIAS,)):
    return Family(
        architecture,
        Seq2SeqLM,
        rows,
        _weights,
        renames=((r"^(?=shared\.|encoder\.|decoder\.)", "model."),),
        # Marian's sinusoids, where a file has them, are computed anew, as transformers does.
        unused=r"^model\.(encoder|decoder)\.(embed_positions\.weights?|version)$",
        zeros=zeros,
        side_tables=tuple(_TABLES.values()),
        shared_table=_SHARED,
        output_bias=output_bias,
        from_weights=("output_bias",) if output_bias else (),
    )


FAMILIES = {
    "bart": _family("BartForConditionalGeneration", _BART),
    "mbart": _family("MBartForConditionalGeneration", _MBART),
    "marian": _family("MarianMTModel", _MARIAN, zeros=_no_output_bias),
    "m2m_100": _family("M2M100ForConditionalGeneration", _M2M_100, zeros=_shared_table, output_bias=()),
}
