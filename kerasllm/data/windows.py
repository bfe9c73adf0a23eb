"""Windows of tokens, in an order that is a function of (seed, epoch, step) alone.

Nothing is remembered from one window to the next, so that a run resumes at any step at no cost. What a model learns
from a window is said in objectives.py and masking.py.
"""

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from kerasllm.data.mixing import mixed_windows
from kerasllm.data.packing import lay_out, plan_windows
from kerasllm.data.poisson import check_poisson, poisson_draw, poisson_rows
from kerasllm.data.sources import path_of
from kerasllm.data.steps import Batches, check_least, dataset_of
from kerasllm.data.token_files import TokenFiles, write_tokens
from kerasllm.data.token_streams import TokenMixture, TokenStream
from kerasllm.tokenizers import as_tokenizer


def window_dataset(
    objective,
    documents_or_token_dir,
    tokenizer,
    seq_len,
    batch_size,
    *,
    ahead,
    with_document_ids,
    seed,
    epochs,
    start_step,
    packed,
    shuffle,
    poisson,
    token_folder,
    progress,
):
    """The data set behind `causal_lm_dataset` and `masked_lm_dataset`, which say what most arguments mean.

    Args:
        objective: function (step, token_ids, next_ids, document_ids) -> (inputs, labels, sample_weight), on arrays (B,
            T). It is called in Python for each batch; steps count through all epochs.
        ahead: int, how many places ahead of its input the objective finds a label; see `packing.plan_windows`.
        with_document_ids: bool, whether the first of an element is {"token_ids", "document_ids"} or the ids alone.
    """
    check_least(1, seq_len=seq_len, batch_size=batch_size, epochs=epochs)
    check_least(0, seed=seed, start_step=start_step)
    tokenizer = as_tokenizer(tokenizer)
    files = _token_files(documents_or_token_dir, tokenizer, token_folder, progress)

    def windows_in(stream):
        if packed:
            return windows_of(plan_windows(stream.document_ends, seq_len, ahead))
        return _stream_windows(stream.num_tokens - ahead, seq_len, seed, shuffle)

    if not isinstance(files, TokenMixture):
        windows = windows_in(files)
    elif not shuffle:
        raise ValueError("A mixture has no order of its own: shuffle=False takes token_streams.join of its sources.")
    else:
        windows = Windows(*mixed_windows(files, list(map(windows_in, files.sources)), seq_len, seed, _permuted))

    def read(step, pieces, shape):
        token_ids, next_ids, document_ids = lay_out(files.tokens, *pieces, shape, tokenizer.pad_id or 0)
        if token_ids.max() >= files.vocab_size or next_ids.max() >= files.vocab_size:
            raise ValueError(f"{files.name} holds token ids past its vocabulary of {files.vocab_size}: it is damaged.")
        inputs, labels, weight = objective(step, token_ids, next_ids, document_ids)
        return inputs, labels, document_ids, weight

    shape = batch_size, seq_len
    return in_order(windows, read, files, shape, with_document_ids, seed, epochs, start_step, shuffle, poisson)


def in_order(
    windows, read, stream, shape, with_document_ids, seed, epochs, start_step, shuffle, poisson=False, more=None
):
    """The data set of windows in their order.

    Args:
        windows: `Windows`.
        read: function (step, (row, begin, length), (B, T)) -> (inputs, labels, document_ids, sample_weight), arrays (B,
            T).
        stream: what the windows show, with `num_tokens` (int) and `document_ends` (int array).
        shape: (B, T).
        with_document_ids, seed, epochs, start_step, shuffle, poisson: as in `window_dataset`.
        more: dict of names and `tf.TensorSpec`s of further inputs, which `read` gives behind the weights.
    """
    batch_size, seq_len = shape
    more = more or {}
    if poisson:
        check_poisson(batch_size, windows.count, shuffle)
        shape = poisson_rows(batch_size, windows.count), seq_len
    steps_per_epoch = windows.count // batch_size if shuffle and not poisson else -(-windows.count // batch_size)
    if not steps_per_epoch:
        raise ValueError(
            f"{stream.num_tokens} tokens make {windows.count} windows of seq_len={seq_len}, fewer than one batch of "
            f"batch_size={batch_size}. Give more text, or lower seq_len or batch_size."
        )

    def read_step(step, indices):
        inputs, labels, document_ids, weight, *rest = read(int(step), windows.pieces(indices, epoch_of(step)), shape)
        return inputs, labels, document_ids, weight.astype(np.float32), *rest

    def epoch_of(step):
        return 0 if poisson else int(step) // steps_per_epoch  # what is drawn by chance has to stay the same windows

    def indices_of(step):
        indices = step % steps_per_epoch * batch_size + tf.range(batch_size, dtype=tf.int64)
        return _permuted(indices, windows.count, seed, step // steps_per_epoch) if shuffle else indices

    def drawn_at(step):
        return poisson_draw(batch_size, windows.count, seed, int(step))

    def documents_at(step):
        """The numbers of the documents that a batch is made of, counted from 0 as they were given."""
        indices = drawn_at(step) if poisson else indices_of(tf.constant(step, tf.int64)).numpy()
        _, begin, length = windows.pieces(indices, epoch_of(step))
        first, last = begin % stream.num_tokens, (begin + length - 1) % stream.num_tokens
        ends = [np.searchsorted(stream.document_ends, place, "right") for place in (first, last)]
        return sorted(set().union(*(range(a, b + 1) if a <= b else {a, b} for a, b in zip(*ends, strict=True))))

    def element(*arrays):
        ids, labels, document_ids, weight = (tf.ensure_shape(array, shape) for array in arrays[:4])
        if not with_document_ids and not more:
            return ids, labels, weight
        inputs = {"token_ids": ids, **({"document_ids": document_ids} if with_document_ids else {})}
        rest = zip(more.items(), arrays[4:], strict=True)
        return inputs | {name: tf.ensure_shape(array, spec.shape) for (name, spec), array in rest}, labels, weight

    types = [tf.int32, tf.int32, tf.int32, tf.float32, *(spec.dtype for spec in more.values())]
    if poisson:
        batches = Batches(steps_per_epoch, lambda step: read_step(step, drawn_at(step)), types, element, documents_at)
    else:
        batches = Batches(steps_per_epoch, read_step, types, element, documents_at, lambda step: (indices_of(step),))
    dataset = dataset_of(batches, epochs, start_step)
    dataset.num_examples, dataset.batch_size = windows.count, batch_size
    return dataset


class Windows(NamedTuple):
    """A number of windows, and pieces(indices, epoch) -> (row, begin, length), what `lay_out` takes."""

    count: int  # type: ignore[assignment]  # tuple.count is not missed
    pieces: Callable


def _stream_windows(places, seq_len, seed, shuffle):
    def pieces(indices, epoch):
        shift = np.random.default_rng([seed, epoch]).integers(seq_len) if shuffle and epoch else 0
        row, begin = np.arange(len(indices)), indices * seq_len
        length = np.clip(places - begin, 0, seq_len)
        return row, begin + shift, length  # what is shifted past the end goes on at the beginning

    return Windows(places // seq_len if shuffle else -(-places // seq_len), pieces)


def windows_of(plan):
    """The `Windows` of a `packing.Plan`."""

    def pieces(indices, epoch):
        indices = np.minimum(indices, plan.num_windows)
        counts = plan.first[np.minimum(indices + 1, plan.num_windows)] - plan.first[indices]
        row = np.repeat(np.arange(len(indices)), counts)
        piece = np.arange(len(row)) + np.repeat(plan.first[indices] - np.cumsum(counts) + counts, counts)
        return row, plan.begin[piece], plan.length[piece]

    return Windows(plan.num_windows, pieces)


def _permuted(indices, count, seed, epoch):
    """Where a permutation of 0 … count - 1, one for each seed and epoch, takes some indices: nothing is stored."""
    parts = [
        tf.constant(seed % 2**32, tf.uint32),
        tf.constant(seed // 2**32 % 2**32, tf.uint32),
        tf.cast(epoch, tf.uint32),
    ]
    last = tf.constant(count - 1, tf.int64)
    return tf.raw_ops.RandomIndexShuffle(index=indices, seed=tf.stack(parts), max_index=last, rounds=4)


def _token_files(source, tokenizer, folder, progress):
    if isinstance(source, TokenStream):
        files = source
    elif isinstance(source, (str, os.PathLike)):
        files = TokenFiles(path_of(source))
    elif folder is not None:
        files = write_tokens(source, tokenizer, folder, progress=progress)
    else:
        parent = Path(tempfile.mkdtemp(prefix="kerasllm-tokens-"))
        try:
            files = write_tokens(source, tokenizer, parent / "tokens", progress=progress)
        except BaseException:
            shutil.rmtree(parent, ignore_errors=True)
            raise
        weakref.finalize(files, shutil.rmtree, parent, ignore_errors=True)
    files.check(tokenizer)
    return files
