"""Texts with images as token ids: what a model learns, and what it goes on with."""

import functools
import itertools
import os
from collections.abc import Mapping
from typing import Any

from kerasllm.data.image_files import FilePart
from kerasllm.images import ImageProcessor, Video, chat_prompt
from kerasllm.images.chats import encode_shown
from kerasllm.images.shown import Shown, is_video, pixel_values_of, shown
from kerasllm.tokenizers import Tokenizer, as_tokenizer


def image_prompt(
    tokenizer: Tokenizer,
    processor: ImageProcessor,
    images: Any,
    text: str = "",
    *,
    chat_template: str | None = None,
) -> dict[str, Any]:
    """Images and a text as a prompt for `kerasllm.generate`: what stands for the images, and then the text; with a chat
    template, as a message of a user.

    Args:
        tokenizer: the model's `Tokenizer`, which has the image token.
        processor: `ImageProcessor`, with `tokens`: `ImageProcessor.load` reads that of a checkpoint.
        images: an image, as in `read_image`, a video, a `Video` of `read_video` or the path of one, or a list of them.
        text: str, such as a question. Special tokens in it are text.
        chat_template: str or None, a template in place of the tokenizer's own.

    Returns:
        dict of "token_ids", list of int, and "pixel_values", float32 (N, height, width, 3).

    Raises:
        ValueError: for an image that cannot be read, a tokenizer without the image token, or a processor without
            `tokens`.

    Example:

    >>> model, tokenizer = kerasllm.load("smolvlm")
    >>> processor = kerasllm.images.ImageProcessor.load("smolvlm")
    >>> prompt = kerasllm.data.image_prompt(tokenizer, processor, "cat.jpg", "What is it?")
    >>> print(kerasllm.generate(model, tokenizer, prompt, max_new_tokens=30))
    """
    if isinstance(images, Video) or not isinstance(images, list | tuple):
        images = [images]
    tokenizer = as_tokenizer(tokenizer)
    images = [image.read() if isinstance(image, FilePart) else image for image in images]
    if chat_template is None and tokenizer.chat_template is None:
        writer, several = ImageWriter(tokenizer, processor, None), [shown(processor, image) for image in images]
        ids = [*itertools.chain.from_iterable(writer.ids_of(one.text) for one in several)]
        ids += tokenizer.encode(text) if text else []
        return {"token_ids": ids, "pixel_values": pixel_values_of(several)}
    parts = [{"type": kind, kind: image} for image in images for kind in ("video" if is_video(image) else "image",)]
    parts += [{"type": "text", "text": text}] if text else []
    return chat_prompt(tokenizer, processor, [{"role": "user", "content": parts}], chat_template=chat_template)


def pixels_of(processor, image):
    """Pixel values of an image or a video, float32 (N, height, width, 3); an error names the part of a file it is."""
    if not isinstance(image, FilePart):
        return shown(processor, image).pixel_values() if is_video(image) else processor.process(image).pixel_values
    try:
        return processor.process(image.read()).pixel_values
    except ValueError as error:
        raise ValueError(f"{image.name}: {error}") from error


class ImageWriter:
    """The token ids of texts in which images and videos are shown: of examples, and which of them are learned.

    Args:
        tokenizer, processor, chat_template: see `image_text_dataset`.
    """

    def __init__(self, tokenizer, processor, chat_template):
        self.tokenizer, self.processor, self.template = tokenizer, processor, chat_template
        self.ids_of = functools.lru_cache(maxsize=256)(self._image_ids)
        self.ids_of(processor.image_text())  # says where tokens are missing

    def shown(self, image):
        """The `Shown` of an image or a video. Of images that are not cut nothing is read now."""
        if is_video(image):
            return shown(self.processor, image)
        rows, columns = 0, 0
        if self.processor.tiles:
            rows, columns = self.processor.grid(image.read() if isinstance(image, FilePart) else image)
        elif isinstance(image, str | os.PathLike) and not os.path.isfile(image):
            raise ValueError(f"there is no image file {image}.")
        text, count = self.processor.image_text(rows, columns), self.processor.count(rows, columns)
        return Shown(text, count, functools.partial(pixels_of, self.processor, image))

    def encode(self, example, images):
        """The ids of an example, which of them are learned, and its `Shown`s in the order of their tokens."""
        if "messages" in example:
            return encode_shown(
                self.tokenizer, self.processor, _filled(example["messages"], images), self.template, with_mask=True
            )
        prompt, text = example.get("prompt", ""), example["text"]
        if not isinstance(text, str) or not isinstance(prompt, str):
            raise TypeError(f"a text and a prompt are str, got {text!r:.60} and {prompt!r:.60}.")
        before = [*itertools.chain.from_iterable(self.ids_of(image.text) for image in images)]
        if prompt:
            before += self.tokenizer.encode(prompt)
            said = next(self.tokenizer.encode_stream([text], bare=True)).tolist()
        else:
            said = self.tokenizer.encode(text)
        end = self.tokenizer.end_id
        said += [end] if end is not None and end not in said[-1:] else []
        start = self.tokenizer.start_id
        learned = [not (start is not None and place == 0 and index == start) for place, index in enumerate(said)]
        return before + said, [False] * len(before) + learned, images

    def _image_ids(self, text):
        token = self.processor.tokens.token
        ids = next(self.tokenizer.encode_stream([text], parse_special=True, bare=True)).tolist()
        index = self.tokenizer.engine.token_to_id(token)
        if index is None or ids.count(index) != text.count(token):
            raise ValueError(
                f"The tokenizer has no token {token!r}, which stands for images: train it with "
                f"special_tokens=[{token!r}], or name its own with ImageTokens(count, token)."
            )
        return ids


def _filled(messages, images):
    """Messages whose parts have, one after the other, the images of an example."""
    left, filled = iter(images), []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list | tuple):
            kinds = [part.get("type") if isinstance(part, Mapping) else None for part in content]
            content = [
                {"type": kind, kind: next(left, None)} if kind in ("image", "video") else part
                for kind, part in zip(kinds, content, strict=True)
            ]
        filled.append({**message, "content": content} if "content" in message else message)
    asked = sum(part.get("type") in ("image", "video") for part in _parts(filled))
    if asked != len(images):
        raise ValueError(f'the chat has {asked} parts {{"type": "image"}} for {len(images)} images.')
    return filled


def _parts(messages):
    for message in messages:
        content = message.get("content")
        yield from (part for part in content if isinstance(part, Mapping)) if isinstance(content, list) else ()
