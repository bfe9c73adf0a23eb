"""What tensors are called, without ".weight" and ".bias": llama.cpp's names to those of Hugging Face's format.

"#" stands for the number of a block.
"""

EMBEDDING, OUTPUT = "token_embd", "output"


def _blocks(names):
    return {f"blk.#.{ours}": f"model.layers.#.{theirs}" for ours, theirs in names.items()}


_TABLES = {EMBEDDING: "model.embed_tokens", OUTPUT: "lm_head", "output_norm": "model.norm"}
_SPLIT = {
    **{f"attn_{part}": f"self_attn.{part}_proj" for part in "qkv"},
    **{f"ffn_{part}": f"mlp.{part}_proj" for part in ("gate", "up")},
}
_REST = {"attn_norm": "input_layernorm", "attn_output": "self_attn.o_proj", "ffn_down": "mlp.down_proj"}
LLAMA = {**_TABLES, **_blocks({**_SPLIT, **_REST, "ffn_norm": "post_attention_layernorm"})}
ARCEE = {ours: theirs for ours, theirs in LLAMA.items() if ours != "blk.#.ffn_gate"}
QK_NORMS = _blocks({f"attn_{part}_norm": f"self_attn.{part}_norm" for part in "qk"})
PHI3 = {
    **_TABLES,
    **_blocks({**_REST, "ffn_norm": "post_attention_layernorm"}),
    **_blocks({"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}),
}
SANDWICHED = {
    **LLAMA,
    **_blocks(
        {
            "post_attention_norm": "post_attention_layernorm",
            "ffn_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        }
    ),
}
GPT2 = {
    EMBEDDING: "transformer.wte",
    "position_embd": "transformer.wpe",
    OUTPUT: "lm_head",
    "output_norm": "transformer.ln_f",
    **{
        f"blk.#.{ours}": f"transformer.h.#.{theirs}"
        for ours, theirs in {
            "attn_norm": "ln_1",
            "attn_qkv": "attn.c_attn",
            "attn_output": "attn.c_proj",
            "ffn_norm": "ln_2",
            "ffn_up": "mlp.c_fc",
            "ffn_down": "mlp.c_proj",
        }.items()
    },
}
