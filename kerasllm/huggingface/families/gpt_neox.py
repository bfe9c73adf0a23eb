"""GPT-NeoX (Black et al. 2022, https://arxiv.org/abs/2204.06745) and Pythia (https://arxiv.org/abs/2304.01373)."""

from kerasllm.huggingface.families.family import ACTIVATIONS, SIZES, Family, Row, choice, setting
from kerasllm.huggingface.families.rotary import rotary
from kerasllm.huggingface.names import dense, in_blocks, layer_norm, linear, plain
from kerasllm.models import CausalLM

_ROWS = (
    *SIZES,
    rotary(theta_name="rotary_emb_base", share_name="rotary_pct"),
    setting("parallel", "use_parallel_residual"),
    Row(lambda settings, fields: {"shared_norm": not fields["parallel"]}),
    setting("norm_epsilon", "layer_norm_eps"),
    choice("activation", "hidden_act", ACTIVATIONS),
    setting("attention_bias"),
    setting("tie_embeddings", "tie_word_embeddings"),
    setting("dropout", "hidden_dropout"),
    setting("attention_dropout"),
)


_BLOCK = {
    **layer_norm("attention_norm", "input_layernorm"),
    **dense("attention/output", "attention.dense"),
    **layer_norm("feed_forward_norm", "post_attention_layernorm"),
    **dense("feed_forward/inner", "mlp.dense_h_to_4h"),
    **dense("feed_forward/outer", "mlp.dense_4h_to_h"),
}


def _weights(config, _):
    together = dense("attention/query_key_value", "attention.query_key_value")
    by_head = {name: source._replace(heads=config.num_heads) for name, source in together.items()}
    return {
        "token_embedding/embeddings": plain("gpt_neox.embed_in.weight"),
        "token_embedding/reverse_embeddings": linear("embed_out"),
        **in_blocks({**_BLOCK, **by_head}, "transformer/block_#", "gpt_neox.layers.#"),
        **layer_norm("transformer/final_norm", "gpt_neox.final_layer_norm"),
    }


FAMILIES = {
    "gpt_neox": Family(
        "GPTNeoXForCausalLM",
        CausalLM,
        _ROWS,
        _weights,
        renames=((r"^(?=embed_in\.|layers\.|final_layer_norm\.)", "gpt_neox."), (r"^lm_head\.", "embed_out.")),
        unused=r"\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)$",
    )
}
