"""ModernBERT (Warner et al. 2024, https://arxiv.org/abs/2412.13663): an encoder with rotary positions, gates, and
windows in all but every third layer."""

from kerasllm.huggingface.families.family import (
    ACTIVATIONS,
    SIZES,
    Family,
    Row,
    choice,
    ignored,
    name_of,
    same,
    setting,
)
from kerasllm.huggingface.families.windows import FULL, SLIDING, rotary_by_type, types_and_window, types_of
from kerasllm.huggingface.names import constant, dense, in_blocks, layer_norm, linear, plain
from kerasllm.models import MaskedLM


def _all_but_every_third(settings, fields):
    every = settings.take("global_attn_every_n_layers", 3)
    return [SLIDING if i % every else FULL for i in range(fields["num_layers"])]


def _read_windows(settings, fields):
    """`local_attention` counts the tokens on both sides: half of them, and the token itself, are less than half + 1
    places away."""
    half = settings.take("sliding_window", settings.take("local_attention") // 2)
    types = types_of(settings, fields, _all_but_every_third)
    return {"attention_window": [half + 1 if kind == SLIDING else None for kind in types]}


def _write_windows(config):
    types, window = types_and_window(config)
    places, full = range(len(types)), [kind == FULL for kind in types]
    every = next((n for n in range(1, len(types) + 1) if full == [i % n == 0 for i in places]), None)
    return {
        "layer_types": types,
        **({} if every is None else {"global_attn_every_n_layers": every}),
        **({} if window is None else {"local_attention": 2 * (window - 1)}),
    }


def _read_head_activation(settings, fields):
    if settings.choose("classifier_activation", ACTIVATIONS) != fields["activation"]:
        settings.refuse(
            "classifier_activation",
            settings.take("classifier_activation"),
            settings.take("hidden_activation"),
        )


def _read_output_bias(settings, fields):
    """A model whose layers have biases has that one anyway."""
    return {"output_bias": settings.take("decoder_bias") and not fields["use_bias"]}


_ROWS = (
    *SIZES,
    setting("norm_epsilon", "norm_eps"),
    choice("activation", "hidden_activation", ACTIVATIONS),
    Row(_read_head_activation, lambda config: {"classifier_activation": name_of(config.activation, ACTIVATIONS)}),
    setting("use_bias", "mlp_bias"),
    setting("attention_bias"),
    same("norm_bias", "use_bias"),
    same("classifier_bias", "use_bias"),
    Row(_read_output_bias, lambda config: {"decoder_bias": config.output_bias or config.use_bias}),
    setting("tie_embeddings", "tie_word_embeddings"),
    rotary_by_type(
        _all_but_every_third,
        {SLIDING: ("local_rope_theta", 10000.0), FULL: ("global_rope_theta", 160000.0)},
        scaled=(SLIDING, FULL),
    ),
    Row(_read_windows, _write_windows),
    setting("dropout", "mlp_dropout"),
    setting("attention_dropout", default=0.0),
    Row(write=lambda config: {"embedding_dropout": config.dropout}),
    ignored("embedding_dropout", "sparse_prediction", "sparse_pred_ignore_index", "deterministic_flash_attn"),
    Row(
        lambda settings, fields: {
            **{"norm_placement": "pre", "gated": True, "embedding_norm": True},
            "skip_attention_norm": [i == 0 for i in range(fields["num_layers"])],
        }
    ),
)
_BLOCK = {
    **layer_norm("attention_norm", "attn_norm"),
    **dense("attention/query_key_value", "attn.Wqkv"),
    **dense("attention/output", "attn.Wo"),
    **layer_norm("feed_forward_norm", "mlp_norm"),
    **dense("feed_forward/inner", "mlp.Wi"),
    **dense("feed_forward/outer", "mlp.Wo"),
}


def _weights(config, values):
    return {
        "token_embedding/embeddings": plain("model.embeddings.tok_embeddings.weight"),
        "token_embedding/reverse_embeddings": linear("decoder"),
        **layer_norm("transformer/input_norm", "model.embeddings.norm"),
        **in_blocks(_BLOCK, "transformer/block_#", "model.layers.#"),
        **layer_norm("transformer/final_norm", "model.final_norm"),
        **dense("head_dense", "head.dense"),
        **layer_norm("head_norm", "head.norm"),
        "output_bias": plain("decoder.bias") if values.get("decoder_bias", True) else constant(0.0),
    }


FAMILIES = {
    "modernbert": Family(
        "ModernBertForMaskedLM",
        MaskedLM,
        _ROWS,
        _weights,
        renames=((r"^(?=embeddings\.|layers\.|final_norm\.)", "model."),),
        output_bias=("decoder.bias",),
    ),
}
