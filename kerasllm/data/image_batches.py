"""Batches of images with texts: for models that write of what they see, and for those that match images and texts.

Texts are tokenized and images' sizes looked at once, in the beginning; the images of a batch are decoded when it is
made, by several threads, so that no more of them are in memory than of a few batches.

Shapes: B rows in a batch, T places in a row, I images in a batch (tiles and crops count).
"""

import os
import warnings
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from kerasllm.data.image_prompts import ImageWriter, pixels_of
from kerasllm.data.option_names import WINDOW_WORDS
from kerasllm.data.packing import Plan, lay_out, plan_windows
from kerasllm.data.steps import check_least
from kerasllm.data.windows import in_order, windows_of
from kerasllm.images import ImageProcessor
from kerasllm.images.shown import Shown
from kerasllm.tokenizers import Tokenizer, as_tokenizer
from kerasllm.words import explain_keywords

WORKERS = min(8, os.cpu_count() or 1)


@explain_keywords(WINDOW_WORDS)
def image_text_dataset(
    examples: Iterable[Mapping[str, Any]],
    tokenizer: Tokenizer,
    processor: ImageProcessor,
    seq_len: int,
    batch_size: int,
    seed: int = 0,
    epochs: int = 1,
    start_step: int = 0,
    packed: bool = False,
    *,
    shuffle: bool = True,
    chat_template: str | None = None,
    prefix: bool = False,
    workers: int = WORKERS,
) -> tf.data.Dataset:
    """Batches of images and texts, for a `VisionLanguageModel`: it learns the texts, or the answers of chats.

    A row is what stands for the images (see `ImageTokens`), the prompt, and the text with its end token, which alone
    count; or a chat as its template writes it, of which the answers count. With `packed=True` several share a row, and
    `document_ids` keeps them apart. Examples that are longer than a row are left out, as an image cannot be cut; a
    warning says how many.

    `fit` starts a finite data set again in the same order at each of its own epochs. So give all epochs here and tell
    `fit` their length: `model.fit(dataset, epochs=3, steps_per_epoch=len(dataset) // 3)`.

    Args:
        examples: iterable of dicts, such as `read_image_texts` gives: "images", a list of what `read_image` takes, and
            "text" (str), perhaps with a "prompt" (str); or "messages", a chat. An image may also be a `Video`, or the
            path of one, which is then a part {"type": "video"} of a chat. It is read once; images are kept as they are
            given, paths as paths.
        tokenizer: the model's `Tokenizer`, which has the image token. For chats, with a chat template.
        processor: `ImageProcessor`, with `tokens`.
        seq_len: int T, tokens in a row, those of images among them.
        batch_size: int B, rows.
        seed, epochs, start_step, shuffle: see `causal_lm_dataset`.
        packed: bool, as described above.
        chat_template: str or None, a template in place of the tokenizer's own.
        prefix: bool, for models of `attention="prefix"`. What stands before the first token that is learned sees itself
            both ways, also where that is a question: with "span_ids", int32 (B, T), among the inputs.
        workers: int, threads that decode images.

    Returns:
        A `tf.data.Dataset` of known length: ({"token_ids": int32 (B, T), "pixel_values": float32 (I, height, width, 3),
        in the order of their tokens, and with `packed=True` "document_ids": int32 (B, T)}, labels int32 (B, T),
        sample_weight float32 (B, T)). Its attribute `documents_at` (step) says which examples, counted from 0, a batch
        is made of.

    Raises:
        TypeError: for an example of another form.
        ValueError: for sizes below 1, an image that cannot be read, a tokenizer without the image token, a processor
            without `tokens`, or too few examples to fill a batch.

    Example:

    >>> tokenizer = Tokenizer.train(["a red cat"], kind="char", special_tokens=["<image>"], progress=False)
    >>> processor = ImageProcessor(8, tokens=ImageTokens(4))
    >>> red = np.full((9, 9, 3), [255, 0, 0], "uint8")
    >>> examples = [{"images": [red], "text": "a red cat"}]
    >>> inputs, labels, weight = next(iter(image_text_dataset(examples, tokenizer, processor, 16, 1)))
    >>> inputs["pixel_values"].shape, int(weight.numpy().sum())
    (TensorShape([1, 8, 8, 3]), 10)
    """
    check_least(1, seq_len=seq_len, batch_size=batch_size, epochs=epochs, workers=workers)
    check_least(0, seed=seed, start_step=start_step)
    tokenizer = as_tokenizer(tokenizer)
    writer = ImageWriter(tokenizer, processor, chat_template)
    stream = _stream(examples, writer, seq_len)
    if packed:
        plan = plan_windows(stream.document_ends, seq_len)
    else:
        begins = np.concatenate([[0], stream.document_ends[:-1]])
        plan = Plan(np.arange(len(begins) + 1), begins, stream.document_ends - begins - 1)
    decode = ImageDecoder(processor, workers)

    def read(step, pieces, shape):
        token_ids, labels, document_ids = lay_out(stream.tokens, *pieces, shape, tokenizer.pad_id or 0)
        _, weight, _ = lay_out(stream.learned, *pieces, shape)
        documents = np.searchsorted(stream.document_ends, pieces[1], "right")
        images = [image for document in documents for image in stream.images[document]]
        spans = lay_out(stream.before, *pieces, shape)[:1] if prefix else ()
        return token_ids, labels, document_ids, weight, decode(images), *spans

    is_even = shuffle and not packed and len(set(stream.counts)) == 1
    number = stream.counts[0] * batch_size if is_even else None
    shape = batch_size, seq_len
    more = {"pixel_values": tf.TensorSpec((number, *processor.image_shape), tf.float32)}
    more |= {"span_ids": tf.TensorSpec(shape, tf.int32)} if prefix else {}
    dataset = in_order(windows_of(plan), read, stream, shape, packed, seed, epochs, start_step, shuffle, more=more)
    documents_at = dataset.documents_at
    dataset.documents_at = lambda step: sorted({int(stream.numbers[part]) for part in documents_at(step)})
    return dataset


class _Stream(NamedTuple):
    """Examples one after the other.

    Attributes:
        tokens: (tokens,) int32.
        learned: (tokens,) bool, which of them are learned.
        before: (tokens,) bool, which of them stand before all that are.
        document_ends: (documents,) int64, one past the last token of each.
        images: list of lists of `Shown`, those of each.
        counts: list of int, how many pictures the model sees of each.
        numbers: (documents,) int64, of which example each is.
    """

    tokens: np.ndarray
    learned: np.ndarray
    before: np.ndarray
    document_ends: np.ndarray
    images: list
    counts: list
    numbers: np.ndarray

    @property
    def num_tokens(self):
        return len(self.tokens)


def _stream(examples, writer, seq_len):
    tokens, learned, images, counts, numbers = [], [], [], [], []
    number = -1
    for number, example in enumerate(examples):
        place = f"examples[{number}]"
        pictures = checked_images(example, place)
        try:
            ids, mask, pictures = writer.encode(example, [writer.shown(image) for image in pictures])
        except (ValueError, TypeError) as error:
            raise type(error)(f"{place}: {error}") from error
        if len(ids) <= seq_len + 1:  # T places show T + 1 tokens, the last of them as a label
            tokens.append(np.array(ids, np.int32))
            learned.append(np.array(mask, bool))
            images.append(pictures)
            counts.append(sum(picture.num_pictures for picture in pictures))
            numbers.append(number)
    left_out = number + 1 - len(tokens)
    if not tokens:
        raise ValueError(
            f"There is nothing to learn from: {number + 1} examples were given, and {left_out} of them are longer than "
            f"seq_len={seq_len} tokens, those of their images among them."
        )
    if left_out:
        warnings.warn(
            f"{left_out} of {number + 1} examples are longer than seq_len={seq_len} tokens and left out.", stacklevel=4
        )
    ends = np.cumsum([len(ids) for ids in tokens], dtype=np.int64)
    before = np.concatenate([np.cumsum(mask) == 0 for mask in learned])
    return _Stream(np.concatenate(tokens), np.concatenate(learned), before, ends, images, counts, np.array(numbers))


def checked_images(example, place):
    if not isinstance(example, Mapping) or not {"text", "messages"} & set(example):
        raise TypeError(
            f'{place} should be a dict of "images" and a "text" or "messages", such as read_image_texts gives, and is '
            f"{example!r:.80}."
        )
    images = example.get("images", [example["image"]] if "image" in example else [])
    if not isinstance(images, list | tuple):
        raise TypeError(f'{place} has no list under "images": it has a {type(images).__name__}.')
    return list(images)


class ImageDecoder:
    """Pixel values of images or `Shown`s, made by several threads."""

    def __init__(self, processor, workers):
        self._processor, self._workers = processor, workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="kerasllm-images")

    def __call__(self, images):
        parts = list(self._pool.map(self._pixels, images))
        return np.concatenate(parts) if parts else np.zeros((0, *self._processor.image_shape), np.float32)

    def _pixels(self, image):
        return image.pixel_values() if isinstance(image, Shown) else pixels_of(self._processor, image)
