"""Windows that are short in the first steps of a run, and long later."""

import itertools
from collections.abc import Callable, Sequence

import tensorflow as tf


def curriculum_dataset(
    make_dataset: Callable[..., tf.data.Dataset],
    seq_len: int,
    batch_size: int,
    warmup: Sequence[tuple[int, int]],
    *,
    epochs: int = 1,
    start_step: int = 0,
) -> tf.data.Dataset:
    """Batches of short windows in the first steps, and of `seq_len` tokens then (Li et al. 2022, arXiv:2108.06084).

    A batch has as many tokens throughout, and so more rows of short windows. Step s has batch s of the data set that
    windows of its length make by themselves, so that the order is a function of (seed, step) as everywhere.

    Args:
        make_dataset: function (seq_len, batch_size, epochs=, start_step=) that returns a data set, such as
            `functools.partial(causal_lm_dataset, tokens, tokenizer)`.
        seq_len: int T, tokens of a window at last.
        batch_size: int B, windows of a batch at last.
        warmup: list of (tokens of a window, steps), in their order.
        epochs, start_step: as in `causal_lm_dataset`.

    Returns:
        A `tf.data.Dataset` of known length, of the elements of `make_dataset`, whose first two axes differ.

    Raises:
        ValueError: for windows that do not divide seq_len, and steps below 1.

    Example:

    >>> make = functools.partial(kerasllm.data.causal_lm_dataset, "tokens", tokenizer)
    >>> dataset = kerasllm.data.curriculum_dataset(make, 4096, 8, [(1024, 2000)])
    """
    for length, steps in warmup:
        if length < 1 or seq_len % length or steps < 1:
            raise ValueError(
                f"A warm-up has windows of a length that divides {seq_len}, for 1 step at least: got {length} tokens "
                f"for {steps} steps."
            )
    whole = make_dataset(seq_len, batch_size, epochs=epochs, start_step=0)
    total = len(whole)
    ends = [min(end, total) for end in itertools.accumulate(steps for _, steps in warmup)]
    stages = [(length, end) for (length, _), end in zip(warmup, ends, strict=True)] + [(seq_len, total)]
    if start_step >= total:
        raise ValueError(f"start_step={start_step} is past the end: {epochs} epochs are steps 0 to {total - 1}.")

    parts, begin = [], start_step
    for length, end in stages:
        if begin < end:
            of_stage = make_dataset(
                length, batch_size * (seq_len // length), epochs=epochs + 1, start_step=begin
            )  # one epoch more, as those of short windows may be a step shorter
            parts.append((begin, of_stage.take(end - begin), of_stage.documents_at))
            begin = end
    dataset = parts[0][1]
    for _, part, _ in parts[1:]:
        dataset = dataset.concatenate(part)

    def documents_at(step):
        """As of the data set that the batch is of."""
        return next(of_stage for begin, _, of_stage in reversed(parts) if step >= begin)(step)

    dataset.documents_at = documents_at
    for name in ("num_examples", "batch_size"):
        setattr(dataset, name, getattr(whole, name))
    return dataset
