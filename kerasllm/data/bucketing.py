"""Batches for sequence-to-sequence models: pairs of like length together, as many as a number of tokens allows.

Shapes: B pairs in a batch, S source time, T target time; they differ from batch to batch.
"""

import itertools
import os
import warnings
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from kerasllm.data.option_names import PAIR_WORDS
from kerasllm.data.steps import Batches, check_least, dataset_of
from kerasllm.tokenizers import Tokenizer
from kerasllm.tokenizers.sides import Sides
from kerasllm.words import explain_keywords

BUCKET_WIDTH = 4
# Shares of unknown tokens from which on nothing can be learned, and from which on it is worth a warning.
MOST_UNKNOWN, MANY_UNKNOWN = 0.5, 0.02
_PAIRS_AT_ONCE = 2**14


@explain_keywords(PAIR_WORDS)
def seq2seq_dataset(
    pairs: Iterable[tuple[str, str]],
    tokenizer: Tokenizer | tuple[Tokenizer, Tokenizer],
    batch_tokens: int = 4096,
    seed: int = 0,
    epochs: int = 1,
    start_step: int = 0,
    *,
    max_length: int = 256,
    shuffle: bool = True,
    decoder_start_id: int | None = None,
    forced_bos_id: int | None = None,
) -> tf.data.Dataset:
    """Batches of pairs (source, target), for translation and everything else that makes a text of a text.

    Pairs of like length share a batch, so that little of it is padding: a batch has as many pairs as fit into
    `batch_tokens` if each took the room of the longest. Both sides are padded to the next multiple of 4 tokens, which
    keeps shapes few. The decoder is fed what it should have said so far (teacher forcing).

    `fit` starts a finite data set again in the same order at each of its own epochs. So give all epochs here and tell
    `fit` their length: `model.fit(dataset, epochs=3, steps_per_epoch=len(dataset) // 3)`.

    Args:
        pairs: iterable of (str, str), such as `read_pairs` gives; read once. Their tokens are held in memory, 4 bytes
            each.
        tokenizer: `kerasllm.tokenizers.Tokenizer` for both sides, or a pair of them (source, target).
        batch_tokens: int, the most tokens of one side in a batch, padding included.
        seed: int, decides the order, which is a function of (seed, epoch, step).
        epochs: int, how often the data set goes through the pairs, shuffled anew each time.
        start_step: int, batches to leave out at the beginning: those that an interrupted run has seen.
        max_length: int, the longest side in tokens, with its end token. Longer pairs are left out, with a warning that
            says how many: cut in two, they would be no translations.
        shuffle: bool. False is for validation: pairs by length.
        decoder_start_id, forced_bos_id: ints or None, ids that targets begin with: those of the config of a model that
            is to learn more, which a checkpoint of Hugging Face may name. None means the tokenizer's start token, and
            nothing after it.

    Returns:
        A `tf.data.Dataset` of known length: ({"source_ids" int32 (B, S), "source_mask" bool (B, S), "target_ids" int32
        (B, T)}, labels int32 (B, T), sample_weight float32 (B, T)). Sources end with the end token, targets begin with
        the start token, labels end with the end token; the weight of padding is 0. Its attribute `tokens_per_step` is
        the mean number of labels that count in a batch.

    Raises:
        TypeError: where a pair is not two str.
        ValueError: for sizes below 1, a start_step past the end, no pair that is short enough, or texts that are mostly
            unknown to the vocabulary.

    Example:

    >>> pairs = [("a dog", "ein Hund"), ("a cat", "eine Katze"), ("the dog sleeps", "der Hund schläft")]
    >>> tokenizer = Tokenizer.train(itertools.chain(*pairs), kind="char", progress=False)
    >>> dataset = seq2seq_dataset(pairs, tokenizer, batch_tokens=64)
    >>> inputs, labels, weight = next(iter(dataset))
    """
    check_least(1, batch_tokens=batch_tokens, epochs=epochs, max_length=max_length)
    check_least(0, seed=seed, start_step=start_step)
    sides = Sides.of(tokenizer)
    beginning = {"decoder_start_id": decoder_start_id, "forced_bos_id": forced_bos_id}
    sources, targets = _tokenized(pairs, sides, max_length, beginning)
    plan = _BatchPlan(np.maximum(sources.lengths, targets.lengths - 1), batch_tokens, seed, shuffle)

    def read(step):
        indices = plan.pairs_of(*divmod(int(step), plan.steps_per_epoch))
        source_ids = sources.padded(indices, sides.pad_id)
        target_ids = targets.padded(indices, sides.pad_id, more=1)  # inputs and labels are one token apart
        in_source = np.arange(source_ids.shape[1]) < sources.lengths[indices][:, None]
        counted = np.arange(1, target_ids.shape[1]) < targets.lengths[indices][:, None]
        return source_ids, in_source, target_ids[:, :-1], target_ids[:, 1:], counted.astype("float32")

    def element(*arrays):
        source_ids, source_mask, target_ids, labels, weight = (tf.ensure_shape(a, (None, None)) for a in arrays)
        return {"source_ids": source_ids, "source_mask": source_mask, "target_ids": target_ids}, labels, weight

    def documents_at(step):
        return sorted(plan.pairs_of(*divmod(step, plan.steps_per_epoch)).tolist())

    types = [tf.int32, tf.bool, tf.int32, tf.int32, tf.float32]
    batches = Batches(plan.steps_per_epoch, read, types, element, documents_at)
    dataset = dataset_of(batches, epochs, start_step)
    dataset.tokens_per_step = float((targets.lengths - 1).sum() / plan.steps_per_epoch)
    return dataset


class _BatchPlan:
    """Which pairs make up which batch.

    Args:
        lengths: (pairs,) int, tokens of the longer side.
        batch_tokens, seed, shuffle: as in `seq2seq_dataset`.
    """

    def __init__(self, lengths, batch_tokens, seed, shuffle):
        buckets = -(-lengths // BUCKET_WIDTH)
        self._buckets = [np.flatnonzero(buckets == bucket) for bucket in np.unique(buckets)]
        self._rows = [max(1, batch_tokens // int(BUCKET_WIDTH * bucket)) for bucket in np.unique(buckets)]
        self.steps_per_epoch = sum(-(-len(b) // rows) for b, rows in zip(self._buckets, self._rows, strict=True))
        self._seed, self._shuffle = seed, shuffle
        self._epoch = None, None

    def pairs_of(self, epoch, step):
        """The indices of the pairs in a batch, an int array."""
        number, batches = self._epoch
        if number != epoch:
            batches = self._batches(epoch)
            self._epoch = epoch, batches
        return batches[step]

    def _batches(self, epoch):
        draw = np.random.default_rng([self._seed, epoch])
        batches = []
        for bucket, rows in zip(self._buckets, self._rows, strict=True):
            order = draw.permutation(bucket) if self._shuffle else bucket
            batches += np.split(order, range(rows, len(order), rows))
        return [batches[i] for i in draw.permutation(len(batches))] if self._shuffle else batches


class Texts(NamedTuple):
    """The ids of many texts, one after the other.

    Attributes:
        tokens: (tokens,) int32.
        lengths: (texts,) int64.
        begins: (texts,) int64, where each text begins.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    begins: np.ndarray

    @classmethod
    def of(cls, parts, lengths):
        lengths = np.array(lengths, "int64")
        return cls(np.concatenate(parts), lengths, np.cumsum(lengths) - lengths)

    def padded(self, indices, pad_id, more=0):
        """Some texts as rows of one array int32, `more` tokens wider than a multiple of BUCKET_WIDTH."""
        longest = int(self.lengths[indices].max()) - more
        rows = np.full((len(indices), -(-longest // BUCKET_WIDTH) * BUCKET_WIDTH + more), pad_id, "int32")
        for row, number in zip(rows, indices, strict=True):
            begin, length = self.begins[number], self.lengths[number]
            row[:length] = self.tokens[begin : begin + length]
        return rows


def _tokenized(pairs, sides, max_length, beginning):
    """Sources and targets as `Texts`, without pairs that have a side longer than max_length."""
    if isinstance(pairs, str | bytes | os.PathLike):
        raise TypeError(
            f"pairs is an iterable of (source, target), got one {type(pairs).__name__}: pass [(source, target)], or "
            "read_pairs(path) for what is in files."
        )
    kept = [], []
    lengths = [], []
    seen = 0
    pairs = map(checked_pair, pairs)
    while chunk := list(itertools.islice(pairs, _PAIRS_AT_ONCE)):
        seen += len(chunk)
        sources, targets = zip(*chunk, strict=True)
        texts = sides.encode_sources(sources), sides.encode_targets(targets, **beginning)
        for source, target in zip(*texts, strict=True):
            if max(len(source), len(target) - 1) <= max_length:
                for side, ids in enumerate((source, target)):
                    kept[side].append(np.array(ids, "int32"))
                    lengths[side].append(len(ids))
    left_out = seen - len(lengths[0])
    if seen == left_out:
        raise ValueError(
            f"There is no pair to learn from: {seen} pairs were given, and {left_out} of them are longer than "
            f"max_length={max_length} tokens."
        )
    if left_out:
        message = f"{left_out} of {seen} pairs are longer than max_length={max_length} tokens and left out."
        warnings.warn(message, stacklevel=3)
    sources, targets = Texts.of(kept[0], lengths[0]), Texts.of(kept[1], lengths[1])
    _check_known("sources", sources, sides.source.unknown_id)
    _check_known("targets", targets, sides.target.unknown_id)
    return sources, targets


def _check_known(side, texts, unknown_id):
    """Refuses texts of a language that the vocabulary never saw, and warns where it lacks a part."""
    share = np.mean(texts.tokens == unknown_id) if unknown_id is not None else 0
    message = f"{share:.1%} of the tokens of the {side} are unknown to the vocabulary: train a tokenizer on both"
    message += " languages, or give a pair of tokenizers (source, target)."
    if share > MOST_UNKNOWN:
        raise ValueError(message)
    if share > MANY_UNKNOWN:
        warnings.warn(message, stacklevel=4)


def checked_pair(pair):
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
        raise TypeError(f"A pair of texts (source, target) is needed, got {pair!r:.80}.")
    return pair
