"""The halves of models that see, by the `model_type` of their part of config.json: encoders of pictures, and CLIP's and
SigLIP's of texts."""

import dataclasses

from kerasllm.huggingface.families.family import (
    ACTIVATIONS,
    SIZES,
    Family,
    Row,
    always,
    choice,
    explicit,
    ignored,
    setting,
)
from kerasllm.huggingface.names import Source, dense, in_blocks, layer_norm, linear, plain
from kerasllm.huggingface.settings import Settings
from kerasllm.models import ContrastiveModel, ImageClassifier
from kerasllm.vision import VisionConfig, VisionTransformer

_PATCHES = "patch_embedding/projection"
_OF_BOTH = (
    setting("norm_epsilon", "layer_norm_eps"),
    choice("activation", "hidden_act", ACTIVATIONS),
    ignored("tie_word_embeddings", "is_causal"),  # of no table, and what each always is
)
_TEXT = (*SIZES, setting("max_length", "max_position_embeddings"), *_OF_BOTH, always(positions="learned"))
_DROPOUT = setting("attention_dropout", default=0.0)


def _square(settings, name):
    """A height and width that must be the same."""
    size = settings.take(name)
    sides = set(size) if isinstance(size, list | tuple) else {size}
    if len(sides) > 1:
        settings.refuse(name, size, "a height that is the width")
    return sides.pop()


def _sides(name):
    return Row(lambda settings, _: {name: _square(settings, name)}, lambda config: {name: getattr(config, name)})


_VISION = (
    *SIZES[1:],
    _sides("image_size"),
    _sides("patch_size"),
    setting("channels", "num_channels"),
    *_OF_BOTH,
)
_POOLING_HEAD = Row(
    lambda settings, _: {"pooling": "attention" if settings.take("vision_use_head") else None},
    lambda config: {"vision_use_head": config.pooling == "attention"},
)
_CLIP_VISION = (
    *_VISION,
    _DROPOUT,
    ignored("projection_dim"),
    always(class_token=True, patch_bias=False, input_norm=True, pooling="first"),
)
_SIGLIP_VISION = (*_VISION, _DROPOUT, _POOLING_HEAD)
_IDEFICS_VISION = (*_VISION, _DROPOUT, always(pooling=None))
_VIT = (
    *_VISION,
    setting("dropout", "hidden_dropout_prob"),
    setting("attention_dropout", "attention_probs_dropout_prob"),
    setting("qkv_bias"),
    ignored("pooler_output_size", "pooler_act", "encoder_stride"),
    always(class_token=True, pooling="first"),
)

# A block of CLIP, SigLIP and what is made of them, of pictures and of texts.
_BLOCK = {
    **layer_norm("attention_norm", "layer_norm1"),
    **dense("attention/query_key_value", "self_attn.{}_proj", "q", "k", "v"),
    **dense("attention/output", "self_attn.out_proj"),
    **layer_norm("feed_forward_norm", "layer_norm2"),
    **dense("feed_forward/inner", "mlp.fc1"),
    **dense("feed_forward/outer", "mlp.fc2"),
}
_BLOCKS = in_blocks(_BLOCK, "transformer/block_#", "encoder.layers.#")
_POOLING = {
    "pooling/probe": Source(("head.probe",), as_row=2),
    "pooling/query_key_value/kernel": Source(("head.attention.in_proj_weight",), transposed=True),
    "pooling/query_key_value/bias": plain("head.attention.in_proj_bias"),
    **dense("pooling/output", "head.attention.out_proj"),
    **layer_norm("pooling/norm", "head.layernorm"),
    **dense("pooling/feed_forward/inner", "head.mlp.fc1"),
    **dense("pooling/feed_forward/outer", "head.mlp.fc2"),
}
_VIT_BLOCK = {
    **layer_norm("attention_norm", "layernorm_before"),
    **dense("attention/query_key_value", "attention.attention.{}", "query", "key", "value"),
    **dense("attention/output", "attention.output.dense"),
    **layer_norm("feed_forward_norm", "layernorm_after"),
    **dense("feed_forward/inner", "intermediate.dense"),
    **dense("feed_forward/outer", "output.dense"),
}


def _patches(config, theirs):
    return {
        f"{_PATCHES}/kernel": Source((f"{theirs}.weight",), patch=config.patch_size),
        f"{_PATCHES}/bias": plain(f"{theirs}.bias"),
    }


def _vision_weights(config, _=None):
    return {
        **_patches(config, "embeddings.patch_embedding"),
        "patch_embedding/class_token": plain("embeddings.class_embedding"),
        "patch_embedding/positions": plain("embeddings.position_embedding.weight"),
        **layer_norm("transformer/input_norm", "pre_layrnorm"),
        **_BLOCKS,
        **layer_norm("transformer/final_norm", "post_layernorm"),
        **_POOLING,
    }


def _vit_weights(config, _=None):
    return {
        **_patches(config, "embeddings.patch_embeddings.projection"),
        "patch_embedding/class_token": Source(("embeddings.cls_token",), as_row=2),
        "patch_embedding/positions": Source(("embeddings.position_embeddings",), as_row=1),
        **in_blocks(_VIT_BLOCK, "transformer/block_#", "encoder.layer.#"),
        **layer_norm("transformer/final_norm", "layernorm"),
    }


def _text_weights(config, _=None):
    return {
        "token_embedding/embeddings": plain("embeddings.token_embedding.weight"),
        "token_embedding/reverse_embeddings": linear("lm_head"),  # which no file has
        "transformer/position_embedding/embeddings": plain("embeddings.position_embedding.weight"),
        **_BLOCKS,
        **layer_norm("transformer/final_norm", "final_layer_norm"),
    }


def _vision(architecture, rows, weights=_vision_weights, model=VisionTransformer):
    return Family(architecture, model, rows, weights)


ENCODERS = {
    "vit": _vision("ViTForImageClassification", _VIT, _vit_weights, ImageClassifier),
    "clip_vision_model": _vision("CLIPVisionModel", _CLIP_VISION),
    "siglip_vision_model": _vision("SiglipVisionModel", _SIGLIP_VISION),
    "idefics3_vision": _vision("Idefics3VisionTransformer", _IDEFICS_VISION),
    "smolvlm_vision": _vision("SmolVLMVisionTransformer", _IDEFICS_VISION),
    "clip_text_model": Family(
        "CLIPTextModel", ContrastiveModel, (*_TEXT, _DROPOUT, ignored("projection_dim", "eos_token_id")), _text_weights
    ),
    "siglip_text_model": Family(
        "SiglipTextModel", ContrastiveModel, (*_TEXT, _DROPOUT, ignored("projection_size")), _text_weights
    ),
}


def read_encoder(values, kind, path):
    """The `VisionConfig` that a part of config.json asks for.

    Args:
        values: dict.
        kind: str, its `model_type` where it does not say one itself.
        path: where it is from, for messages.
    """
    values = {"model_type": kind, **values}
    kind = values["model_type"]
    kinds = [name for name, family in ENCODERS.items() if family.model is not ContrastiveModel]
    if kind not in kinds:
        raise ValueError(f"{path} has an encoder of pictures of type {kind!r}; kerasllm reads {', '.join(kinds)}.")
    settings = Settings(values, path)
    fields = ENCODERS[kind].fields(settings)
    settings.finish()
    try:
        return VisionConfig.from_dict(fields)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} describes no encoder that kerasllm can make: {error}") from error


def write_encoder(config, kinds, **fields):
    """What config.json says of a `VisionConfig`: of the first of some kinds that computes the same.

    Args:
        config: VisionConfig.
        kinds: names of `ENCODERS`.
        **fields: of the config, where whoever reads the encoder decides what they are.

    Raises:
        ValueError: if none does.
    """
    for kind in kinds:
        values = {"model_type": kind, **ENCODERS[kind].settings(config)}
        found = computed(dataclasses.replace(read_encoder(values, kind, "config.json"), **fields))
        differing = [name for name, value in computed(config).items() if value != found[name]]
        if not differing:
            return values
    what = " and ".join(f"{name}={getattr(config, name)!r} (there {found[name]!r})" for name in differing)
    raise ValueError(
        f"No encoder of Hugging Face computes what this one does: from {kinds[-1]} it differs in {what}. Only a run "
        "folder can hold it."
    )


def computed(config):
    """The fields of a `VisionConfig` that change vectors, with nothing left to be inferred."""
    left_out = {"dropout", "attention_dropout", "remat", "max_length"}
    return {name: value for name, value in explicit(config).to_dict().items() if name not in left_out}
