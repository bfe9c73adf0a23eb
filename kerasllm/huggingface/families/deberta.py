"""DeBERTa-v3 (He et al. 2021, https://arxiv.org/abs/2111.09543), which is of the class of DeBERTa's second version."""

from kerasllm.huggingface.families import bert
from kerasllm.huggingface.families.family import Row, always, ignored, required, setting
from kerasllm.huggingface.names import dense, in_blocks, layer_norm, plain

_BOTH = [["p2c", "c2p"], ["c2p", "p2c"]]  # the same


def _read_scale(settings, fields):
    """Three products make a score: of contents, and of each content with the place of the other."""
    head_dim = fields["d_model"] // fields["num_heads"]
    settings.only("attention_head_size", None, head_dim)
    return {"attention_scale": (3 * head_dim) ** -0.5}


def _read_pairs(settings, fields):
    pairs = settings.take("pos_att_type") or []
    pairs = pairs.lower().split("|") if isinstance(pairs, str) else pairs
    if pairs not in _BOTH:
        settings.refuse("pos_att_type", settings.take("pos_att_type"), *_BOTH[:1])


def _read_longest(settings, fields):
    longest = settings.take("max_relative_positions")
    if longest > 0 and longest != fields["max_length"]:
        settings.refuse("max_relative_positions", longest, -1, fields["max_length"])


def _read_sizes(settings, fields):
    for name in ("embedding_size", "pooler_hidden_size"):
        settings.only(name, None, fields["d_model"])


_ROWS = (
    *bert.UNTYPED,
    setting("num_token_types", "type_vocab_size"),
    setting("position_buckets"),
    required("relative_attention", True),
    required("position_biased_input", False),
    required("share_att_key", True),
    required("norm_rel_ebd", "layer_norm"),
    Row(_read_pairs, lambda config: {"pos_att_type": _BOTH[0]}),
    Row(_read_longest, lambda config: {"max_relative_positions": -1}),
    Row(_read_scale),
    Row(_read_sizes),
    ignored("legacy", "conv_act", "conv_groups"),  # Names of tensors say the first; there is no convolution.
    always(positions="disentangled"),
)
_BLOCK = {
    **bert.BLOCK,
    **dense("attention/query_key_value", "attention.self.{}_proj", "query", "key", "value"),
}


def _weights(config, _):
    return {
        **bert.embeddings("deberta.embeddings"),
        "transformer/distance_embedding/embeddings": plain("deberta.encoder.rel_embeddings.weight"),
        **layer_norm("transformer/distance_norm", "deberta.encoder.LayerNorm"),
        **in_blocks(_BLOCK, "transformer/block_#", "deberta.encoder.layer.#"),
        **bert.token_head(config, bert.CLS, "transform.dense", "transform.LayerNorm"),
    }


# The head that published files have is called so where transformers computes with it ("legacy" is false).
_NEWER_HEAD = (
    (r"^lm_predictions\.lm_head\.(?=dense\.|LayerNorm\.)", "cls.predictions.transform."),
    (r"^lm_predictions\.lm_head\.", "cls.predictions."),
)
_FAMILY = bert.family("DebertaV2ForMaskedLM", "deberta", _ROWS, _weights, bert.CLS)
FAMILIES = {
    "deberta-v2": _FAMILY._replace(
        renames=(*_FAMILY.renames, *_NEWER_HEAD), unused=_FAMILY.unused + r"|^mask_predictions\.|position_embeddings"
    )
}
