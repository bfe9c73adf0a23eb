"""Between tokens (B, T, width) and heads (B, H, T, h): what attention does around its scores.

Shapes: B batch, T query time, S key time, H heads, K key/value heads, h head_dim.
"""

from keras import ops

from kerasllm import backend


def split_heads(x, heads):
    """Parts of equal width (B, T, H h) as heads (B, H, T, h)."""
    B, T, width = ops.shape(x)
    return ops.transpose(ops.reshape(x, (B, T, heads, width // heads)), (0, 2, 1, 3))


def split_projections(x, *heads):
    """Projections side by side (B, T, all heads h), as heads (B, H, T, h) of each; `heads` says how many each has."""
    if len(set(heads)) > 1:
        return backend.split(split_heads(x, sum(heads)), heads, axis=1)
    B, T, width = ops.shape(x)
    x = ops.reshape(x, (B, T, len(heads), heads[0], width // sum(heads)))
    return ops.unstack(ops.transpose(x, (2, 0, 3, 1, 4)))  # Each is a piece of memory, which costs nothing to take.


def projected_heads(dense, x, head_dim, *heads):
    """What a dense layer of projections side by side makes of vectors (B, T, any), as heads (B, H, T, h) of each."""
    parts = dense.in_parts(x, [count * head_dim for count in heads], heads)
    if parts is None:
        return split_projections(dense(x), *heads)
    return [split_heads(part, count) for part, count in zip(parts, heads, strict=True)]


def join_heads(x):
    """Heads (B, H, T, h) side by side, (B, T, H h)."""
    B, H, T, h = ops.shape(x)
    return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (B, T, H * h))


def normed_heads(heads, norm, as_one):
    """Heads (B, H, T, h), normalised each alone, or all those of a token as one."""
    if norm is None:
        return heads
    return split_heads(norm(join_heads(heads)), heads.shape[1]) if as_one else norm(heads)


def scaled_queries(initializer, width, factor):
    """An initializer of kernels whose first `width` columns, those of queries, are multiplied by a factor."""

    def initialize(shape, dtype=None):
        kernel = initializer(shape, dtype)
        return ops.concatenate([factor * kernel[:, :width], kernel[:, width:]], axis=-1)

    return initialize
