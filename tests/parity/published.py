"""Settings of published checkpoints, cut down to models that a test can draw."""

import json
from pathlib import Path

from kerasllm.huggingface.choosing import type_of
from kerasllm.huggingface.families import FAMILIES
from kerasllm.huggingface.settings import reference

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "hf_configs"
LIST = Path(__file__).parents[1] / "fixtures" / "published_settings.jsonl"
V, POSITIONS, WINDOW = 61, 64, 7
# By the name that transformers has for them; of some types these are d_model, n_embd, dim and so on.
_SIZES = {
    "hidden_size": 32, "num_attention_heads": 4, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "intermediate_size": 40, "ffn_dim": 40, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40, "hidden_dim": 40, "d_ff": 40,
    "encoder_layers": 2, "decoder_layers": 2, "num_layers": 2, "num_decoder_layers": 2, "vocab_size": V,
    "decoder_vocab_size": V, "sliding_window": WINDOW, "word_embed_proj_dim": 32, "max_window_layers": 1,
    "local_attention": 2 * WINDOW,
}  # fmt: skip


def published():
    """Yields (name, settings) of every published checkpoint of a type that is read here."""
    for path in sorted(FOLDER.glob("*/config*.json")):
        yield f"{path.parent.name}/{path.name}", json.loads(path.read_text())
    if LIST.is_file():
        for line in LIST.read_text().splitlines():
            entry = json.loads(line)
            yield entry["name"], entry["config"]


def of_ours():
    """Those of them whose type is ours."""
    for name, values in published():
        if (values.get("model_type") or type_of(values)) in FAMILIES:
            yield name, values


def cut(values):
    """The same settings with small sizes: whatever else changes the computation stays, the pattern of layers too."""
    kind = values.get("model_type") or type_of(values)
    aliases = reference(kind)["aliases"]
    layers = 6 if kind in ("gemma3_text", "smollm3", "modernbert") else 2
    sizes = {**_SIZES, "num_hidden_layers": layers, "n_inner": 40}
    sizes |= {aliases[name]: size for name, size in sizes.items() if name in aliases}
    heads, kv_heads = (values.get(name) for name in ("num_attention_heads", "num_key_value_heads"))
    if kv_heads:
        sizes["num_key_value_heads"] = 4 if kv_heads == heads else min(kv_heads, 2)
    hidden = values.get("hidden_size") or values.get("d_model")
    for name, count in (("head_dim", heads), ("d_kv", values.get("num_heads"))):
        sizes[name] = 8 if values.get(name) and hidden == values[name] * count else 12
    sizes["embedding_size"] = 32 if values.get("embedding_size") == hidden else 20
    small = {name: sizes[name] if name in sizes and value else value for name, value in values.items()}
    # What a file leaves out would be as large as it is published.
    small |= {
        name: sizes[name]
        for name in reference(kind)["settings"].keys() & _SIZES.keys() - values.keys()
        if name
        not in (
            "sliding_window",
            "max_window_layers",
            "num_decoder_layers",
            "decoder_vocab_size",
            "word_embed_proj_dim",
        )
    }
    positions = next(
        (n for n in ("max_position_embeddings", "n_positions") if values.get(n)), "max_position_embeddings"
    )
    if positions in reference(kind)["settings"] or values.get(positions):
        small[positions] = POSITIONS + (values.get(positions, 0) % 8 if "roberta" in kind else 0)
    for name in ("layer_types", "no_rope_layers"):
        if values.get(name):
            small[name] = values[name][:layers]
    for name, value in values.items():
        if name.endswith("token_id") and isinstance(value, int) and value >= V:
            small[name] = V - 1
    for name in ("rope_scaling", "rope_parameters"):
        if values.get(name):
            small[name] = _cut_rope(values[name], small, values.get(positions) or POSITIONS)
    if values.get("original_max_position_embeddings"):
        small["original_max_position_embeddings"] = _scaled(
            values["original_max_position_embeddings"], values[positions]
        )
    return {**{name: value for name, value in small.items() if name != "quantization_config"}, "model_type": kind}


def _scaled(length, whole):
    return max(8, round(POSITIONS * length / whole))


def _cut_rope(rope, small, whole):
    rope = {name: _cut_rope(value, small, whole) if isinstance(value, dict) else value for name, value in rope.items()}
    if rope.get("original_max_position_embeddings"):
        rope["original_max_position_embeddings"] = _scaled(rope["original_max_position_embeddings"], whole)
    share = small.get("partial_rotary_factor") or 1.0
    for name in ("short_factor", "long_factor"):
        if name in rope:
            rope[name] = rope[name][: int(8 * share) // 2]
    return rope
