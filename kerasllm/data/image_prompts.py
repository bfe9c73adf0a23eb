"""Texts with images as token ids: what a model learns, and what it goes on with."""

import functools
import itertools
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from kerasllm.data.image_files import FilePart
from kerasllm.images import ImageProcessor
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
        images: an image, as in `read_image`, or a list of them.
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
    images = list(images) if isinstance(images, list | tuple) else [images]
    processed = [processor.process(opened(image)) for image in images]
    writer = ImageWriter(as_tokenizer(tokenizer), processor, chat_template)
    ids = writer.prompt(text, [(rows, columns) for _, rows, columns in processed])
    return {"token_ids": ids, "pixel_values": np.concatenate([pixels for pixels, _, _ in processed])}


def opened(image):
    """An image, or the bytes of one that is a part of a file."""
    return image.read() if isinstance(image, FilePart) else image


class ImageWriter:
    """The token ids of texts with images: of examples, and which of them are learned, and of prompts."""

    def __init__(self, tokenizer, processor, chat_template):
        self.tokenizer, self.processor, self.template = tokenizer, processor, chat_template
        processor.image_text()  # says where tokens are missing
        self._ids_of = functools.lru_cache(maxsize=1024)(self._image_ids)
        self._ids_of(0, 0)

    def grid(self, image):
        """Into how many rows and columns an image is cut. Where images are not cut, nothing of it is read now."""
        if self.processor.tiles:
            return self.processor.grid(opened(image))
        if isinstance(image, str | os.PathLike) and not os.path.isfile(image):
            raise ValueError(f"there is no image file {image}.")
        return 0, 0

    def encode(self, example, grids):
        if "messages" in example:
            return self._chat(list(example["messages"]), grids)
        prompt, text = example.get("prompt", ""), example["text"]
        if not isinstance(text, str) or not isinstance(prompt, str):
            raise TypeError(f"a text and a prompt are str, got {text!r:.60} and {prompt!r:.60}.")
        before = [*itertools.chain.from_iterable(self._ids_of(*grid) for grid in grids)]
        if prompt:
            before += self.tokenizer.encode(prompt)
            said = next(self.tokenizer.encode_stream([text], bare=True)).tolist()
        else:
            said = self.tokenizer.encode(text)
        end = self.tokenizer.end_id
        said += [end] if end is not None and end not in said[-1:] else []
        start = self.tokenizer.start_id
        learned = [not (start is not None and place == 0 and index == start) for place, index in enumerate(said)]
        return before + said, [False] * len(before) + learned

    def prompt(self, text, grids):
        """The ids of what a model is to go on with: images and a text, as the chat template writes a message of them
        where there is one."""
        if self.template is None and self.tokenizer.chat_template is None:
            before = [*itertools.chain.from_iterable(self._ids_of(*grid) for grid in grids)]
            return before + (self.tokenizer.encode(text) if text else [])
        parts = [*({"type": "image"} for _ in grids), *([{"type": "text", "text": text}] if text else [])]
        expand = functools.partial(self.processor.tokens.expand, grids=grids)
        message = {"role": "user", "content": parts}
        ids = self.tokenizer.encode_chat([message], chat_template=self.template, expand=expand)
        return self._checked(ids, grids)

    def _chat(self, messages, grids):
        tokens = self.processor.tokens
        asked = sum(text == "image" for text in _part_types(messages))
        if asked != len(grids):
            raise ValueError(f'the chat has {asked} parts {{"type": "image"}} for {len(grids)} images.')
        ids, mask = self.tokenizer.encode_chat_with_mask(
            messages, chat_template=self.template, expand=functools.partial(tokens.expand, grids=grids)
        )
        return self._checked(ids, grids), mask

    def _checked(self, ids, grids):
        """Ids of a chat, in which there are as many image tokens as there should be."""
        tokens = self.processor.tokens
        wanted = sum(tokens.text(*grid).count(tokens.token) for grid in grids)
        found = ids.count(self.tokenizer.engine.token_to_id(tokens.token))
        if found != wanted:
            raise ValueError(
                f"the chat template writes {found} tokens of images where the images have {wanted}: it should write "
                f"{tokens.placeholder} for each part whose type is image."
            )
        return ids

    def _image_ids(self, rows, columns):
        tokens = self.processor.tokens
        text = self.processor.image_text(rows, columns)
        ids = next(self.tokenizer.encode_stream([text], parse_special=True, bare=True)).tolist()
        index = self.tokenizer.engine.token_to_id(tokens.token)
        if index is None or ids.count(index) != text.count(tokens.token):
            raise ValueError(
                f"The tokenizer has no token {tokens.token!r}, which stands for images: train it with "
                f"special_tokens=[{tokens.token!r}], or name its own with ImageTokens(count, token)."
            )
        return ids


def _part_types(messages):
    for message in messages:
        for part in message["content"] if isinstance(message.get("content"), list | tuple) else ():
            yield part.get("type") if isinstance(part, Mapping) else None
