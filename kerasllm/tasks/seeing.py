"""What tasks share whose models see: images with texts, an encoder, and how images are made for it."""

import hashlib

import kerasllm
from kerasllm.tasks.over_a_base import OverABaseTask
from kerasllm.tasks.task import OF_CLASSIFYING

VALIDATION_SHARE, MOST_VALIDATION_IMAGES = 0.1, 1000  # of the data, where nothing is given to measure on
DEFAULT_VISION = {"image_size": 64, "patch_size": 8}  # and as wide and deep as what reads the text


class SeeingTask(OverABaseTask):
    """Images with texts. A subclass says also `own_fields`, those of `model` that its class takes beside the config."""

    unused_settings = (*OverABaseTask.unused_settings, *OF_CLASSIFYING, "test", "sample")
    own_fields = ("vision",)

    def __init__(self, settings):
        super().__init__(settings)
        self.processor = None  # the `ImageProcessor`, once `config` is done

    def model_fields(self):
        return {name: value for name, value in self.settings.model.items() if name not in self.own_fields}

    def _mapping(self, name, default):
        """A field of `model` that is a mapping."""
        given = self.settings.model.get(name, default)
        if not isinstance(given, dict):
            raise ValueError(
                f"model.{name} takes a mapping, such as model.{name}.{next(iter(default))}=…, not {given!r}."
            )
        return given

    def _new_vision(self, config):
        """The `VisionConfig` of a new encoder beside a Transformer of that config."""
        sizes = ("num_layers", "d_model", "num_heads", "dff", "dropout")
        given = self._mapping("vision", DEFAULT_VISION)
        usual = {**DEFAULT_VISION, **{name: getattr(config, name) for name in sizes}}
        if "d_model" in given:
            usual["dff"] = 4 * given["d_model"]
        return kerasllm.vision.VisionConfig.from_dict({**usual, **given})

    def measure(self):
        """Of images their places and sizes are looked at, and not what is in them."""
        if self._parts is None:
            self._parts = self._read()
        return {part: _measured(examples) for part, examples in self._parts.items()}

    def _read(self):
        settings = self.settings
        examples = examples_of(settings.data, settings.field)
        if settings.valid:
            return {"train": examples, "valid": examples_of(settings.valid, settings.field)}
        return dict(zip(("train", "valid"), _split(examples, settings.seed), strict=True))

    def texts(self):
        self.measure()
        return (text for example in self._parts["train"] for text in _texts_of(example))

    @classmethod
    def processor_of(cls, model):
        """The image processor of a trained model."""
        if model.image_processor is None:
            raise ValueError(
                f"Nothing says how images are made for this {type(model).__name__}: there was no "
                "preprocessor_config.json beside it. Set model.image_processor to a kerasllm.images.ImageProcessor."
            )
        return model.image_processor


def examples_of(sources, columns):
    """What `read_image_texts` reads, as a list; `columns` are none, or those of images and of texts."""
    image_field, text_field = columns or (None, None)
    found = list(kerasllm.data.read_image_texts(list(sources), image_field=image_field, text_field=text_field))
    if not found:
        raise ValueError(f"{', '.join(map(str, sources))} holds no images.")
    return found


def key_of(images):
    """What tells the images of an example from others, without a look into them."""
    return tuple((str(getattr(image, "path", image)), getattr(image, "offset", 0)) for image in images)


def by_image(examples):
    """The examples of each image, or group of images, a list of lists."""
    groups = {}
    for example in examples:
        groups.setdefault(key_of(example["images"]), []).append(example)
    return list(groups.values())


def _split(examples, seed):
    """Those to train on and those to measure on, by chance. All that is said of an image is on one side."""
    import numpy as np

    groups = by_image(examples)
    count = min(int(len(groups) * VALIDATION_SHARE), MOST_VALIDATION_IMAGES)
    if not count:
        raise ValueError(f"{len(groups)} images are too few to keep some for validation: give --valid.")
    held_out = {*np.random.default_rng([seed, 0]).permutation(len(groups))[:count].tolist()}
    parts = [], []
    for number, group in enumerate(groups):
        parts[number in held_out].extend(group)
    return parts


def _texts_of(example):
    """All texts of an example."""
    yield from (example[name] for name in ("prompt", "text") if name in example)
    for message in example.get("messages", ()):
        content = message["content"]
        parts = content if isinstance(content, list) else [{"text": content}]
        yield from (part["text"] for part in parts if isinstance(part.get("text"), str))


def _measured(examples):
    digest, size = hashlib.sha256(), 0
    for example in examples:
        for text in _texts_of(example):
            encoded = text.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
            size += len(encoded)
        for image in example["images"]:
            part = getattr(image, "size", None)  # of a part of a file
            length = part if part is not None else image.stat().st_size if image.is_file() else 0
            digest.update(f"{getattr(image, 'name', image)}:{length}".encode("utf-8", "surrogatepass"))
    return {"images": len(by_image(examples)), "texts": len(examples), "bytes": size, "sha256": digest.hexdigest()}
