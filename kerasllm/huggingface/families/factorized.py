"""BERT with embeddings narrower than its layers: ALBERT (Lan et al. 2019, https://arxiv.org/abs/1909.11942), whose
layers share their weights, and ELECTRA (Clark et al. 2020, https://arxiv.org/abs/2003.10555)."""

from kerasllm.huggingface.families import bert
from kerasllm.huggingface.families.family import Row, required, setting
from kerasllm.huggingface.names import dense, in_blocks, layer_norm, linear, plain


def _read_width(settings, fields):
    """ELECTRA projects nothing that has the right width."""
    size = settings.take("embedding_size")
    return {"embedding_size": None if size == fields["d_model"] else size}


_ALBERT = (
    *bert.ROWS,
    setting("embedding_size"),
    setting("num_layer_groups", "num_hidden_groups"),
    required("inner_group_num", 1),
)
_ELECTRA = (
    *bert.ROWS,
    required("hidden_act", "gelu"),  # Its heads take that, whatever the blocks take.
    Row(_read_width, lambda config: {"embedding_size": config.embedding_width}),
)
_ALBERT_BLOCK = {
    **dense("attention/query_key_value", "attention.{}", "query", "key", "value"),
    **dense("attention/output", "attention.dense"),
    **layer_norm("attention_norm", "attention.LayerNorm"),
    **dense("feed_forward/inner", "ffn"),
    **dense("feed_forward/outer", "ffn_output"),
    **layer_norm("feed_forward_norm", "full_layer_layer_norm"),
}


def _albert_weights(config, _):
    encoder = "albert.encoder"
    return {
        **bert.embeddings("albert.embeddings"),
        **dense("transformer/input_projection", f"{encoder}.embedding_hidden_mapping_in"),
        **in_blocks(_ALBERT_BLOCK, "transformer/block_#", f"{encoder}.albert_layer_groups.#.albert_layers.0"),
        **bert.token_head(config, "predictions"),
    }


def _electra_weights(config, _):
    return {
        **bert.embeddings("electra.embeddings"),
        **dense("transformer/input_projection", "electra.embeddings_project"),
        **in_blocks(bert.BLOCK, "transformer/block_#", "electra.encoder.layer.#"),
        **dense("head_dense", "generator_predictions.dense"),
        **layer_norm("head_norm", "generator_predictions.LayerNorm"),
        "output_bias": plain("generator_lm_head.bias"),
        "token_embedding/reverse_embeddings": linear("generator_lm_head"),
    }


FAMILIES = {
    "albert": bert.family("AlbertForMaskedLM", "albert", _ALBERT, _albert_weights, "predictions"),
    "electra": bert.family("ElectraForMaskedLM", "electra", _ELECTRA, _electra_weights),
}
