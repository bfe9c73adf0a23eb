"""GPT-2: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"."""

from kerasllm.huggingface.families.family import ACTIVATIONS, Family, Row, always, choice, setting
from kerasllm.huggingface.names import in_blocks, layer_norm, linear, plain
from kerasllm.models import CausalLM

_ROWS = (
    setting("vocab_size"),
    setting("num_layers", "n_layer"),
    setting("d_model", "n_embd"),
    setting("num_heads", "n_head"),
    setting("dff", "n_inner", default=lambda fields: 4 * fields["d_model"]),
    setting("max_length", "n_positions"),
    setting("norm_epsilon", "layer_norm_epsilon"),
    choice("activation", "activation_function", ACTIVATIONS),
    setting("tie_embeddings", "tie_word_embeddings"),
    setting("dropout", "resid_pdrop"),
    setting("attention_dropout", "attn_pdrop"),
    Row(write=lambda config: {"embd_pdrop": config.dropout}),
    always(positions="learned"),
)


def _conv(ours, theirs):
    """GPT-2's `Conv1D` keeps its kernel as a `Dense` does."""
    return {f"{ours}/kernel": plain(f"{theirs}.weight"), f"{ours}/bias": plain(f"{theirs}.bias")}


_BLOCK = {
    **layer_norm("attention_norm", "ln_1"),
    **_conv("attention/query_key_value", "attn.c_attn"),
    **_conv("attention/output", "attn.c_proj"),
    **layer_norm("feed_forward_norm", "ln_2"),
    **_conv("feed_forward/inner", "mlp.c_fc"),
    **_conv("feed_forward/outer", "mlp.c_proj"),
}


def _weights(config, _):
    return {
        "token_embedding/embeddings": plain("transformer.wte.weight"),
        "token_embedding/reverse_embeddings": linear("lm_head"),
        "transformer/position_embedding/embeddings": plain("transformer.wpe.weight"),
        **in_blocks(_BLOCK, "transformer/block_#", "transformer.h.#"),
        **layer_norm("transformer/final_norm", "transformer.ln_f"),
    }


FAMILIES = {
    "gpt2": Family(
        "GPT2LMHeadModel",
        CausalLM,
        _ROWS,
        _weights,
        renames=((r"^(?=wte\.|wpe\.|h\.|ln_f\.)", "transformer."),),
        unused=r"\.attn\.(bias|masked_bias)$",
    )
}
