"""CLIP (https://arxiv.org/abs/2103.00020) and SigLIP (https://arxiv.org/abs/2303.15343), SigLIP 2 of fixed resolution
among them, whose files are SigLIP's."""

from kerasllm.huggingface.names import Source, dense, linear, placed, plain
from kerasllm.huggingface.pictures.encoders import ENCODERS, read_encoder, write_encoder
from kerasllm.huggingface.pictures.sighted import Sighted
from kerasllm.models import ContrastiveModel

_END_BEFORE = 2  # what config.json said of CLIP's end token once, which is the highest id


def _weights(config, values):
    vision = read_encoder(values["vision_config"], f"{values['model_type']}_vision_model", "config.json")
    return {
        **placed(ENCODERS[f"{values['model_type']}_text_model"].weights(config), "", "text_model."),
        **placed(ENCODERS[f"{values['model_type']}_vision_model"].weights(vision), "vision/", "vision_model."),
        "head_image/kernel": linear("visual_projection"),
        **(dense("head_text", "text_model.head") if values["model_type"] == "siglip" else {}),
        **({"head_text/kernel": linear("text_projection")} if values["model_type"] == "clip" else {}),
        "logit_scale": Source(("logit_scale",), as_number=values["model_type"] == "clip"),
        "logit_bias": plain("logit_bias"),
    }


def _read_clip(values, path):
    end = values["text_config"].get("eos_token_id", 49407)
    return {
        "vision": read_encoder(values["vision_config"], "clip_vision_model", path),
        "width": values.get("projection_dim", 512),
        "loss_kind": "softmax",
        "causal": True,
        "pooling": "end",
        "end_id": None if end == _END_BEFORE else end,
    }


def _read_siglip(values, path):
    vision, text = read_encoder(values["vision_config"], "siglip_vision_model", path), values["text_config"]
    if vision.pooling is None:
        raise ValueError(f"{path} has an encoder without the head (vision_use_head=False) whose vectors are compared.")
    width = text.get("projection_size") or text.get("hidden_size", 768)
    if width != vision.d_model:
        raise ValueError(f"{path} has vectors of texts of width {width} and of pictures of width {vision.d_model}.")
    return {
        "vision": vision,
        "width": width,
        "loss_kind": "sigmoid",
        "causal": False,
        "pooling": "last",
        "projects_images": False,
        "use_bias": True,
    }


def _write(kind, model, text):
    values = {"text_config": text, "vision_config": write_encoder(model.vision, [f"{kind}_vision_model"])}
    if kind == "siglip":
        values["text_config"]["projection_size"] = model.width
        return values
    values["text_config"] |= {"projection_dim": model.width, "eos_token_id": model.end_id or _END_BEFORE}
    values["vision_config"]["projection_dim"] = model.width
    return {**values, "projection_dim": model.width}


def _sighted(kind, architecture, read):
    text_kind = f"{kind}_text_model"
    return Sighted(
        architecture,
        ContrastiveModel,
        {text_kind: ENCODERS[text_kind]},
        text_kind,
        read,
        lambda model, text: _write(kind, model, text),
        _weights,
        unused=r"position_ids$",
    )


FAMILIES = {
    "clip": _sighted("clip", "CLIPModel", _read_clip),
    "siglip": _sighted("siglip", "SiglipModel", _read_siglip),
}
