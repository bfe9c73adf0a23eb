"""T5 (Raffel et al. 2019, https://arxiv.org/abs/1910.10683), its version 1.1, Flan-T5 and mT5.

T5's first version scales what the output layer reads: the decoder's last norm takes that factor up.
"""

from kerasllm.huggingface.families.family import ACTIVATIONS, Family, Row, always, ignored, name_of, setting
from kerasllm.huggingface.names import Source, in_blocks, linear, plain
from kerasllm.models import Seq2SeqLM

# What `feed_forward_proj` says of ours: the activation, and whether a second projection gates it.
_FEED_FORWARDS = {
    "relu": ("relu", False),
    "gated-gelu": ("gelu_tanh", True),
    "gated-silu": ("silu", True),
    "gated-relu": ("relu", True),
}


def _read_feed_forward(settings, fields):
    kind = settings.take("feed_forward_proj")
    activation = "gelu_new" if kind == "gated-gelu" else kind.removeprefix("gated-")
    return {
        "activation": settings.choose("dense_act_fn", ACTIVATIONS, activation),
        "gated": settings.take("is_gated_act", kind.startswith("gated-")),
    }


def _write_feed_forward(config):
    return {"feed_forward_proj": name_of((config.activation, config.gated), _FEED_FORWARDS)}


_ROWS = (
    setting("vocab_size"),
    setting("num_encoder_layers", "num_layers"),
    setting("num_layers", "num_decoder_layers", default=lambda fields: fields["num_encoder_layers"]),
    setting("d_model"),
    setting("num_heads"),
    setting("head_dim", "d_kv"),
    setting("dff", "d_ff"),
    setting("norm_epsilon", "layer_norm_epsilon"),
    Row(_read_feed_forward, _write_feed_forward),
    setting("dropout", "dropout_rate"),
    ignored("scale_decoder_outputs", "tie_word_embeddings"),  # Weights say it, see `_weights`.
    Row(
        write=lambda config: {
            "is_encoder_decoder": True,
            "tie_word_embeddings": config.tie_embeddings,
            "scale_decoder_outputs": config.tie_embeddings,
        }
    ),
    always(positions="relative", attention_scale=1.0, norm="rms", use_bias=False),
)


def _stack(ours, config):
    last = 2 if ours == "decoder" else 1
    inner = linear(f"layer.{last}.DenseReluDense.{{}}", *(("wi_0", "wi_1") if config.gated else ("wi",)))
    block = {
        "attention_norm/scale": plain("layer.0.layer_norm.weight"),
        "attention/query_key_value/kernel": linear("layer.0.SelfAttention.{}", "q", "k", "v"),
        "attention/output/kernel": linear("layer.0.SelfAttention.o"),
        "cross_attention_norm/scale": plain("layer.1.layer_norm.weight"),
        "cross_attention/query/kernel": linear("layer.1.EncDecAttention.q"),
        "cross_attention/key_value/kernel": linear("layer.1.EncDecAttention.{}", "k", "v"),
        "cross_attention/output/kernel": linear("layer.1.EncDecAttention.o"),
        "feed_forward_norm/scale": plain(f"layer.{last}.layer_norm.weight"),
        "feed_forward/inner/kernel": inner,
        "feed_forward/outer/kernel": linear(f"layer.{last}.DenseReluDense.wo"),
    }
    return {
        f"{ours}/relative_bias/embeddings": plain(
            f"{ours}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        ),
        **in_blocks(block, f"{ours}/block_#", f"{ours}.block.#"),
        f"{ours}/final_norm/scale": plain(f"{ours}.final_layer_norm.weight"),
    }


_SHARED = "shared.weight"
_TABLES = {side: f"{side}.embed_tokens.weight" for side in ("encoder", "decoder")}


def _weights(config, values):
    scales = values.get("scale_decoder_outputs", values.get("tie_word_embeddings") is not False)
    return _table(config, scales)


def _mt5_weights(config, _):
    return _table(config, scales=False)


def _table(config, scales):
    last_norm = Source(("decoder.final_layer_norm.weight",), factor=config.d_model**-0.5 if scales else 1.0)
    return {
        "token_embedding/embeddings": plain(_SHARED if config.source_vocab_size is None else _TABLES["decoder"]),
        "token_embedding/reverse_embeddings": linear("lm_head"),
        "source_embedding/embeddings": plain(_TABLES["encoder"]),
        **_stack("encoder", config),
        **_stack("decoder", config),
        "decoder/final_norm/scale": last_norm,
    }


def _zeros(config):
    """The table that both sides shared if they had not one each: transformers makes it, and never reads it."""
    return {} if config.source_vocab_size is None else {_SHARED: (config.vocab_size, config.d_model)}


def _family(architecture, weights):
    return Family(
        architecture,
        Seq2SeqLM,
        _ROWS,
        weights,
        unused=r"^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$",
        zeros=_zeros,
        side_tables=tuple(_TABLES.values()),
        shared_table=_SHARED,
        from_weights=("tie_embeddings", "source_vocab_size"),
    )


FAMILIES = {
    "t5": _family("T5ForConditionalGeneration", _weights),
    "mt5": _family("MT5ForConditionalGeneration", _mt5_weights),
}
