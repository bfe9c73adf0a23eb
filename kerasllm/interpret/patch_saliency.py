"""What of an image speaks for what a model writes of it, and where it looks as it does.

Shapes: R rows of a batch, K logits that are asked for, N patches or image tokens of all pictures, h x w parts of an
image.
"""

import dataclasses
import math

import numpy as np
from keras import ops

from kerasllm.images import Tiling, read_image
from kerasllm.images.resampling import resized
from kerasllm.interpret.drawings import OnImage
from kerasllm.interpret.input_saliency import Saliency, saliency_of, values_of
from kerasllm.interpret.pictures import Picture
from kerasllm.interpret.reading import ask, read
from kerasllm.interpret.recording import activations
from kerasllm.models import VisionLanguageModel

_LONGEST_EDGE = 512  # pixels of the image that is drawn on


@dataclasses.dataclass(frozen=True)
class ImageSaliency(Picture):
    """What of an image speaks for what a model writes. See `image_saliency`.

    Attributes:
        image: uint8 (H, W, 3), what the model has seen of it, not larger than 512 pixels.
        saliency: float64 (K, h, w), what each patch of the image adds to each logit.
        attention: float64 (K, h, w), how much of its attention the place that says each token gives to each part: the
            mean of all heads of all layers of the language model. What is missing to 1 goes to the text.
        text: `Saliency` of the text's tokens, the image being one of them: what was asked for is its `targets`.
    """

    image: np.ndarray
    saliency: np.ndarray
    attention: np.ndarray
    text: Saliency

    def _drawing(self):
        rows = self.text.targets
        if self.text.contrasts:
            rows = [f"{one} / {other}" for one, other in zip(rows, self.text.contrasts, strict=True)]
        share = self.attention.sum(axis=(1, 2))
        maps = [
            [
                (f"{row}: speaks for it (blue) or against it (red)", saliency),
                (f"{row}: looked at, {seen:.0%} of all attention", attention),
            ]
            for row, saliency, attention, seen in zip(rows, self.saliency, self.attention, share, strict=True)
        ]
        return OnImage(self.image, maps)


def image_saliency(
    model,
    tokenizer,
    image,
    text="",
    target=None,
    *,
    processor=None,
    contrast=None,
    method="integrated_gradients",
    baseline="mean",
    steps=16,
    batch_size=8,
):
    """What of an image speaks for what a model writes of it, and where it looks.

    Args:
        model: a `VisionLanguageModel`, of whose projector each image token is a part of the image.
        tokenizer: its `Tokenizer`.
        image: as in `images.read_image`.
        text: str, as in `data.image_prompt`.
        target: str or None, what the model writes then, of which each token is explained; None for the likeliest token.
        processor: `ImageProcessor`; None for the model's own.
        contrast, method, baseline: see `saliency`. Where there is no patch, all its pixel values are 0.
        steps: int, points on the way of integrated gradients, at each of which the encoder reads all pictures for each
            token; None for as many as it takes to be right to 1 %.
        batch_size: int, so many times the prompt is read at once.

    Returns:
        `ImageSaliency`.

    Raises:
        TypeError: for other models.
        ValueError: for a perceiver, whose tokens are no parts of an image, and as `saliency` and `data.image_prompt`.

    Example:
        >>> found = interpret.image_saliency(model, tokenizer, "cat.jpg", "What is it?", " A cat")
        >>> found.save("cat.html")
    """
    if not isinstance(model, VisionLanguageModel):
        raise TypeError(f"A VisionLanguageModel sees images, got a {type(model).__name__}.")
    if model.projector.kind == "perceiver":
        raise ValueError("A perceiver's tokens see all of an image, and are no parts of it: use `saliency`.")
    processor = getattr(model, "image_processor", None) if processor is None else processor
    if processor is None:
        raise ValueError(
            "The model has no image_processor: give processor=ImageProcessor(...), which it was trained with."
        )
    image = read_image(image)
    from kerasllm.data import image_prompt  # here, as data sets need TensorFlow, and the rest of this room does not

    read_text = read(model, tokenizer, image_prompt(tokenizer, processor, image, text), target)
    question = ask(model, read_text, target, contrast)
    of_text = saliency_of(model, read_text, question, method, baseline, steps, batch_size)
    of_patches = _patch_saliency(model, read_text.inputs, question, method, steps, batch_size)
    is_image = read_text.inputs["token_ids"][0] == model.image_token_id
    probabilities = [
        array[0].mean(axis=0)
        for name, array in activations(model, read_text.inputs, "probabilities", chunk_size=float("inf")).items()
        if name.startswith("transformer/")
    ]
    attention = np.mean(probabilities, axis=0)[question.positions][:, is_image].astype("float64")
    grid, tiles_first = processor.grid(image), isinstance(processor.tiles, Tiling)
    return ImageSaliency(
        _shown_image(image, processor),
        _on_image(of_patches, model.vision.num_patches, tiles_first, *grid),
        _on_image(attention, model.tokens_per_image, tiles_first, *grid),
        _with_one_image(of_text, is_image),
    )


def _patch_saliency(model, inputs, question, method, steps, batch_size):
    """What each patch adds to each logit, float64 (K, N); where there is none, all its pixel values are 0."""
    pixels = inputs["pixel_values"].astype("float64")
    count, height, width, channels = pixels.shape
    size = model.vision.patch_size
    patches = pixels.reshape(count, height // size, size, width // size, size, channels).swapaxes(2, 3)
    patches = patches.reshape(-1, size * size * channels)
    of_patches = _OfPatches(model, inputs, size)
    return values_of(of_patches, [patches], [0 * patches], question, method, steps, batch_size)[0]


class _OfPatches:
    """A model as a function of the patches of its pictures, float (R, N, pixels of a patch)."""

    _embeddings, compute_dtype = ("patches",), "float32"

    def __init__(self, model, inputs, size):
        self._model, self._size, self._pixels_shape = model, size, inputs["pixel_values"].shape
        self._inputs = {name: value for name, value in inputs.items() if name != "pixel_values"}

    def __call__(self, inputs, training):
        (count, height, width, channels), size = self._pixels_shape, self._size
        x, R = inputs["patches"], ops.shape(inputs["patches"])[0]
        x = ops.reshape(x, (R * count, height // size, width // size, size, size, channels))
        x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (R, count, height, width, channels))
        repeated = {name: ops.repeat(value, R, axis=0) for name, value in self._inputs.items()}
        return self._model({**repeated, "pixel_values": x}, training=training)


def _on_image(values, of_each, tiles_first, rows, columns):
    """Values of parts of pictures (K, N), `of_each` of a picture, in the places of an image, (K, h, w): those of tiles
    or crops, and with them, in equal parts, those of the image as a whole."""
    K, side = len(values), math.isqrt(of_each)
    pictures = values.reshape(K, -1, of_each)[:, :, of_each - side**2 :]  # without a class token
    pictures = pictures.reshape(K, -1, side, side)
    if not rows:
        return pictures[:, 0]
    whole, tiles = (pictures[:, -1], pictures[:, :-1]) if tiles_first else (pictures[:, 0], pictures[:, 1:])
    tiles = tiles.reshape(K, rows, columns, side, side).transpose(0, 1, 3, 2, 4)
    spread = whole.repeat(rows, axis=1).repeat(columns, axis=2) / (rows * columns)
    return tiles.reshape(K, rows * side, columns * side) + spread


def _shown_image(image, processor):
    """What the model has seen of an image: all of it, or what the processor has cut out."""
    if processor.resize_to is not None or processor.pad_to_square:
        (values,) = processor(image)[:1]
        values = (values * np.array(processor.std) + np.array(processor.mean)) / processor.rescale_factor
        image = np.clip(np.round(values), 0, 255).astype("uint8")
    scale = min(1.0, _LONGEST_EDGE / max(image.shape[:2]))
    height, width = (max(1, round(scale * length)) for length in image.shape[:2])
    return resized(np.ascontiguousarray(image), height, width, "bilinear")


def _with_one_image(found, is_image):
    """A `Saliency` in which an image is one token."""
    begins = np.flatnonzero(is_image)[0]
    kept = [place for place in range(len(found.tokens)) if place == begins or not is_image[place]]
    values = found.values[:, kept].copy()
    values[:, kept.index(begins)] = found.values[:, is_image].sum(axis=1)
    tokens = ["image" if place == begins else found.tokens[place] for place in kept]
    return dataclasses.replace(found, tokens=tokens, values=values)
