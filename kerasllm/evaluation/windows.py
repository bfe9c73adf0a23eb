"""Sequences of ids cut into windows no longer than a model's context, and windows gathered in batches of one shape."""

from itertools import islice

import numpy as np

from kerasllm.models.shapes import built_length, context_length, fixed_length

# The logits of one batch (B x T x V) are the largest tensor of a scoring step: 2**26 of them take 256 MB in float32.
_LOGITS_PER_BATCH = 2**26
_MAX_BATCH_SIZE = 64


def rolling_windows(length, context, stride):
    """Cuts a sequence of `length` predictions into windows in which each is made exactly once.

    Args:
        length: Number of predictions, one less than the number of ids.
        context: Most ids that a window takes in.
        stride: Predictions scored by each window after the first, in [1, context].

    Yields:
        (begin, end, scored): the window takes in ids[begin:end], predicts ids[begin + 1 : end + 1], and the last
        `scored` predictions count.

    Example:

    >>> list(rolling_windows(10, context=4, stride=4))
    [(0, 4, 4), (4, 8, 4), (6, 10, 2)]
    """
    done = 0
    while done < length:
        end = min(done + (stride if done else context), length)
        yield max(0, end - context), end, end - done
        done = end


def cut_windows(sequences, context, stride, vocab_size):
    """Yields (ids of a window and the one after it, predictions that count)."""
    for ids in sequences:
        for begin, end, scored in rolling_windows(len(ids) - 1, context, stride):
            window = np.asarray(ids[begin : end + 1])
            check_ids(window, vocab_size)
            yield window, scored


def check_ids(ids, vocab_size):
    """Refuses token ids, an int array, that a model has no rows for."""
    if ids.min() < 0 or ids.max() >= vocab_size:
        bad = ids.min() if ids.min() < 0 else ids.max()
        raise ValueError(
            f"Token id {bad} is outside the model's vocabulary of {vocab_size} (0 to {vocab_size - 1}); "
            "score with the tokenizer that the model was trained with."
        )


def batches(windows, batch_size, width, pad_id):
    """Yields ((token_ids, labels, weights), tokens scored); one shape (batch_size, width), so one compilation."""
    while rows := list(islice(windows, batch_size)):
        token_ids = np.full((batch_size, width), pad_id, "int32")
        labels = np.zeros((batch_size, width), "int32")
        weights = np.zeros((batch_size, width), "float32")
        for row, (window, scored) in enumerate(rows):
            length = len(window) - 1
            token_ids[row, :length] = window[:-1]
            labels[row, :length] = window[1:]
            weights[row, length - scored : length] = 1
        yield (token_ids, labels, weights), sum(scored for _, scored in rows)


def window_lengths(model, context):
    """Returns (longest window, length to pad windows to)."""
    longest = context_length(model)
    if context is None:
        context = longest or built_length(model)
    if context is None:
        raise ValueError("This model does not say how long its input may be; give context=, in tokens.")
    if context < 1 or (longest and context > longest):
        possible = f"at most {longest}, the longest input of this model" if longest else "1 or more"
        raise ValueError(f"context={context} is not possible; give {possible}.")
    return context, fixed_length(model) or context


def rows_at_once(width, vocab_size):
    """How many windows to score at once where nobody has said: few enough for their logits to fit into memory."""
    return max(1, min(_MAX_BATCH_SIZE, _LOGITS_PER_BATCH // (width * vocab_size)))
