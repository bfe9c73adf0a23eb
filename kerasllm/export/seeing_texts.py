"""What the SavedModel of a `VisionLanguageModel` answers: the bytes of an image and a text in, text out.

Shapes: B batch, I pictures of all texts, G grids that an image can be cut into.
"""

import math

import numpy as np
import tensorflow as tf

from kerasllm.data import image_prompt
from kerasllm.export.checks import check, fitting, traced_once
from kerasllm.export.prompt_layout import prompt_layout
from kerasllm.export.signatures import TEXT, ServedModel
from kerasllm.generation import generate
from kerasllm.generation.buffers import DEFAULT_NEW_TOKENS
from kerasllm.generation.samplers import Sampler
from kerasllm.images.in_graph import InGraphImageProcessor
from kerasllm.images.tiles import Tiling
from kerasllm.tasks.task import MOST_SAMPLE_TOKENS, SAMPLE

IMAGE = tf.TensorSpec((None,), tf.string, "image")
_SAMPLES = ("The", "", " what is it? ", "é\n<image>")
_SPACES = r"[\s\pZ\x0b\x1c-\x1f\x{85}]+"  # what Python's strip takes off


class ServedSeeing(ServedModel):
    """The functions of a SavedModel; `kerasllm.export.saved_model` says what they return.

    Args:
        model: a `VisionLanguageModel` with an `image_processor`.
        tokenizer, **asked: see `ServedIds`.
    """

    SIGNATURES = ("serving_default", "generate", "forward")

    def __init__(self, model, tokenizer, **asked):
        if asked.get("compiled"):
            raise ValueError("A SavedModel that takes images is a plain graph: leave `compiled` out.")
        super().__init__(model, tokenizer, **asked)
        processor = model.image_processor
        self._process, self._size = InGraphImageProcessor(processor), (*processor.size, 3)
        edges = processor.tiles.longest_edge / processor.size[0] if isinstance(processor.tiles, Tiling) else 0
        self._most = math.ceil(edges)  # rows, and columns
        grids = [(row, column) for row in range(self._most + 1) for column in range(self._most + 1)]
        self._layout = layout = prompt_layout(tokenizer, processor, [grid if all(grid) else (0, 0) for grid in grids])
        self._before = tf.ragged.constant([*layout.before, *layout.alone], tf.int32)
        self._behind = tf.ragged.constant([layout.behind, []], tf.int32)
        self._check(tokenizer, processor)
        self._see = traced_once(self._seen, IMAGE)
        self.generate = self._drawing(self._generate, IMAGE, TEXT)
        self.generate_ids = None  # in which nothing would stand for images

    @tf.function(input_signature=[IMAGE, TEXT], autograph=False)
    def serving_default(self, image, text):
        prompts, inputs = self._read(image, text)
        lengths = tf.cast(prompts.row_lengths(), tf.int32)
        limits = tf.minimum(tf.maximum(self._learned - lengths, 1), DEFAULT_NEW_TOKENS)
        greedy = Sampler(temperature=0.0)
        settings = {**greedy.settings(), "seed": tf.constant(0), "inputs": inputs}
        new, _ = self._continue(prompts, limits, greedy.graph_key, settings)
        return {"text": self._continuation(prompts, new)}

    def _generate(self, image, text, *settings):
        prompts, inputs = self._read(image, text)
        names = tuple(self._steering.names)
        new, ended = self._checked_draw((*names, "inputs"), prompts, *settings, inputs)
        return self._answers(prompts, new, ended)

    def _read(self, image, text):
        """Prompts, RaggedTensor (B, None), and what the model reads with them, a dict of "pixel_values"."""
        same = check(tf.size(image) == tf.size(text), "image and text have one value for each prompt, as many of both")
        with tf.control_dependencies([same]):
            pixels, grids = self._see(image)
        return self._with_text(grids, text), {"pixel_values": pixels}

    def _seen(self, image):
        """Pixel values (I, height, width, 3) of images, and which grid each was cut into, int32 (B,)."""

        def one(data):
            pixels, rows, columns = self._process(data)
            return pixels, rows * (self._most + 1) + columns

        parts = tf.RaggedTensorSpec((None, *self._size), tf.float32, ragged_rank=0, row_splits_dtype=tf.int64)
        pixels, grids = tf.map_fn(
            one, image, fn_output_signature=(parts, tf.TensorSpec((), tf.int32)), parallel_iterations=1
        )
        return tf.ensure_shape(pixels.values, (None, *self._size)), grids

    def _with_text(self, grids, text):
        """The ids of images that were cut into these grids, each with a text: RaggedTensor (B, None)."""
        layout, is_empty = self._layout, tf.strings.length(text) == 0
        alone = tf.cast(is_empty, tf.int32)
        text = fitting(text, self._in_graph.longest_token, self._longest, self._too_long)
        if layout.trims:
            text = tf.strings.regex_replace(tf.strings.regex_replace(text, f"^{_SPACES}", ""), f"{_SPACES}$", "")
        inner = tf.where(is_empty, "", tf.strings.join([layout.left, text, layout.right]))
        inner = self._in_graph.encode(inner, bare=True)
        if not layout.bare:
            around = self._in_graph.surround(inner)
            lengths = around.row_lengths()
            values = tf.boolean_mask(around.values, tf.repeat(~is_empty, lengths))
            inner = tf.RaggedTensor.from_row_lengths(values, tf.where(is_empty, tf.zeros_like(lengths), lengths))
        before = tf.gather(self._before, grids + alone * (self._most + 1) ** 2)
        return tf.concat([before, inner, tf.gather(self._behind, alone)], axis=1)

    def _check(self, tokenizer, processor):
        """Refuses a template and a tokenizer whose ids are others in a graph than in Python."""
        blank = np.zeros((*processor.size, 3), "uint8")
        rows, columns = processor.grid(blank)
        grids = tf.fill([len(_SAMPLES)], rows * (self._most + 1) + columns)
        made = self._with_text(grids, tf.constant(_SAMPLES)).to_list()
        for text, ids in zip(_SAMPLES, made, strict=True):
            if ids != image_prompt(tokenizer, processor, blank, text)["token_ids"]:
                raise ValueError(
                    f"In a graph a prompt of an image and {text!r} has other tokens than in Python, as the tokenizer "
                    "reads a text otherwise behind special tokens: export with text=False (--ids)."
                )


def served(model, tokenizer, **asked):
    """The functions of the SavedModel of a `VisionLanguageModel`; arguments are those of `ServedSeeing`.

    Raises:
        ValueError: for what cannot be had with images.
    """
    if getattr(model, "image_processor", None) is None:
        raise ValueError(
            "The SavedModel of a model that sees takes image files, and nothing says how pixel values are made of "
            "them: set model.image_processor to an ImageProcessor, or export with text=False (--ids)."
        )
    if "constraints" in asked:
        raise ValueError("`constraints` are for models that read texts alone: leave them out.")
    return ServedSeeing(model, tokenizer, **asked)


def compared(model, tokenizer, signatures):
    """What such a SavedModel writes of an image, and what Python does."""
    height, width = model.image_processor.size
    image = tf.cast(tf.random.stateless_uniform((height, width, 3), (0, 1)) * 256, tf.uint8)
    prompt = image_prompt(tokenizer, model.image_processor, image.numpy(), SAMPLE)
    length = min(MOST_SAMPLE_TOKENS, model.config.max_length - len(prompt["token_ids"]))
    settings = {"max_new_tokens": length, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 0}
    settings = {name: tf.constant(value) for name, value in settings.items()}
    made = signatures["generate"](image=tf.io.encode_png(image)[None], text=tf.constant([SAMPLE]), **settings)
    return made["text"][0].numpy().decode(), generate(model, tokenizer, prompt, length)
