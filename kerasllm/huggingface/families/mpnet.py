"""MPNet (Song et al. 2020, https://arxiv.org/abs/2004.09297): RoBERTa's places and head, and T5's bias of distances."""

from kerasllm.huggingface.families import bert
from kerasllm.huggingface.families.family import always, required
from kerasllm.huggingface.names import dense, in_blocks, layer_norm, plain

_ROWS = (
    required("hidden_act", "gelu"),  # Its head takes that, whatever the blocks take.
    *bert.UNTYPED,
    bert.OFFSET_LENGTH,
    always(positions="learned_relative"),
)
_BLOCK = {
    **bert.BLOCK,
    **dense("attention/query_key_value", "attention.attn.{}", "q", "k", "v"),
    **dense("attention/output", "attention.attn.o"),
    **layer_norm("attention_norm", "attention.LayerNorm"),
}


def _weights(config, _):
    return {
        **bert.embeddings("mpnet.embeddings", bert.OFFSET),
        "transformer/relative_bias/embeddings": plain("mpnet.encoder.relative_attention_bias.weight"),
        **in_blocks(_BLOCK, "transformer/block_#", "mpnet.encoder.layer.#"),
        **bert.token_head(config, "lm_head", norm="layer_norm"),
    }


FAMILIES = {"mpnet": bert.family("MPNetForMaskedLM", "mpnet", _ROWS, _weights, "lm_head")}
