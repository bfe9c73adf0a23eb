"""Batches of texts with labels, for a `SequenceClassifier`, and of pairs of texts, for a `TextEmbedder`.

Shapes: B texts in a batch, T their length, L labels, N texts.
"""

import functools
import itertools
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kerasllm.data.bucketing import Texts, checked_pair
from kerasllm.data.steps import Batches, check_least, dataset_of
from kerasllm.tokenizers import Tokenizer
from kerasllm.tokenizers.cutting import encode_whole

_TEXTS_AT_ONCE = 2**14
_SORTED_BATCHES = 32  # of which texts are sorted by length


def classification_dataset(
    texts: Iterable[str] | Iterable[tuple[str, str]],
    labels: np.ndarray | Sequence[Any],
    tokenizer: Tokenizer,
    max_length: int = 256,
    batch_size: int = 32,
    seed: int = 0,
    epochs: int = 1,
    start_step: int = 0,
    *,
    shuffle: bool = True,
    label_weights: Sequence[float] | None = None,
    token_types: bool = False,
) -> tf.data.Dataset:
    """Batches of texts and their labels, for a `SequenceClassifier`.

    Texts of like length share a batch, padded to the next multiple of 4 tokens. `fit` starts a finite data set again in
    the same order at each of its own epochs, so give all epochs here, as for `causal_lm_dataset`.

    Args:
        texts: iterable of str, or of pairs (str, str) that have one label together, such as a premise and a hypothesis.
        labels: as many, int (N,), or float (N,) or (N, L): see `SequenceClassifier`.
        tokenizer: the model's `Tokenizer`. What it puts around a text, such as BERT's [CLS] and [SEP], is there.
        max_length: int, the longest in tokens. Longer texts are cut, with a warning that says how many; what the
            tokenizer puts at the end stays.
        batch_size: int, texts.
        seed: int, decides the order, which is a function of (seed, epoch, step).
        epochs: int, how often the data set goes through the texts, shuffled anew each time.
        start_step: int, batches to leave out at the beginning: those that an interrupted run has seen.
        shuffle: bool. False is for validation: texts by length.
        label_weights: float (L,), how much a text of each label counts, where there is one label of several.
        token_types: bool. Pairs have "token_type_ids" too, 0 and 1 as the tokenizer tells both texts apart: for models
            with types of tokens, as BERT.

    Returns:
        A `tf.data.Dataset` of known length: ({"token_ids" int32 (B, T), "document_ids" int32 (B, T), 0 where a row is
        padding, and "token_type_ids" where asked for}, labels (B,) or (B, L)), and with `label_weights` sample_weight
        float32 (B,). Its attribute `tokens_per_step` is the mean number of tokens in a batch.

    Raises:
        TypeError: where a text is neither a str nor a pair of them, or there are pairs among single texts.
        ValueError: for sizes below 1, other than as many labels as texts, or no text.

    Example:

    >>> tokenizer = Tokenizer.train(["so be it"], kind="char", progress=False)
    >>> dataset = classification_dataset(["so", "be", "it"], [0, 1, 1], tokenizer, batch_size=2)
    >>> inputs, labels = next(iter(dataset))
    """
    check_least(1, max_length=max_length, batch_size=batch_size, epochs=epochs)
    check_least(0, seed=seed, start_step=start_step)
    labels = np.asarray(labels)
    labels = labels.astype("int32" if labels.dtype.kind in "iub" else "float32")
    rows, types = _encoded(texts, tokenizer, max_length)
    if len(rows.lengths) != len(labels) or not len(labels):
        raise ValueError(f"Each text needs a label: got {len(rows.lengths)} texts and {len(labels)} labels.")
    weights = None if label_weights is None else np.asarray(label_weights, "float32")[labels]
    order = batch_size, seed, epochs, start_step, shuffle
    return _dataset(rows, 1, labels, weights, tokenizer, *order, types if token_types else None)


def pair_dataset(
    pairs: Iterable[tuple[str, str]],
    tokenizer: Tokenizer,
    max_length: int = 128,
    batch_size: int = 64,
    seed: int = 0,
    epochs: int = 1,
    start_step: int = 0,
    *,
    shuffle: bool = True,
) -> tf.data.Dataset:
    """Batches of pairs of texts that belong together, for a `TextEmbedder` and `losses.InfoNCE`.

    Args:
        pairs: iterable of (str, str), such as a question and its answer.
        tokenizer, max_length, seed, epochs, start_step, shuffle: as in `classification_dataset`.
        batch_size: int, pairs. Each other pair of a batch gives a negative, so that more of them teach more.

    Returns:
        A `tf.data.Dataset` of known length: ({"token_ids" int32 (2 B, T), "document_ids" int32 (2 B, T)}, labels int32
        (2 B,)). The texts of a pair stand one below the other; pairs of which the second text is the same have one
        label. Its attribute `tokens_per_step` is the mean number of tokens in a batch.

    Raises:
        TypeError: where a pair is not two str.
        ValueError: for sizes below 1, or no pair.

    Example:

    >>> tokenizer = Tokenizer.train(["so be it"], kind="char", progress=False)
    >>> dataset = pair_dataset([("so", "be"), ("be", "it")], tokenizer, batch_size=2)
    >>> inputs, labels = next(iter(dataset))
    """
    check_least(1, max_length=max_length, batch_size=batch_size, epochs=epochs)
    check_least(0, seed=seed, start_step=start_step)
    numbers: dict[str, int] = {}
    labels: list[int] = []

    def texts():
        for pair in pairs:
            first, second = checked_pair(pair)
            labels.append(numbers.setdefault(second, len(numbers)))
            yield from (first, second)

    rows, _ = _encoded(texts(), tokenizer, max_length)
    if not labels:
        raise ValueError("There is no pair to learn from.")
    return _dataset(rows, 2, np.array(labels, "int32"), None, tokenizer, batch_size, seed, epochs, start_step, shuffle)


def _dataset(rows, per_item, labels, weights, tokenizer, batch_size, seed, epochs, start_step, shuffle, types=None):
    """Batches of items, each of `per_item` of the texts, one after the other, and one label that all of them have."""
    lengths = rows.lengths.reshape(-1, per_item).max(axis=1)
    steps_per_epoch = -(-len(lengths) // batch_size)
    names = ["token_ids", "document_ids", *([] if types is None else ["token_type_ids"])]
    batches_of = functools.lru_cache(maxsize=1)(
        functools.partial(batches_by_length, lengths, batch_size, seed, shuffle)
    )

    def items_of(step):
        epoch, place = divmod(int(step), steps_per_epoch)
        return batches_of(epoch)[place]

    def read(step):
        items = items_of(step)
        texts = (items[:, None] * per_item + np.arange(per_item)).ravel()
        ids = rows.padded(texts, tokenizer.pad_id or 0)
        is_real = np.arange(ids.shape[1]) < rows.lengths[texts][:, None]
        of_items = [labels] if weights is None else [labels, weights]
        inputs = ids, is_real.astype("int32"), *([] if types is None else [types.padded(texts, 0)])
        return *inputs, *(np.repeat(values[items], per_item, axis=0) for values in of_items)

    def element(*parts):
        inputs, (batch_labels, *batch_weights) = parts[: len(names)], parts[len(names) :]
        inputs = [tf.ensure_shape(rows, (None, None)) for rows in inputs]
        batch_labels = tf.ensure_shape(batch_labels, (None, *labels.shape[1:]))
        batch_weights = [tf.ensure_shape(weight, (None,)) for weight in batch_weights]
        return dict(zip(names, inputs, strict=True)), batch_labels, *batch_weights

    def documents_at(step):
        return sorted(items_of(step).tolist())

    dtypes = [*[tf.int32] * len(names), tf.as_dtype(labels.dtype), *([] if weights is None else [tf.float32])]
    dataset = dataset_of(Batches(steps_per_epoch, read, dtypes, element, documents_at), epochs, start_step)
    dataset.tokens_per_step = float(rows.lengths.sum() / steps_per_epoch)
    return dataset


def batches_by_length(lengths, batch_size, seed, shuffle, epoch):
    """The indices of the texts in each batch of an epoch: all full but one, and of like length."""
    if not shuffle:
        return np.split(np.argsort(lengths, kind="stable"), range(batch_size, len(lengths), batch_size))
    draw = np.random.default_rng([seed, epoch])
    order = draw.permutation(len(lengths))
    group = np.arange(len(order)) // (_SORTED_BATCHES * batch_size)
    order = order[np.lexsort((lengths[order], group))]
    batches = np.split(order, range(batch_size, len(order), batch_size))
    return [batches[i] for i in draw.permutation(len(batches))]


def _encoded(texts, tokenizer, max_length):
    """`Texts` of ids, and those of their types where they are pairs."""
    parts, types, num_cut = [np.zeros(0, "int32")], [np.zeros(0, "int32")], 0
    texts = map(_checked_text, texts)
    while chunk := list(itertools.islice(texts, _TEXTS_AT_ONCE)):
        rows, of_rows, cut = encode_whole(tokenizer, chunk, max_length)
        parts += [np.array(ids, "int32") for ids in rows]
        types += [np.array(ids, "int32") for ids in of_rows or ()]
        num_cut += cut
    if num_cut:
        warnings.warn(f"{num_cut} of {len(parts) - 1} texts are cut to max_length={max_length} tokens.", stacklevel=3)
    if len(types) not in (1, len(parts)):
        raise TypeError("Either all texts are pairs or none is, got both.")
    lengths = [len(ids) for ids in parts[1:]]
    return Texts.of(parts, lengths), Texts.of(types, lengths) if len(types) > 1 else None


def _checked_text(text):
    is_pair = isinstance(text, list | tuple) and len(text) == 2 and all(isinstance(one, str) for one in text)
    if not isinstance(text, str) and not is_pair:
        raise TypeError(f"Texts are str, or pairs of them, got {text!r:.80}.")
    return text
