"""T5 (Raffel et al. 2019, https://arxiv.org/abs/1910.10683), its version 1.1, Flan-T5 and mT5.

T5's first version scales what the output layer reads: the decoder's last norm takes that factor up.
"""

from kerasllm.huggingface.families.family import Family
from kerasllm.huggingface.names import Source, in_blocks, linear, plain
from kerasllm.models import Seq2SeqLM

# What `feed_forward_proj` says of ours: the activation, and whether a second projection gates it.
_FEED_FORWARDS = {
    "relu": ("relu", False),
    "gated-gelu": ("gelu_tanh", True),
    "gated-silu": ("silu", True),
    "gated-relu": ("relu", True),
}


def _fields(settings):
    kind, layers = settings.take("feed_forward_proj"), settings.take("num_layers")
    activation = "gelu_new" if kind == "gated-gelu" else kind.removeprefix("gated-")
    settings.ignore("scale_decoder_outputs", "tie_word_embeddings")  # Weights say it, see `_weights`.
    return {
        "vocab_size": settings.take("vocab_size"),
        "num_encoder_layers": layers,
        "num_layers": settings.take("num_decoder_layers", layers),
        "d_model": settings.take("d_model"),
        "num_heads": settings.take("num_heads"),
        "head_dim": settings.take("d_kv"),
        "dff": settings.take("d_ff"),
        "positions": "relative",
        "attention_scale": 1.0,
        "norm": "rms",
        "norm_epsilon": settings.take("layer_norm_epsilon"),
        "activation": settings.activation("dense_act_fn", activation),
        "gated": settings.take("is_gated_act", kind.startswith("gated-")),
        "use_bias": False,
        "dropout": settings.take("dropout_rate"),
    }


def _settings(config):
    kind = next(name for name, made in _FEED_FORWARDS.items() if made == (config.activation, config.gated))
    return {
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size,
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_layers,
        "d_model": config.d_model,
        "num_heads": config.num_heads,
        "d_kv": config.head_dim or config.d_model // config.num_heads,
        "d_ff": config.dff,
        "layer_norm_epsilon": config.norm_epsilon,
        "feed_forward_proj": kind,
        "tie_word_embeddings": config.tie_embeddings,
        "scale_decoder_outputs": config.tie_embeddings,
        "dropout_rate": config.dropout,
    }


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
        _fields,
        _settings,
        weights,
        unused=r"^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$",
        zeros=_zeros,
        sides=tuple(_TABLES.values()),
        shared=_SHARED,
        by_file=("tie_embeddings", "source_vocab_size"),
    )


FAMILIES = {
    "t5": _family("T5ForConditionalGeneration", _weights),
    "mt5": _family("MT5ForConditionalGeneration", _mt5_weights),
}
