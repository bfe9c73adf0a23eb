"""Batches of images with the texts that belong to them, for a `ContrastiveModel`.

Shapes: B pairs in a batch, T the length of texts.
"""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from kerasllm.data.image_batches import WORKERS, ImageDecoder, checked_images
from kerasllm.data.option_names import WINDOW_WORDS
from kerasllm.data.steps import Batches, check_least, dataset_of
from kerasllm.images import ImageProcessor
from kerasllm.tokenizers import Tokenizer, as_tokenizer
from kerasllm.tokenizers.cutting import encode_whole
from kerasllm.words import explain_keywords


@explain_keywords(WINDOW_WORDS | {"seq_len": "max_length"})
def image_pair_dataset(
    examples: Iterable[Mapping[str, Any]],
    tokenizer: Tokenizer,
    processor: ImageProcessor,
    max_length: int = 64,
    batch_size: int = 64,
    seed: int = 0,
    epochs: int = 1,
    start_step: int = 0,
    *,
    shuffle: bool = True,
    workers: int = WORKERS,
) -> tf.data.Dataset:
    """Batches of images and texts that belong together, for a `ContrastiveModel`.

    Args:
        examples: iterable of dicts, such as `read_image_texts` gives, with one image under "images" and a "text".
        tokenizer: the model's `Tokenizer`.
        processor: `ImageProcessor`, which does not cut images.
        max_length: int T, the length of all texts in tokens. Longer ones are cut, with a warning that says how many.
        batch_size: int B, pairs. Each other pair of a batch gives a negative, so that more of them teach more.
        seed, epochs, start_step: see `causal_lm_dataset`.
        shuffle: bool. False is for validation: pairs in order, and the last batch may be smaller.
        workers: int, threads that decode images.

    Returns:
        A `tf.data.Dataset` of known length: ({"token_ids": int32 (B, T), "document_ids": int32 (B, T), 0 where a row is
        padding, "pixel_values": float32 (B, height, width, 3)}, labels int32 (B,), one number for pairs of equal
        texts).

    Raises:
        TypeError: for an example of another form.
        ValueError: for sizes below 1, a processor that cuts images, an example of several images, or too few to fill a
            batch.

    Example:

    >>> tokenizer = Tokenizer.train(["a red cat"], kind="char", progress=False)
    >>> examples = [{"images": [np.zeros((9, 9, 3), "uint8")], "text": "a cat"}] * 2
    >>> inputs, labels = next(iter(image_pair_dataset(examples, tokenizer, ImageProcessor(8), 12, batch_size=2)))
    >>> inputs["pixel_values"].shape, labels.numpy().tolist()
    (TensorShape([2, 8, 8, 3]), [0, 0])
    """
    check_least(1, max_length=max_length, batch_size=batch_size, epochs=epochs, workers=workers)
    check_least(0, seed=seed, start_step=start_step)
    tokenizer = as_tokenizer(tokenizer)
    if processor.tiles is not None:
        raise ValueError("Pairs have one vector for each image: give an ImageProcessor without tiles=.")
    images, texts = _pairs(examples)
    numbers = dict(zip(dict.fromkeys(texts), range(len(texts)), strict=False))
    labels = np.array([numbers[text] for text in texts], np.int32)
    rows, _, num_cut = encode_whole(tokenizer, texts, max_length)
    if num_cut:
        warnings.warn(f"{num_cut} of {len(texts)} texts are cut to max_length={max_length} tokens.", stacklevel=3)
    steps_per_epoch = len(texts) // batch_size if shuffle else -(-len(texts) // batch_size)
    if not steps_per_epoch:
        raise ValueError(
            f"{len(texts)} examples do not fill a batch of batch_size={batch_size}: give more, or lower it."
        )
    pixels_of = ImageDecoder(processor, workers)

    def items_of(step):
        epoch, place = divmod(int(step), steps_per_epoch)
        order = np.random.default_rng([seed, epoch]).permutation(len(texts)) if shuffle else np.arange(len(texts))
        return order[place * batch_size : (place + 1) * batch_size]

    def read(step):
        items = items_of(step)
        ids = np.full((len(items), max_length), tokenizer.pad_id or 0, np.int32)
        documents = np.zeros_like(ids)
        for row, item in enumerate(items):
            ids[row, : len(rows[item])], documents[row, : len(rows[item])] = rows[item], 1
        return ids, documents, pixels_of([images[item] for item in items]), labels[items]

    number = batch_size if shuffle else None

    def element(ids, documents, pixels, numbers):
        inputs = {"token_ids": tf.ensure_shape(ids, (number, max_length))}
        inputs["document_ids"] = tf.ensure_shape(documents, (number, max_length))
        inputs["pixel_values"] = tf.ensure_shape(pixels, (number, *processor.image_shape))
        return inputs, tf.ensure_shape(numbers, (number,))

    types = [tf.int32, tf.int32, tf.float32, tf.int32]
    batches = Batches(steps_per_epoch, read, types, element, lambda step: sorted(items_of(step).tolist()))
    dataset = dataset_of(batches, epochs, start_step)
    dataset.num_examples, dataset.batch_size = len(texts), batch_size
    return dataset


def _pairs(examples):
    images, texts = [], []
    for number, example in enumerate(examples):
        found = checked_images(example, f"examples[{number}]")
        if len(found) != 1 or not isinstance(example.get("text"), str):
            raise ValueError(f'examples[{number}] should have one image and a "text", and has {len(found)} images.')
        images += found
        texts.append(example["text"])
    return images, texts
