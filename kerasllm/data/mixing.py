"""Windows of a mixture: which source the windows of an epoch come from, and which windows of it they are."""

import numpy as np
import tensorflow as tf


def mixed_windows(mixture, windows_of_sources, seq_len, seed, permuted):
    """How many windows an epoch of a mixture has, and where they are.

    Args:
        mixture: `TokenMixture`.
        windows_of_sources: list of `windows.Windows`.
        seq_len: int.
        seed: int.
        permuted: function (indices, count, seed, epoch) -> int64 tensor: a permutation of 0 … count - 1.

    Returns:
        The count, and pieces(indices, epoch) as of `windows.Windows`, in the joined stream.
    """
    counts = [
        min(windows.count, budget // seq_len) if budget else windows.count
        for windows, budget in zip(windows_of_sources, mixture.budgets, strict=True)
    ]
    for source, count in zip(mixture.sources, counts, strict=True):
        if not count:
            raise ValueError(f"{source.name} makes no window of seq_len={seq_len}: give more of it, or leave it out.")
    count = int(min(number / share for number, share in zip(counts, mixture.shares, strict=True)))
    ends = np.rint(np.cumsum(mixture.shares) * count).astype(np.int64)
    begins = np.append(0, ends[:-1])
    before = np.cumsum([0, *(source.num_tokens for source in mixture.sources)])

    def pieces(indices, epoch):
        indices = np.asarray(indices)
        found = []
        for number, windows in enumerate(windows_of_sources):
            rows = np.flatnonzero((indices >= begins[number]) & (indices < ends[number]))
            seen = indices[rows] - begins[number] + epoch * (ends[number] - begins[number])
            for turn in np.unique(seen // counts[number]).tolist():  # how often the source was seen whole
                of_turn = rows[seen // counts[number] == turn]
                places = tf.constant(seen[seen // counts[number] == turn] % counts[number], tf.int64)
                chosen = permuted(places, counts[number], seed + number + 1, turn).numpy()
                row, begin, length = windows.pieces(chosen, turn)
                found.append((of_turn[row], begin + before[number], length))
        row, begin, length = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.argsort(row, kind="stable")
        return row[order], begin[order], length[order]

    return count, pieces
