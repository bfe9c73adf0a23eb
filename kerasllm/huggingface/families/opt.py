"""OPT: Zhang et al. 2022, https://arxiv.org/abs/2205.01068."""

from kerasllm.huggingface.families.bart import LAYER, POSITION_OFFSET
from kerasllm.huggingface.families.family import ACTIVATIONS, Family, always, choice, ignored, same, setting
from kerasllm.huggingface.names import Source, constant, in_blocks, layer_norm, linear, plain
from kerasllm.models import CausalLM

_ROWS = (
    setting("vocab_size"),
    setting("num_layers", "num_hidden_layers"),
    setting("d_model", "hidden_size"),
    same("word_embed_proj_dim", "d_model", None),
    setting("num_heads", "num_attention_heads"),
    setting("dff", "ffn_dim"),
    setting("max_length", "max_position_embeddings"),
    choice("norm_placement", "do_layer_norm_before", {True: "pre", False: "post"}),
    choice("activation", "activation_function", ACTIVATIONS),
    setting("tie_embeddings", "tie_word_embeddings"),
    setting("dropout"),
    setting("attention_dropout"),
    ignored("enable_bias", "layer_norm_elementwise_affine"),  # The weights stand for them: see `_weights`.
    always(positions="learned"),
)


def _weights(config, values):
    """Where a checkpoint has no biases, or norms without weights, ours keep what they stand for."""
    table = {
        "token_embedding/embeddings": plain("model.decoder.embed_tokens.weight"),
        "token_embedding/reverse_embeddings": linear("lm_head"),
        "transformer/position_embedding/embeddings": Source(
            ("model.decoder.embed_positions.weight",), first_row=POSITION_OFFSET
        ),
        **in_blocks(LAYER, "transformer/block_#", "model.decoder.layers.#"),
        **layer_norm("transformer/final_norm", "model.decoder.final_layer_norm"),
    }
    if not values.get("enable_bias", True):
        table |= {name: constant(0.0) for name in table if name.endswith("/bias")}
    if not values.get("layer_norm_elementwise_affine", True):
        table |= {name: constant(float(name.endswith("gamma"))) for name in table if "_norm/" in name}
    return table


FAMILIES = {"opt": Family("OPTForCausalLM", CausalLM, _ROWS, _weights, renames=((r"^(?=decoder\.)", "model."),))}
