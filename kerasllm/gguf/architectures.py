"""What llama.cpp calls an architecture, and what Hugging Face's format calls the same: keys, and names of tensors.

`read` of an architecture says what llama.cpp computes of a file, and nothing else says it: a model is written as an
architecture only if what is read back is the same model. Keys and defaults are those of llama.cpp's `conversion` and
`src/models`.
"""

from collections.abc import Callable
from typing import NamedTuple

from kerasllm.gguf.metadata import Metadata
from kerasllm.gguf.names import ARCEE, GPT2, LLAMA, OUTPUT, PHI3, QK_NORMS, SANDWICHED
from kerasllm.gguf.rope import read_rope, write_rope
from kerasllm.huggingface.families.windows import FULL, SLIDING


class Architecture(NamedTuple):
    """An architecture of llama.cpp.

    Attributes:
        model_type: str, of Hugging Face's format.
        read: function (`Metadata`, names of the tensors, function (name) -> array or None) -> dict for config.json.
        write: function (dict of config.json) -> dict of keys without the architecture's name, and dict of further
            tensors by name.
        tensors: dict from names of tensors, without ".weight" and ".bias", to those of Hugging Face's format.
        interleaved: dict from tensors whose rows, two halves of each head, llama.cpp has turn about, to the setting
            that says how many heads there are.
        transposed: tuple of tensors that are (in, out) in Hugging Face's format.
        norm_offset: float, what the scales of norms have more than in Hugging Face's format.
    """

    model_type: str
    read: Callable
    write: Callable
    tensors: dict
    interleaved: dict = {}
    transposed: tuple = ()
    norm_offset: float = 0.0


# Settings of config.json to keys.
_SIZES = {
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
}
_GPT2_SIZES = {
    "n_positions": "context_length",
    "n_embd": "embedding_length",
    "n_layer": "block_count",
    "n_inner": "feed_forward_length",
    "n_head": "attention.head_count",
}
_SOFT_CAPS = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}


def _read_rotated(metadata, names, tensors, partly=False):
    """What all architectures with rotary positions say; `partly` for one whose heads may be turned in part."""
    sizes = {setting: metadata.take(key, int) for setting, key in _SIZES.items()}
    heads = sizes["num_attention_heads"]
    head_dim = metadata.take("attention.key_length", int, sizes["hidden_size"] // max(heads, 1))
    metadata.only("attention.value_length", int, head_dim)
    if not partly:
        metadata.only("rope.dimension_count", int, head_dim)
    return {
        **sizes,
        "num_key_value_heads": metadata.take("attention.head_count_kv", int, heads),
        "head_dim": head_dim,
        "rms_norm_eps": metadata.take("attention.layer_norm_rms_epsilon", float),
        "rope_parameters": read_rope(metadata, tensors, head_dim),
        "tie_word_embeddings": f"{OUTPUT}.weight" not in names,
        "hidden_act": "silu",
    }


def _write_rotated(settings, rope=None):
    head_dim, length = _head_dim(settings), settings["max_position_embeddings"]
    rotation, tensors = write_rope(rope or settings["rope_parameters"], head_dim, length)
    return {
        **{key: settings[setting] for setting, key in _SIZES.items()},
        "attention.head_count_kv": settings["num_key_value_heads"],
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": float(settings["rms_norm_eps"]),
        **rotation,
    }, tensors


def _head_dim(settings):
    return settings.get("head_dim") or settings["hidden_size"] // settings["num_attention_heads"]


def _read_llama(metadata, names, tensors):
    metadata.only("attention.scale", float, 0.0)
    biases = {"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_up.bias"}
    return {
        **_read_rotated(metadata, names, tensors),
        **{setting: name in names for setting, name in biases.items()},
    }


def _read_arcee(metadata, names, tensors):
    metadata.only("attention.scale", float, 0.0)
    return {**_read_rotated(metadata, names, tensors), "hidden_act": "relu2"}


def _read_phi3(metadata, names, tensors):
    metadata.take("attention.sliding_window", int, 0)  # of which llama.cpp takes no notice
    found = _read_rotated(metadata, names, tensors, partly=True)
    rope = found["rope_parameters"]
    share = rope.setdefault("partial_rotary_factor", 1.0)
    trained = metadata.take("rope.scaling.original_context_length", int, found["max_position_embeddings"])
    return {
        **found,
        "sliding_window": None,
        "partial_rotary_factor": share,
        "original_max_position_embeddings": trained,
    }


def _write_phi3(settings):
    keys, tensors = _write_rotated(settings)
    trained = settings["original_max_position_embeddings"]
    # Without this key llama.cpp's older versions do not load it.
    return {**keys, "rope.scaling.original_context_length": trained, "attention.sliding_window": 0}, tensors


def _read_gemma(metadata, names, tensors):
    return {
        **_read_rotated(metadata, names, tensors),
        "tie_word_embeddings": True,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
    }


def _read_gemma2(metadata, names, tensors):
    found = _read_gemma(metadata, names, tensors)
    caps = {setting: metadata.take(key, float, 0.0) or None for setting, key in _SOFT_CAPS.items()}
    return {
        **found,
        **caps,
        **_read_windows(metadata, found, period=2, usual=4096),
        "query_pre_attn_scalar": _scalar(found, largest=46),
    }


def _write_gemma2(settings):
    keys, tensors = _write_rotated(settings)
    caps = {key: float(settings[setting]) for setting, key in _SOFT_CAPS.items() if settings[setting]}
    return {**keys, **caps, "attention.sliding_window": settings["sliding_window"]}, tensors


def _read_gemma3(metadata, names, tensors):
    found = _read_gemma(metadata, names, tensors)
    window = _read_windows(metadata, found, period=6, usual=None)
    local = metadata.take("rope.freq_base_swa", float, 10000.0)
    return {
        **found,
        **window,
        "rope_parameters": {
            FULL: found["rope_parameters"],
            SLIDING: {"rope_type": "default", "rope_theta": float(local)},
        },
        "final_logit_softcapping": metadata.take(_SOFT_CAPS["final_logit_softcapping"], float, 0.0) or None,
        "query_pre_attn_scalar": _scalar(found, largest=62),
    }


def _write_gemma3(settings):
    rope = settings["rope_parameters"]
    keys, tensors = _write_rotated(settings, rope[FULL])
    cap = settings["final_logit_softcapping"]
    return {
        **keys,
        **({_SOFT_CAPS["final_logit_softcapping"]: float(cap)} if cap else {}),
        "rope.freq_base_swa": float(rope[SLIDING]["rope_theta"]),
        "attention.sliding_window": settings["sliding_window"],
    }, tensors


def _read_windows(metadata, found, period, usual):
    """Every layer has a window but the last of a period."""
    window = metadata.take("attention.sliding_window", int, usual)
    metadata.only("attention.sliding_window_pattern", int, period)
    layers = range(1, found["num_hidden_layers"] + 1)
    return {
        "sliding_window": window or found["max_position_embeddings"],
        "layer_types": [SLIDING if window and layer % period else FULL for layer in layers],
    }


def _scalar(found, largest):
    """What scores are divided by the root of: in the largest published model, which llama.cpp knows by its number of
    layers, as if its heads were as wide as the model."""
    if found["num_hidden_layers"] == largest:
        return found["hidden_size"] // found["num_attention_heads"]
    return found["head_dim"]


def _read_gpt2(metadata, names, tensors):
    sizes = {setting: metadata.take(key, int) for setting, key in _GPT2_SIZES.items()}
    metadata.only("attention.head_count_kv", int, sizes["n_head"])
    return {
        **sizes,
        "layer_norm_epsilon": metadata.take("attention.layer_norm_epsilon", float),
        "activation_function": "gelu_new",
        "resid_pdrop": 0.0,  # of which a file says nothing
        "attn_pdrop": 0.0,
        "tie_word_embeddings": f"{OUTPUT}.weight" not in names,
    }


def _write_gpt2(settings):
    keys = {key: settings[setting] for setting, key in _GPT2_SIZES.items()}
    return {**keys, "attention.layer_norm_epsilon": float(settings["layer_norm_epsilon"])}, {}


_HEADS = {"blk.#.attn_q": "num_attention_heads", "blk.#.attn_k": "num_key_value_heads"}
ARCHITECTURES = {
    "llama": Architecture("llama", _read_llama, _write_rotated, LLAMA, interleaved=_HEADS),
    "arcee": Architecture("arcee", _read_arcee, _write_rotated, ARCEE, interleaved=_HEADS),
    "qwen2": Architecture("qwen2", _read_rotated, _write_rotated, LLAMA),
    "qwen3": Architecture("qwen3", _read_rotated, _write_rotated, {**LLAMA, **QK_NORMS}),
    "phi3": Architecture("phi3", _read_phi3, _write_phi3, PHI3),
    "gemma": Architecture("gemma", _read_gemma, _write_rotated, LLAMA, norm_offset=1.0),
    "gemma2": Architecture("gemma2", _read_gemma2, _write_gemma2, SANDWICHED, norm_offset=1.0),
    "gemma3": Architecture("gemma3_text", _read_gemma3, _write_gemma3, {**SANDWICHED, **QK_NORMS}, norm_offset=1.0),
    "gpt2": Architecture(
        "gpt2",
        _read_gpt2,
        _write_gpt2,
        GPT2,
        transposed=tuple(f"blk.#.{name}" for name in ("attn_qkv", "attn_output", "ffn_up", "ffn_down")),
    ),
}


def read_settings(values, path, names, tensors):
    """What config.json would say of a file.

    Args:
        values: dict, its metadata.
        path: where it is, for messages.
        names: the names of its tensors.
        tensors: function (name) -> array or None where there is none.

    Returns:
        The `Architecture`, and the dict with its `model_type`.

    Raises:
        ValueError: if it is of an architecture that is not known here, lacks a key, or asks for something that kerasllm
            does not compute.
    """
    metadata = Metadata(values, path)
    if metadata.architecture not in ARCHITECTURES:
        raise ValueError(
            f"{path} holds a model of architecture {metadata.architecture!r}; kerasllm reads "
            f"{', '.join(ARCHITECTURES)}."
        )
    architecture = ARCHITECTURES[metadata.architecture]
    blocks = {name.split(".")[1] for name in names if name.startswith("blk.")}
    if (count := metadata.take("block_count", int)) != len(blocks):
        raise ValueError(f"{path} says {metadata.architecture}.block_count={count} and holds {len(blocks)} blocks.")
    settings = architecture.read(metadata, names, tensors)
    metadata.finish()
    return architecture, {"model_type": architecture.model_type, **settings}
