"""KerasHub's backbones as models of ours: what their options and their weights are called there."""

import os
import re
from typing import Any

import keras
import numpy as np

from kerasllm.models.causal_lm import CausalLM
from kerasllm.models.config import TransformerConfig
from kerasllm.models.masked_lm import MaskedLM
from kerasllm.models.weights import weight_names

__all__ = ["load"]


def __dir__():  # what completion shows
    return __all__


def load(backbone: Any, max_length: int = 4096, dtype: str | keras.DTypePolicy | None = None) -> CausalLM | MaskedLM:
    """Makes a model of a backbone of KerasHub: the same logits, with our generation, data, checkpoints and export.

    Args:
        backbone: a `keras_hub.models` GPT2Backbone, LlamaBackbone, Llama3Backbone, MistralBackbone, GemmaBackbone (1 or
            2), QwenBackbone (2 or 2.5) or BertBackbone; or a preset that KerasHub loads, by its name or its folder.
        max_length: int, the longest context in tokens, where the backbone's positions set no limit.
        dtype: str or `keras.DTypePolicy` of the model; Keras' default when absent.

    Returns:
        A `CausalLM`, not compiled; of a BertBackbone a `MaskedLM`, whose head is new, as backbones have none.

    Raises:
        ValueError: for another architecture, or an option that ours does not compute.

    Example:

    >>> backbone = keras_hub.models.Backbone.from_preset("gpt2_base_en")
    >>> model = kerasllm.keras_hub.load(backbone)
    """
    if isinstance(backbone, str | os.PathLike):
        import keras_nlp  # takes seconds

        backbone = keras_nlp.models.Backbone.from_preset(os.fspath(backbone))
    kind = type(backbone).__name__
    if kind not in _ARCHITECTURES:
        raise ValueError(f"kerasllm converts KerasHub's {', '.join(_ARCHITECTURES)}, got a {kind}.")
    fields_of, table, model_class = _ARCHITECTURES[kind]
    options = _Options(kind, backbone.get_config())
    fields = fields_of(options)
    options.finish()
    tied = backbone.token_embedding.tie_weights  # which some backbones' options leave out
    config = TransformerConfig(**{"max_length": max_length, "tie_embeddings": tied, **fields})
    model = model_class(config, random_weights=model_class is MaskedLM, dtype=dtype)
    theirs = {weight.path: weight for weight in backbone.weights}
    weights = {name: weight for name, weight in weight_names(model).items() if not name.startswith(_HEAD)}
    sources = {name: _sources(name, table) for name in weights}
    if unread := {path for path in theirs if not path.startswith("pooled_dense")}.difference(*sources.values()):
        raise ValueError(
            f"This {kind} has the weight {min(unread)!r}, for which kerasllm has no place: convert it before adapters "
            "are added or weights quantized."
        )
    for name, weight in weights.items():
        parts = [keras.ops.convert_to_numpy(theirs[source]) for source in sources[name]]
        weight.assign(_joined(name, weight.shape, parts, gemma=kind == "GemmaBackbone"))
    return model


_HEAD = ("head_", "output_bias")  # of a MaskedLM
_HARMLESS = ("name", "trainable", "dtype", "tie_word_embeddings")


class _Options:
    """The options of a backbone, each of which must be read."""

    def __init__(self, kind, options):
        self._kind = kind
        self._left = {name: value for name, value in options.items() if name not in _HARMLESS}

    def take(self, name):
        return self._left.pop(name)

    def only(self, name, value):
        given = self._left.pop(name)
        if given != value:
            raise ValueError(f"A {self._kind} with {name}={given!r} cannot be converted, only one with {value!r}.")

    def sizes(self, heads="num_query_heads"):
        return {
            "vocab_size": self.take("vocabulary_size"),
            "num_layers": self.take("num_layers"),
            "d_model": self.take("hidden_dim"),
            "num_heads": self.take(heads),
            "dff": self.take("intermediate_dim"),
            "dropout": self.take("dropout"),
        }

    def finish(self):
        if left := {name: value for name, value in self._left.items() if value}:
            raise ValueError(f"A {self._kind} has an option that kerasllm does not know: {left}.")


def _gpt2(options):
    return {
        **options.sizes("num_heads"),
        "max_length": options.take("max_sequence_length"),
        "positions": "learned",
        "activation": "gelu_tanh",
    }


def _bert(options):
    return {
        **options.sizes("num_heads"),
        "max_length": options.take("max_sequence_length"),
        "num_token_types": options.take("num_segments"),
        "positions": "learned",
        "norm_placement": "post",
        "norm_epsilon": 1e-12,
        "embedding_norm": True,
        "activation": "gelu_tanh",
    }


def _gated(options, activation="silu", **own):
    return {
        **options.sizes(),
        "num_kv_heads": options.take("num_key_value_heads"),
        "norm": "rms",
        "norm_epsilon": options.take("layer_norm_epsilon"),
        "activation": activation,
        "gated": True,
        "use_bias": False,
        **own,
    }


def _llama(options):
    options.only("rope_position_scaling_factor", 1.0)  # KerasHub 0.32 leaves it out of its angles.
    llama3 = {
        "factor": options.take("rope_frequency_adjustment_factor"),
        "low_freq_factor": options.take("rope_low_freq_factor"),
        "high_freq_factor": options.take("rope_high_freq_factor"),
        "original_max_position_embeddings": options.take("rope_pretraining_sequence_length"),
    }
    scaling = None if llama3["factor"] is None else {"rope_type": "llama3", **llama3}
    return _gated(options, rope_theta=float(options.take("rope_max_wavelength")), rope_scaling=scaling)


def _rotary(options):
    factor = options.take("rope_scaling_factor")
    return {
        "rope_theta": float(options.take("rope_max_wavelength")),
        "rope_scaling": None if factor == 1.0 else {"rope_type": "linear", "factor": factor},
    }


def _mistral(options):
    own = {"attention_window": options.take("sliding_window"), "head_dim": options.take("head_dim")}
    return _gated(options, **_rotary(options), **own)


def _qwen(options):
    window = options.take("sliding_window_size")
    window = window if options.take("use_sliding_window_attention") else None
    return _gated(options, qkv_bias=True, attention_window=window, **_rotary(options))


def _gemma(options):
    options.only("query_head_dim_normalize", True)
    sandwich = options.take("use_post_attention_norm")
    options.only("use_post_ffw_norm", sandwich)
    window, windowed = options.take("sliding_window_size"), options.take("use_sliding_window_attention")
    fields = _gated(
        options,
        activation="gelu_tanh",
        head_dim=options.take("head_dim"),
        norm_placement="sandwich" if sandwich else "pre",
        attention_soft_cap=options.take("attention_logit_soft_cap"),
        logit_soft_cap=options.take("final_logit_soft_cap"),
        scale_embeddings=True,
    )
    fields["dff"] //= 2  # KerasHub counts both halves of the gate.
    fields["norm_epsilon"] = 1e-6  # KerasHub 0.32 computes with this one, whatever the option says.
    if windowed:
        fields["attention_window"] = [None if i % 2 else window for i in range(fields["num_layers"])]
    return fields


def _sources(name, table):
    """The names of their weights of which a weight of ours is made."""
    number = re.search(r"(?<=block_)\d+|$", name).group()
    return [source.replace("#", number) for source in table[re.sub(r"(?<=block_)\d+", "#", name)]]


def _joined(name, shape, parts, gemma):
    """The value of a weight of ours: theirs side by side, heads flattened."""
    if gemma and "query_key_value" in name:  # Its kernels are (heads, D, h), where others are (D, heads, h).
        parts = [part.swapaxes(0, 1) for part in parts]
    rows = shape[:1] if len(shape) > 1 else ()
    value = np.concatenate([part.reshape(*rows, -1) for part in parts], axis=-1)
    return value + 1 if gemma and name.endswith("/scale") else value


# Names of ours to names of theirs, "#" for the number of a block; several stand side by side.


def _same(ours, theirs, *parts):
    return {f"{ours}/{part}": (f"{theirs}/{part}",) for part in parts}


def _dense(ours, theirs):
    return _same(ours, theirs, "kernel", "bias")


def _layer_norm(ours, theirs):
    return _same(ours, theirs, "gamma", "beta")


def _query_key_value(theirs):
    return {
        f"attention/query_key_value/{part}": tuple(f"{theirs}/{one}/{part}" for one in ("query", "key", "value"))
        for part in ("kernel", "bias")
    }


def _table(block, prefix, final_norm):
    in_blocks = {
        f"transformer/block_#/{name}": tuple(f"{prefix}_#/{source}" for source in sources)
        for name, sources in block.items()
    }
    return {**_EMBEDDINGS, **in_blocks, **final_norm}


_EMBEDDINGS = {
    **_same("token_embedding", "token_embedding", "embeddings", "reverse_embeddings"),
    **_same("token_type_embedding", "segment_embedding", "embeddings"),
    **_same("transformer/position_embedding", "position_embedding", "embeddings"),
    **_layer_norm("transformer/input_norm", "embeddings_layer_norm"),
}


def _block(attention):
    """A block of GPT-2 or BERT, whose layers are those of KerasHub's own Transformer."""
    return {
        **_query_key_value(attention),
        **_dense("attention/output", f"{attention}/attention_output"),
        **_layer_norm("attention_norm", "self_attention_layer_norm"),
        **_dense("feed_forward/inner", "feedforward_intermediate_dense"),
        **_dense("feed_forward/outer", "feedforward_output_dense"),
        **_layer_norm("feed_forward_norm", "feedforward_layer_norm"),
    }


_LLAMA_BLOCK = {
    **_query_key_value("self_attention"),
    **_same("attention/output", "self_attention/attention_output", "kernel"),
    **_same("attention_norm", "self_attention_layernorm", "scale"),
    "feed_forward/inner/kernel": ("feedforward_gate_dense/kernel", "feedforward_intermediate_dense/kernel"),
    **_same("feed_forward/outer", "feedforward_output_dense", "kernel"),
    **_same("feed_forward_norm", "feedforward_layernorm", "scale"),
}
_GEMMA_BLOCK = {
    **_query_key_value("attention"),
    **_same("attention/output", "attention/attention_output", "kernel"),
    **_same("attention_norm", "pre_attention_norm", "scale"),
    **_same("attention_output_norm", "post_attention_norm", "scale"),
    "feed_forward/inner/kernel": ("ffw_gating/kernel", "ffw_gating_2/kernel"),
    **_same("feed_forward/outer", "ffw_linear", "kernel"),
    **_same("feed_forward_norm", "pre_ffw_norm", "scale"),
    **_same("feed_forward_output_norm", "post_ffw_norm", "scale"),
}
_LAYER = "transformer_layer"
_GPT2 = _table(_block("self_attention"), _LAYER, _layer_norm("transformer/final_norm", "layer_norm"))
_BERT = _table(_block("self_attention_layer"), _LAYER, {})
_LLAMA = _table(_LLAMA_BLOCK, _LAYER, _same("transformer/final_norm", "sequence_output_layernorm", "scale"))
_GEMMA = _table(_GEMMA_BLOCK, "decoder_block", _same("transformer/final_norm", "final_normalization", "scale"))
_ARCHITECTURES = {
    "GPT2Backbone": (_gpt2, _GPT2, CausalLM),
    "LlamaBackbone": (_llama, _LLAMA, CausalLM),
    "Llama3Backbone": (_llama, _LLAMA, CausalLM),
    "MistralBackbone": (_mistral, _LLAMA, CausalLM),
    "GemmaBackbone": (_gemma, _GEMMA, CausalLM),
    "QwenBackbone": (_qwen, _LLAMA, CausalLM),
    "BertBackbone": (_bert, _BERT, MaskedLM),
}
