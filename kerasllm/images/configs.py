"""Hugging Face's preprocessor_config.json and processor_config.json as arguments of `ImageProcessor`, and back.

A row for each kind of processor: what its fields are where a file leaves them out.
"""

from pathlib import Path

from kerasllm.files import read_json, write_json
from kerasllm.images.placeholders import ImageTokens
from kerasllm.images.resampling import RESAMPLE
from kerasllm.images.tiles import PanAndScan, Tiling

FILE, OUTER_FILE = "preprocessor_config.json", "processor_config.json"
_HALF = [0.5, 0.5, 0.5]
_CLIP = {
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "resample": 3,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_SIGLIP = {"size": {"height": 224, "width": 224}, "resample": 3, "image_mean": _HALF, "image_std": _HALF}
_TILED = {
    "size": {"longest_edge": 1456},
    "max_image_size": {"longest_edge": 364},
    "do_image_splitting": True,
    "resample": 1,
    "image_mean": _HALF,
    "image_std": _HALF,
}
_KINDS = {
    "CLIP": _CLIP,
    "Siglip": _SIGLIP,
    "ViT": {**_SIGLIP, "resample": 2},
    "Llava": _CLIP,
    "Idefics3": _TILED,
    "SmolVLM": _TILED,
    "Gemma3": {**_SIGLIP, "resample": 2},
}
# Ends of the names of one kind of processor, through the versions of transformers.
_ENDS = "ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor"


def load(cls, path):
    """What `ImageProcessor.load` gives."""
    config, place = _read(Path(path))
    kind = _kind(config, place)
    given = {name: value for name, value in config.items() if value is not None}
    fields = {**_KINDS[kind], **given}
    for name in ("do_resize", "do_normalize", "do_rescale"):
        if not config.get(name, True):
            fields = _without(name, fields, place)
    try:
        return cls(
            **_sizes(kind, fields, place),
            resample=RESAMPLE[fields["resample"]],
            mean=_numbers(fields["image_mean"]),
            std=_numbers(fields["image_std"]),
            rescale_factor=fields.get("rescale_factor", 1 / 255),
            tokens=_tokens(kind, fields),
        )
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"{place} has a field of another form than transformers writes: {error}.") from error


def save(processor, folder):
    """What `ImageProcessor.save` writes."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder} to save an image processor in.")
    height, width = processor.size
    fields = {
        "image_processor_type": f"{_kind_of(processor)}ImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": RESAMPLE.index(processor.resample),
        "do_rescale": True,
        "rescale_factor": processor.rescale_factor,
        "do_normalize": True,
        "image_mean": list(processor.mean),
        "image_std": list(processor.std),
    }
    if isinstance(processor.tiles, Tiling):
        fields |= {
            "size": {"longest_edge": processor.tiles.longest_edge},
            "max_image_size": {"longest_edge": height},
            "do_image_splitting": processor.tiles.split,
            "do_pad": True,
        }
    elif processor.resize_to is None:
        fields |= {"size": {"height": height, "width": width}}
    else:
        to = processor.resize_to
        resized = {"shortest_edge": to} if isinstance(to, int) else dict(zip(("height", "width"), to, strict=True))
        fields |= {"size": resized, "crop_size": {"height": height, "width": width}, "do_center_crop": True}
    if isinstance(processor.tiles, PanAndScan):
        fields |= {
            "do_pan_and_scan": True,
            "pan_and_scan_min_crop_size": processor.tiles.min_crop_size,
            "pan_and_scan_max_num_crops": processor.tiles.max_crops,
            "pan_and_scan_min_ratio_to_activate": processor.tiles.min_ratio,
        }
    if processor.pad_to_square:
        fields["do_pad"] = True
    if processor.tokens:
        fields["image_tokens"] = dict(vars(processor.tokens))  # ours; transformers keeps them beside the tokenizer
    write_json(folder / FILE, fields)


def _read(path):
    """The fields of the image processor and of what it is part of, and the file that errors are to name."""
    folder = path.parent if path.is_file() else path
    inner, outer = folder / FILE, folder / OUTER_FILE
    if not inner.is_file() and not outer.is_file():
        raise FileNotFoundError(
            f"{path} has no {FILE}, which says how a model's images are made: checkpoints of models that see have one "
            "in Hugging Face's format, and ImageProcessor(...).save(folder) writes one."
        )
    around = read_json(outer) if outer.is_file() else {}
    within = read_json(inner) if inner.is_file() else around.pop("image_processor", {})
    return {**around, **within}, inner if inner.is_file() else outer


def _kind(config, place):
    name = config.get("image_processor_type") or config.get("feature_extractor_type") or ""
    end = next((end for end in _ENDS if name.endswith(end)), "")
    kind = name.removesuffix(end)
    if kind not in _KINDS:
        raise ValueError(
            f"{place} is of an image processor {name!r}, and those of {', '.join(_KINDS)} are known: make one with "
            "ImageProcessor(...)."
        )
    return kind


def _without(step, fields, place):
    """Fields for a step that a file leaves out, where that can be had."""
    if step == "do_normalize":
        return {**fields, "image_mean": 0.0, "image_std": 1.0}
    if step == "do_rescale":
        return {**fields, "rescale_factor": 1.0}
    raise ValueError(f"{place} says {step}: false, and images of all sizes do not fit into one model's: resize them.")


def _sizes(kind, fields, place):
    size = fields["size"]
    crop = fields.get("crop_size") if fields.get("do_center_crop") else None
    if _KINDS[kind] is _TILED:
        tiles = Tiling(size["longest_edge"], bool(fields["do_image_splitting"]))
        return {"size": fields["max_image_size"]["longest_edge"], "tiles": tiles}
    if isinstance(size, dict):
        wanted = size.get("shortest_edge") or (size["height"], size["width"])
    else:
        wanted = size if crop else (size, size)
    made = {"size": _pair(crop), "resize_to": wanted} if crop else {"size": wanted}
    if isinstance(made["size"], int):
        raise ValueError(
            f"{place} keeps the form of an image, with its shortest edge at {wanted} and nothing cut off, so that no "
            "two of them fit into a batch: give do_center_crop and crop_size."
        )
    if made["size"] == made.get("resize_to"):
        del made["resize_to"]
    if kind == "Gemma3" and fields.get("do_pan_and_scan"):
        names = "min_crop_size", "max_num_crops", "min_ratio_to_activate"
        values = [
            fields.get(f"pan_and_scan_{name}", default) for name, default in zip(names, (256, 4, 1.2), strict=True)
        ]
        made["tiles"] = PanAndScan(*values)
    return {**made, "pad_to_square": kind == "Llava" and bool(fields.get("do_pad"))}


def _pair(size):
    return (size["height"], size["width"]) if isinstance(size, dict) else (size, size)


def _numbers(value):
    return tuple(value) if isinstance(value, list | tuple) else value


def _tokens(kind, fields):
    """What stands for an image in a text, where these files say so."""
    if isinstance(ours := fields.get("image_tokens"), dict):
        return ImageTokens(**ours)
    if kind in ("Idefics3", "SmolVLM") and "image_seq_len" in fields:
        return ImageTokens(fields["image_seq_len"], "<image>", "tiles")
    if kind == "Gemma3":
        return ImageTokens(fields.get("image_seq_length", 256), "<image_soft_token>", "crops")
    if "image_seq_length" in fields:
        return ImageTokens(fields["image_seq_length"])
    if fields.get("patch_size") and fields.get("processor_class") == "LlavaProcessor":
        height, width = _pair(fields["crop_size"] if fields.get("do_center_crop") else fields["size"])
        count = (height // fields["patch_size"]) * (width // fields["patch_size"])
        count += fields.get("num_additional_image_tokens", 0)
        count -= fields.get("vision_feature_select_strategy") == "default"
        return ImageTokens(count, fields.get("image_token", "<image>"))
    return None


def _kind_of(processor):
    """The kind of Hugging Face's processors that does the same."""
    if isinstance(processor.tiles, Tiling):
        return "SmolVLM"
    if isinstance(processor.tiles, PanAndScan):
        return "Gemma3"
    if processor.pad_to_square:
        return "Llava"
    return "Siglip" if processor.resize_to is None else "CLIP"
