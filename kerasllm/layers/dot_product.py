"""Scaled dot-product attention: all at once, or block by block of queries with a gradient of its own.

Shapes: B batch, T query time, S key time, H query heads, K key/value heads, h head_dim.
"""

from typing import NamedTuple

from keras import ops

from kerasllm import backend
from kerasllm.layers import masks
from kerasllm.layers.rematerialization import next_seed
from kerasllm.layers.taps import tap

# In a block.
QUERIES = 128


def attend(query, key, value, visible, position_bias, soft_cap, dropout, training, layer):
    """What queries read.

    Args:
        query: float (B, H, T, h), scaled: its products with keys are the scores.
        key, value: float (B, K, S, h).
        visible: bool, broadcastable to (B, H, T, S), or None.
        position_bias: float, broadcastable to (B, H, T, S), or None.
        soft_cap: float or None, the size that scores approach but never reach.
        dropout: the layer for probabilities.
        training: bool.
        layer: whose scores and probabilities they are, for `taps`.

    Returns:
        float (B, H, T, h), and the probabilities (B, H, T, S).
    """
    scores = tap(_scores(query, key, soft_cap), layer, "scores")
    probabilities = tap(_probabilities(scores, visible, position_bias), layer, "probabilities")
    return _product(dropout(probabilities, training=training), value), probabilities


def block_ranges(T, S, causal, window):
    """Pairs of slices: some queries, and the keys of which they may see some; one pair where nothing is gained."""
    if not (isinstance(T, int) and isinstance(S, int)) or not (causal or window):
        return masks.WHOLE
    ranges = []
    for begin in range(0, T, QUERIES):
        end = min(begin + QUERIES, T)
        first = max(0, begin - window + 1) if window else 0
        last = min(end if causal else end + window - 1 if window else S, S)
        ranges.append((slice(begin, end), slice(first, last)))
    return ranges


def attend_in_blocks(query, key, value, mask, soft_cap, dropout, training):
    """The output of `attend`. Where keys are hidden from a whole block of queries, nothing is computed of them: of
    causal attention nearly half.

    The gradient is written out, as it needs fewer passes over scores than one derived step by step.

    Args:
        query, key, value, soft_cap, dropout, training: see `attend`.
        mask: Mask, in blocks of `block_ranges`.

    Reference: Rabe and Staats 2021, https://arxiv.org/abs/2112.05682
    """
    all_blocks = [
        _Block(*block, soft_cap, dropout.rate, next_seed(dropout) if training else None) for block in mask.blocks
    ]

    # JAX wants a function with a gradient of its own to be given all tensors that it needs.
    known = [tensor for block in all_blocks for tensor in (block.visible, block.seed) if tensor is not None]

    @backend.custom_gradient
    def attended(query, key, value, *known):
        given = iter(known)
        blocks = [block.of(given) for block in all_blocks]
        parts = [block.probabilities(query, key) for block in blocks]
        read = [_product(part.dropped, block.of_keys(value)) for block, part in zip(blocks, parts, strict=True)]
        output = _joined(read)

        def gradient(upstream):
            inner = ops.sum(upstream * output, axis=-1, keepdims=True)
            by_query, by_key, by_value = [], [], []
            for block, part in zip(blocks, parts, strict=True):
                above = block.of_queries(upstream)
                slope = _product(above, block.of_keys(value), transpose=True)
                slope = backend.fused(_slope, part.whole, part.dropped, slope, block.of_queries(inner))
                if part.steepness is not None:
                    slope = slope * part.steepness
                by_query.append(_product(slope, block.of_keys(key)))
                by_key.append(_sum_over_queries(slope, block.of_queries(query), key))
                by_value.append(_sum_over_queries(part.dropped, above, key))
            by_all = _joined(by_query), _added(by_key, blocks, key), _added(by_value, blocks, value)
            return *by_all, *[None] * len(known)

        return output, gradient

    return attended(query, key, value, *known)


class _Block(NamedTuple):
    """What is computed of some of the queries.

    Attributes:
        queries, keys, visible: of a `MaskBlock`.
        soft_cap: float or None.
        rate: float, of dropout.
        seed: int32 (2,) or None, of dropout.
    """

    queries: slice
    keys: slice
    visible: object
    soft_cap: float | None
    rate: float
    seed: object

    def of(self, tensors):
        """The block with those of its tensors that it has taken from an iterator."""
        parts = {name: next(tensors) for name in ("visible", "seed") if getattr(self, name) is not None}
        return self._replace(**parts)

    def of_queries(self, tensor):
        return tensor[:, :, self.queries]

    def of_keys(self, tensor):
        return tensor[:, :, self.keys]

    def probabilities(self, query, key):
        scores = _scores(self.of_queries(query), self.of_keys(key), self.soft_cap)
        steepness = None if self.soft_cap is None else 1 - ops.square(scores / self.soft_cap)
        probabilities = _probabilities(scores, self.visible)
        if self.seed is None:
            return _Probabilities(probabilities, probabilities, steepness)
        return _Probabilities(probabilities, backend.dropout(probabilities, self.rate, self.seed), steepness)


class _Probabilities(NamedTuple):
    """Of a block: before dropout, after it, and how steep a soft cap is at the scores, or None."""

    whole: object
    dropped: object
    steepness: object


def _scores(query, key, soft_cap=None):
    """What queries (B, H, T, h) give keys (B, K, S, h): (B, H, T, S)."""
    scores = _product(query, key, transpose=True)
    return scores if soft_cap is None else soft_cap * ops.tanh(scores / soft_cap)


def _probabilities(scores, visible, position_bias=None):
    """The softmax of scores (B, H, T, S), with a bias, of the keys that are visible."""
    if position_bias is not None:
        scores = scores + ops.cast(position_bias, scores.dtype)
    if visible is not None:
        scores = scores - masks.penalty(visible, scores.dtype)
    return ops.softmax(scores)


def _slope(whole, dropped, by_dropped, inner):
    """The gradient by scores, from that by probabilities after dropout."""
    return dropped * by_dropped - whole * inner


def _product(x, y, transpose=False):
    """(B, H, T, n) times (B, K, n, m) or, transposed, (B, K, m, n): each group of heads with its key head.

    The H / K query heads of a group line up along time, so that keys need not be repeated.
    """
    B, H, T, n = ops.shape(x)
    K = y.shape[1]
    product = backend.matmul(ops.reshape(x, (B, K, (H // K) * T, n)), y, transpose_y=transpose)
    return ops.reshape(product, (B, H, T, ops.shape(product)[-1]))


def _sum_over_queries(x, y, key):
    """(B, H, T, S) transposed times (B, H, T, h), added up in each group of heads: (B, K, S, h)."""
    B, H, T = ops.shape(x)[:3]
    K = key.shape[1]
    x, y = (ops.reshape(part, (B, K, (H // K) * T, ops.shape(part)[-1])) for part in (x, y))
    return backend.matmul(x, y, transpose_x=True)


def _joined(parts):
    return ops.concatenate(parts, axis=2) if len(parts) > 1 else parts[0]


def _added(parts, blocks, like):
    """Gradients by the keys of each block (B, K, some of S, h), added up where they belong: (B, K, S, h)."""
    total = None
    for part, block in zip(parts, blocks, strict=True):
        if block.keys.stop is not None:
            part = ops.pad(part, ((0, 0), (0, 0), (block.keys.start, like.shape[2] - block.keys.stop), (0, 0)))
        total = part if total is None else total + part
    return total
