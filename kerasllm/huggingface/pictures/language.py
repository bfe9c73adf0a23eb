"""Causal language models that see: LLaVA 1.5 (https://arxiv.org/abs/2310.03744), PaliGemma
(https://arxiv.org/abs/2407.07726), Idefics 3 (https://arxiv.org/abs/2408.12637), SmolVLM
(https://arxiv.org/abs/2504.05299) and Gemma 3 (https://arxiv.org/abs/2503.19786)."""

import dataclasses
import re

from kerasllm.huggingface.families.family import ACTIVATIONS, name_of
from kerasllm.huggingface.families.gemma import FAMILIES as GEMMA_FAMILIES
from kerasllm.huggingface.families.llama import FAMILIES as LLAMA_FAMILIES
from kerasllm.huggingface.names import Source, dense, linear, placed, plain
from kerasllm.huggingface.pictures.encoders import ENCODERS, read_encoder, write_encoder
from kerasllm.huggingface.pictures.sighted import TIED, Sighted
from kerasllm.models import VisionLanguageModel
from kerasllm.vision import ProjectorConfig

_FAMILIES = {**LLAMA_FAMILIES, **GEMMA_FAMILIES}  # whose tensors are all named as Llama's are
_OLDER_NAMES = (
    (r"^model\.(?=vision_tower\.|multi_modal_projector\.)", ""),
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^vision_tower\.vision_model\.", "vision_tower."),
)


def _weights(language, encoder, projector, roots):
    """A function as `Sighted.weights`.

    Args:
        language, encoder: str, the `model_type` of a half that does not say one.
        projector: dict from names within ours to `Source`s.
        roots: what names begin with: of the language model's layers, of its output layer, and of the encoder.
    """
    of_layers, of_output, of_encoder = roots

    def named(name):
        return re.sub(r"^model\.", of_layers, name) if name.startswith("model.") else f"{of_output}{name}"

    def weights(config, values):
        text, encoded = values.get("text_config") or {}, values.get("vision_config") or {}
        table = _FAMILIES[text.get("model_type", language)].weights(config, text)
        kind, vision = encoded.get("model_type", encoder), read_encoder(encoded, encoder, "config.json")
        return {
            **{name: source._replace(names=tuple(map(named, source.names))) for name, source in table.items()},
            **placed(ENCODERS[kind].weights(vision), "vision/", of_encoder),
            **placed(projector, "projector/"),
        }

    return weights


def _common(values, path, encoder, token="image_token_id", default=None, **fields):
    """What all read: the encoder, without a vector of whole pictures, and the id of image tokens."""
    vision = read_encoder(values.get("vision_config") or {}, encoder, path)
    found = values.get(token, values.get("image_token_id", default))
    return {"vision": dataclasses.replace(vision, pooling=None, **fields), "image_token_id": found}


def _write_common(model, text, kinds, token="image_token_id", **fields):
    return {
        "text_config": text,
        "vision_config": write_encoder(model.vision, kinds, pooling=None, **fields),
        token: model.image_token_id,
        TIED: model.config.tie_embeddings,
    }


# LLaVA


def _read_llava(values, path):
    layer, strategy = values.get("vision_feature_layer", -2), values.get("vision_feature_select_strategy", "default")
    found = _common(values, path, "clip_vision_model", "image_token_index", 32000, final_norm=False)
    vision = found["vision"]
    if not isinstance(layer, int) or not -vision.num_layers <= layer < vision.num_layers + 1 or layer == 0:
        raise ValueError(f"{path} asks for vision_feature_layer={layer!r}; kerasllm reads one layer of the encoder.")
    if strategy not in ("default", "full") or (strategy == "default" and not vision.class_token):
        raise ValueError(
            f"{path} asks for vision_feature_select_strategy={strategy!r}; kerasllm computes 'full', and of encoders "
            "with a class token 'default'."
        )
    layers = layer if layer > 0 else vision.num_layers + 1 + layer
    name = values.get("projector_hidden_act", "gelu")
    if name not in ACTIVATIONS:
        raise ValueError(f"{path} asks for projector_hidden_act={name!r}; kerasllm knows {', '.join(ACTIVATIONS)}.")
    bias = values.get("multimodal_projector_bias", True)
    return {
        "vision": dataclasses.replace(vision, num_layers=layers),
        "image_token_id": found["image_token_id"],
        "projector": ProjectorConfig("mlp", activation=ACTIVATIONS[name], use_bias=bias),
        "attention": "causal",
        "keeps_class_token": strategy == "full" and vision.class_token,
    }


def _write_llava(model, text):
    kinds = ["clip_vision_model", "siglip_vision_model"]
    keeps_all = model.keeps_class_token or not model.vision.class_token
    return {
        **_write_common(model, text, kinds, "image_token_index", final_norm=False),
        "vision_feature_layer": -1,  # of those up to the one that is read, which are all that there are
        "vision_feature_select_strategy": "full" if keeps_all else "default",
        "projector_hidden_act": name_of(model.projector.activation, ACTIVATIONS),
        "multimodal_projector_bias": model.projector.use_bias,
        "image_seq_length": model.tokens_per_image,
    }


def _llava_zeros(values):
    D = values["vision_config"]["hidden_size"]
    return {f"vision_tower.post_layernorm.{name}": (D,) for name in ("weight", "bias")}


# PaliGemma


def _read_paligemma(values, path):
    return {
        **_common(values, path, "siglip_vision_model", "image_token_index", 256000),
        "projector": ProjectorConfig("linear"),
        "attention": "prefix",
        "keeps_class_token": False,
    }


def _write_paligemma(model, text):
    return {
        **_write_common(model, text, ["siglip_vision_model"], "image_token_index"),
        "projection_dim": model.config.d_model,
        "hidden_size": model.config.d_model,
    }


# Idefics 3 and SmolVLM


def _read_idefics(encoder):
    def read(values, path):
        return {
            **_common(values, path, encoder, default=128257),
            "projector": ProjectorConfig("pixel_shuffle", factor=values.get("scale_factor", 2), use_bias=False),
            "attention": "causal",
            "keeps_class_token": False,
        }

    return read


def _write_idefics(encoder):
    def write(model, text):
        return {**_write_common(model, text, [encoder]), "scale_factor": model.projector.factor}

    return write


# Gemma 3


def _read_gemma3(values, path):
    found = _common(values, path, "siglip_vision_model", "image_token_index", 262144)
    vision, tokens = found["vision"], values.get("mm_tokens_per_image", 256)
    side = round(tokens**0.5)
    if side**2 != tokens or vision.grid % side:
        raise ValueError(
            f"{path} asks for mm_tokens_per_image={tokens}, whose square root must divide the patches in a row, "
            f"{vision.grid}."
        )
    epsilon = vision.norm_epsilon
    return {
        **found,
        "projector": ProjectorConfig("average", factor=vision.grid // side, use_bias=False, norm_epsilon=epsilon),
        "attention": "image",
        "keeps_class_token": False,
    }


def _write_gemma3(model, text):
    return {
        **_write_common(model, text, ["siglip_vision_model"], "image_token_index"),
        "mm_tokens_per_image": model.tokens_per_image,
    }


_TOWER = ("language_model.model.", "language_model.", "vision_tower.")
_IDEFICS = ("model.text_model.", "", "model.vision_model.")
_CONNECTOR = {"outer/kernel": linear("model.connector.modality_projection.proj")}
_PROJECTOR = "multi_modal_projector"


def _idefics(architecture, encoder):
    return Sighted(
        architecture,
        VisionLanguageModel,
        _FAMILIES,
        "llama",
        _read_idefics(encoder),
        _write_idefics(encoder),
        _weights("llama", encoder, _CONNECTOR, _IDEFICS),
        ties=False,
    )


FAMILIES = {
    "llava": Sighted(
        "LlavaForConditionalGeneration",
        VisionLanguageModel,
        _FAMILIES,
        "llama",
        _read_llava,
        _write_llava,
        _weights(
            "llama",
            "clip_vision_model",
            {**dense("inner", f"{_PROJECTOR}.linear_1"), **dense("outer", f"{_PROJECTOR}.linear_2")},
            _TOWER,
        ),
        renames=_OLDER_NAMES,
        unused=r"position_ids$|^vision_tower\.(encoder\.layers\.\d+|post_layernorm|head)\.",
        zeros=_llava_zeros,
    ),
    "paligemma": Sighted(
        "PaliGemmaForConditionalGeneration",
        VisionLanguageModel,
        _FAMILIES,
        "gemma",
        _read_paligemma,
        _write_paligemma,
        _weights("gemma", "siglip_vision_model", dense("outer", f"{_PROJECTOR}.linear"), _TOWER),
        ties=True,
        renames=_OLDER_NAMES,
        unused=r"position_ids$|^vision_tower\.head\.",
    ),
    "smolvlm": _idefics("SmolVLMForConditionalGeneration", "smolvlm_vision"),
    "idefics3": _idefics("Idefics3ForConditionalGeneration", "idefics3_vision"),
    "gemma3": Sighted(
        "Gemma3ForConditionalGeneration",
        VisionLanguageModel,
        _FAMILIES,
        "gemma3_text",
        _read_gemma3,
        _write_gemma3,
        _weights(
            "gemma3_text",
            "siglip_vision_model",
            {
                "norm/scale": Source((f"{_PROJECTOR}.mm_soft_emb_norm.weight",), offset=1.0),
                "outer/kernel": plain(f"{_PROJECTOR}.mm_input_projection_weight"),
            },
            _TOWER,
        ),
        ties=True,
        renames=_OLDER_NAMES,
        unused=r"position_ids$|^vision_tower\.head\.",
    ),
}
