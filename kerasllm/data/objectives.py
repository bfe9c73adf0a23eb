"""What a model learns from tokens: data sets of (inputs, labels, sample_weight).

The order of the windows is a function of (seed, epoch, step) alone: nothing is remembered, so that a run resumes at any
step at no cost.
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

from kerasllm.data.packing import lay_out, plan_windows
from kerasllm.data.token_files import TokenFiles, write_tokens


def causal_lm_dataset(
    documents_or_token_dir,
    tokenizer,
    seq_len,
    batch_size,
    seed=0,
    epochs=1,
    start_step=0,
    packed=False,
    *,
    shuffle=True,
    token_folder=None,
    progress=True,
):
    """Batches for next-token prediction.

    Without packing, the documents stand end to end, each with its end token, and are cut into windows of seq_len
    tokens; the labels are the same tokens one place on. The first epoch cuts at multiples of seq_len, each later one at
    a shifted place, so that no token always stands at a window's beginning. With `packed=True`, windows hold whole
    documents where they fit (see `packing.plan_windows`), `document_ids` keeps them apart, and no label reaches from
    one document into the next. Documents longer than seq_len go on in further windows.

    `fit` starts a finite data set again in the same order at each of its own epochs. So give all epochs here and tell
    `fit` their length: `model.fit(dataset, epochs=3, steps_per_epoch=len(dataset) // 3)`.

    Args:
        documents_or_token_dir: iterable of str, which is tokenized to disk first; or a folder made by
            `write_tokens`; or `TokenFiles`.
        tokenizer: `kerasllm.tokenizers.Tokenizer`.
        seq_len: int T, tokens in a window.
        batch_size: int B, windows in a batch.
        seed: int, decides the order.
        epochs: int, how often the data set goes through the windows, shuffled anew each time.
        start_step: int, batches to leave out at the beginning: those that an interrupted run has seen.
        packed: bool, as described above.
        shuffle: bool. False is for validation: windows in order, the last one and the last batch filled up with weight
            0, so that every label counts once. With True, windows that do not fill a batch are left out of that epoch.
        token_folder: where the tokens of documents are to be kept. By default they go to a temporary folder that lives
            as long as the data set.
        progress: bool, whether to show the progress of tokenizing.

    Returns:
        A `tf.data.Dataset` of known length, with static shapes: (token_ids int32 (B, T), labels int32 (B, T),
        sample_weight float32 (B, T)). With `packed=True` the first is {"token_ids": (B, T), "document_ids": int32 (B,
        T)}, where the documents of a window are 1, 2, … and padding is 0.

    Raises:
        ValueError: for sizes below 1, a start_step past the end, tokens of another tokenizer, or too little text to
            fill one batch.
        FileNotFoundError: where there are no token files.

    Example:

    >>> from kerasllm.tokenizers import Tokenizer
    >>> documents = ["to be, or not to be", "that is the question"]
    >>> tokenizer = Tokenizer.train(documents, kind="char", progress=False)
    >>> dataset = causal_lm_dataset(documents, tokenizer, seq_len=8, batch_size=2, progress=False)
    >>> len(dataset)
    2
    """
    _check(
        seq_len=(seq_len, 1), batch_size=(batch_size, 1), epochs=(epochs, 1), seed=(seed, 0), start_step=(start_step, 0)
    )
    files = _token_files(documents_or_token_dir, tokenizer, token_folder, progress)
    windows = _packed_windows(files, seq_len) if packed else _stream_windows(files, seq_len, seed, shuffle)
    steps_per_epoch = windows.count // batch_size if shuffle else -(-windows.count // batch_size)
    if not steps_per_epoch:
        raise ValueError(
            f"{files.num_tokens} tokens make {windows.count} windows of seq_len={seq_len}, fewer than one batch of "
            f"batch_size={batch_size}. Give more text, or lower seq_len or batch_size."
        )
    steps = epochs * steps_per_epoch
    if start_step >= steps:
        raise ValueError(
            f"start_step={start_step} is past the end: {epochs} epochs of {steps_per_epoch} steps are steps 0 to "
            f"{steps - 1}. Raise epochs to train on."
        )

    def read(numbers, epoch):
        arrays = lay_out(files.tokens, *windows.pieces(numbers, epoch), (batch_size, seq_len), tokenizer.pad_id or 0)
        if arrays[0].max() >= files.vocab_size or arrays[1].max() >= files.vocab_size:
            raise ValueError(
                f"{files.folder} holds token ids past its vocabulary of {files.vocab_size}: it is damaged."
            )
        return arrays

    weak_read = weakref.ref(read)  # TensorFlow keeps what it is given for ever; the files are to go with the data set

    def batch_at(step):
        epoch, step = step // steps_per_epoch, step % steps_per_epoch
        numbers = step * batch_size + tf.range(batch_size, dtype=tf.int64)
        if shuffle:
            numbers = _permuted(numbers, windows.count, seed, epoch)
        arrays = tf.numpy_function(lambda *where: weak_read()(*where), [numbers, epoch], [tf.int32] * 3, stateful=False)
        ids, labels, document_ids = (tf.ensure_shape(array, (batch_size, seq_len)) for array in arrays)
        weight = tf.cast(document_ids > 0, tf.float32)
        return ({"token_ids": ids, "document_ids": document_ids} if packed else ids), labels, weight

    dataset = tf.data.Dataset.range(start_step, steps).map(batch_at)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps - start_step)).prefetch(2)
    # Autotuning has nothing to tune here, and its thread sleeps 10 ms, 20 ms, 40 ms …: the end of an epoch waits until
    # it wakes, which can take as long as the epoch itself (measured: 20.5 s for an epoch of 10.3 s).
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = dataset.with_options(options)
    dataset.read = read
    return dataset


class _Windows(NamedTuple):
    """A number of windows, and pieces(numbers, epoch) -> (row, begin, length), what `lay_out` takes."""

    count: int
    pieces: Callable


def _stream_windows(files, seq_len, seed, shuffle):
    pairs = files.num_tokens - 1

    def pieces(numbers, epoch):
        shift = np.random.default_rng([seed, epoch]).integers(seq_len) if shuffle and epoch else 0
        row, begin = np.arange(len(numbers)), numbers * seq_len
        length = np.clip(pairs - begin, 0, seq_len)
        return row, begin + shift, length  # what is shifted past the end goes on at the beginning

    return _Windows(pairs // seq_len if shuffle else -(-pairs // seq_len), pieces)


def _packed_windows(files, seq_len):
    plan = plan_windows(files.document_ends, seq_len)

    def pieces(numbers, epoch):
        numbers = np.minimum(numbers, plan.num_windows)
        counts = plan.first[np.minimum(numbers + 1, plan.num_windows)] - plan.first[numbers]
        row = np.repeat(np.arange(len(numbers)), counts)
        piece = np.arange(len(row)) + np.repeat(plan.first[numbers] - np.cumsum(counts) + counts, counts)
        return row, plan.begin[piece], plan.length[piece]

    return _Windows(plan.num_windows, pieces)


def _permuted(numbers, count, seed, epoch):
    """Where a permutation of 0 … count - 1, one for each seed and epoch, takes some numbers: nothing is stored."""
    parts = [
        tf.constant(seed % 2**32, tf.uint32),
        tf.constant(seed // 2**32 % 2**32, tf.uint32),
        tf.cast(epoch, tf.uint32),
    ]
    last = tf.constant(count - 1, tf.int64)
    return tf.raw_ops.RandomIndexShuffle(index=numbers, seed=tf.stack(parts), max_index=last, rounds=4)


def _token_files(source, tokenizer, folder, progress):
    if isinstance(source, TokenFiles):
        files = source
    elif isinstance(source, (str, os.PathLike)):
        files = TokenFiles(source)
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


def _check(**values):
    for name, (value, least) in values.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")
