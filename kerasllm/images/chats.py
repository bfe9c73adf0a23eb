"""Chats in which images and videos are shown, as token ids and pixel values.

A chat template writes one token for an image, in the place of which stands what its family puts there. For a video it
is a character that no message has, as few templates know videos.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kerasllm.images.processor import ImageProcessor
from kerasllm.images.shown import Shown, pixel_values_of, shown, shown_video
from kerasllm.tokenizers import Tokenizer
from kerasllm.tokenizers.chat_template import PRIVATE_USE, characters_of, render_chat, token_names

_PROBE = "KERASLLM"


def chat_prompt(
    tokenizer: Tokenizer,
    processor: ImageProcessor,
    messages: Sequence[Mapping[str, Any]],
    *,
    chat_template: str | None = None,
    **variables: Any,
) -> dict[str, Any]:
    """A chat with images and videos as a prompt for `kerasllm.generate`.

    Args:
        tokenizer: the model's `Tokenizer`, with a chat template.
        processor: its `ImageProcessor`, with `tokens`.
        messages: list of dicts with a "role" and a "content", a str or a list of parts: {"type": "text", "text": str},
            {"type": "image", "image": what `read_image` takes} and {"type": "video", "video": a `Video`, or what
            `read_video` takes}. Special tokens in texts are text.
        chat_template, **variables: see `Tokenizer.encode_chat`.

    Returns:
        dict of "token_ids", list of int, and where something is shown "pixel_values", float32 (N, height, width, 3), in
        the order of their tokens.

    Raises:
        TypeError: for a part of another form.
        ValueError: for an image that cannot be read, and a template or a tokenizer without a place for images.

    Example:
        >>> model, tokenizer = kerasllm.load("smolvlm")
        >>> processor = kerasllm.images.ImageProcessor.load("smolvlm")
        >>> parts = [{"type": "image", "image": "cat.jpg"}, {"type": "text", "text": "What is it?"}]
        >>> prompt = kerasllm.images.chat_prompt(tokenizer, processor, [{"role": "user", "content": parts}])
        >>> print(kerasllm.generate(model, tokenizer, prompt, max_new_tokens=30))
    """
    ids, _, order = encode_shown(tokenizer, processor, messages, chat_template, **variables)
    return {"token_ids": ids, **({"pixel_values": pixel_values_of(order)} if order else {})}


def encode_shown(tokenizer, processor, messages, chat_template=None, with_mask=False, **variables):
    """The ids of a chat; with a mask, that of `Tokenizer.encode_chat_with_mask`, else None; and what is shown in it, a
    list of `Shown` in the order of their tokens.

    Args:
        with_mask: bool.
        others: see `chat_prompt`. In the place of an image or a video may be a `Shown`.
    """
    mark = _free_character(messages)
    images, videos, plain = [], [], []
    in_parts = takes_parts(tokenizer, chat_template)
    for message in messages:
        if not isinstance(message, Mapping) or "content" not in message:
            plain.append(message)  # which `encode_chat` refuses, or has calls of tools alone
            continue
        parts = [_part(part, processor, mark, images, videos) for part in _parts_of(message["content"])]
        if images and not in_parts:
            raise ValueError(
                "The chat template takes a message's content as one str, and has no place for images: give "
                'chat_template=… that writes their token for each {"type": "image"} of a content.'
            )
        content = parts if in_parts else "".join(part["text"] for part in parts)
        plain.append({**message, "content": content})
    encode = tokenizer.encode_chat_with_mask if with_mask else tokenizer.encode_chat
    writing = _Writing(processor.tokens, mark, images, videos) if images or videos else None
    encoded = encode(plain, chat_template=chat_template, expand=writing and writing.expand, **variables)
    ids, mask = encoded if with_mask else (encoded, None)
    if writing:
        _check(tokenizer, processor.tokens, ids, writing.order, len(images) + len(videos))
    return ids, mask, writing.order if writing else []


def takes_parts(tokenizer, chat_template=None):
    """Whether a chat template writes the texts of contents that are lists of parts."""
    template = tokenizer.chat_template if chat_template is None else chat_template
    messages = [{"role": "user", "content": [{"type": "text", "text": _PROBE}]}]
    try:
        text = render_chat(template or "", messages, **token_names(tokenizer))
    except ValueError:
        return False
    return _PROBE in text and "'type'" not in text


class _Writing:
    """Puts what stands for images and videos into the text of a template, and notes their order there."""

    def __init__(self, tokens, mark, images, videos):
        self._placeholder, self._mark = tokens.placeholder, mark
        self._images, self._videos = images, videos
        self.order = []

    def expand(self, text):
        self.order, left = [], {self._placeholder: iter(self._images), self._mark: iter(self._videos)}
        parts = re.split(f"({re.escape(self._placeholder)}|{self._mark})", text)
        for place in range(1, len(parts), 2):
            one = next(left[parts[place]], None)
            if one is None:
                raise ValueError(f"The chat template writes more than {len(self._images)} images.")
            self.order.append(one)
            parts[place] = one.text
        return "".join(parts)


def _parts_of(content):
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list | tuple):
        raise TypeError(f"A content is a str or a list of parts, got {content!r:.80}.")
    return content


def _part(part, processor, mark, images, videos):
    """A part as templates take it; what it shows goes to the lists."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return dict(part)
    if kind not in ("image", "video") or part.get(kind) is None:
        raise TypeError(
            'A part of a content is {"type": "text", "text": …}, {"type": "image", "image": …} or {"type": "video", '
            f'"video": …}}, got {part!r:.80}.'
        )
    source = part[kind]
    if kind == "image":
        images.append(source if isinstance(source, Shown) else shown(processor, source))
        return {"type": "image"}
    videos.append(source if isinstance(source, Shown) else shown_video(processor, source))
    return {"type": "text", "text": mark}


def _free_character(messages):
    """A character that no message has."""
    used = characters_of(list(messages))
    return next(chr(code) for code in reversed(PRIVATE_USE) if chr(code) not in used)


def _check(tokenizer, tokens, ids, order, count):
    """Refuses ids in which there are not as many image tokens as there should be."""
    wanted = sum(one.text.count(tokens.token) for one in order)
    index = tokenizer.engine.token_to_id(tokens.token)
    if index is None:
        raise ValueError(
            f"The tokenizer has no token {tokens.token!r}, which stands for images: is it another model's?"
        )
    if len(order) != count or ids.count(index) != wanted:
        raise ValueError(
            f"The chat template writes {len(order)} of {count} images and videos: it should write "
            f"{tokens.placeholder} for each part whose type is image."
        )
