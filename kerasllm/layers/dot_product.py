"""Scaled dot-product attention: all at once, or block by block of queries.

Shapes: B batch, T query time, S key time, H query heads, K key/value heads, h head_dim.
"""

from keras import ops

from kerasllm.layers import masks
from kerasllm.layers.rematerialization import next_seed, rematerialized

# Sequences of so many queries or more are attended to in blocks of so many.
LONG, BLOCK = 1024, 512


def attend(query, key, value, visible, position_bias, dropout, training):
    """What queries read.

    Args:
        query: float (B, H, T, h).
        key, value: float (B, K, S, h).
        visible: bool, broadcastable to (B, H, T, S), or None.
        position_bias: float, broadcastable to (B, H, T, S), or None.
        dropout: the layer for probabilities.
        training: bool.

    Returns:
        float (B, H, T, h), and the probabilities (B, H, T, S).
    """
    B, H, T, h = ops.shape(query)
    K, S = ops.shape(key)[1:3]
    # The H / K query heads of a group line up along time, so that keys need not be repeated.
    query = ops.reshape(query * (h**-0.5), (B, K, (H // K) * T, h))
    scores = ops.reshape(ops.matmul(query, ops.swapaxes(key, 2, 3)), (B, H, T, S))
    if position_bias is not None:
        scores = scores + ops.cast(position_bias, scores.dtype)
    if visible is not None:
        scores = scores - masks.penalty(visible, scores.dtype)
    probabilities = ops.softmax(scores)
    dropped = dropout(probabilities, training=training)
    output = ops.matmul(ops.reshape(dropped, (B, K, (H // K) * T, S)), value)
    return ops.reshape(output, (B, H, T, h)), probabilities


def is_long(query, key):
    """Whether `attend_in_blocks` is worth it: both lengths must be known when the graph is made."""
    T, S = query.shape[2], key.shape[2]
    return T is not None and S is not None and T >= LONG


def attend_in_blocks(query, key, value, visible, causal, window, dropout, training):
    """The output of `attend`, without ever holding the scores of all queries, in the backward pass neither.

    Memory grows with the length and not with its square. Where `causal` or `window` hides keys from a whole block of
    queries, nothing is computed of them: of causal attention nearly half.

    Args:
        query, key, value, dropout, training: see `attend`.
        visible: a function (slice of queries, slice of keys) -> mask as in `attend`.
        causal: bool, hides the keys that come after a query.
        window: int or None, hides keys that far away or farther.

    Reference: Rabe and Staats 2021, https://arxiv.org/abs/2112.05682
    """
    T, S = query.shape[2], key.shape[2]
    outputs = []
    for begin in range(0, T, BLOCK):
        end = min(begin + BLOCK, T)
        first = max(0, begin - window + 1) if window else 0
        last = min(end if causal else end + window - 1 if window else S, S)
        queries, keys = slice(begin, end), slice(first, last)
        block = query[:, :, queries], key[:, :, keys], value[:, :, keys]
        hidden = visible(queries, keys)

        def output(query, key, value, visible=hidden):
            return attend(query, key, value, visible, None, dropout, training)[0]

        outputs.append(rematerialized(output, *block, seed=next_seed(dropout)) if training else output(*block))
    return ops.concatenate(outputs, axis=2)
