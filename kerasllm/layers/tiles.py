"""Scaled dot-product attention of long sequences, tile by tile: some queries and some keys at a time, as many as the
cache of a core holds. No score outlives its tile, not even for the gradient, which computes it again.

Shapes: B batch, H query heads, K key/value heads, T query time, S key time, h head_dim; N = B K, G = H / K. A tile has
P keys and, of Q queries of G heads, C = G Q columns. Its scores are (N, P, C), keys first: so no product of them needs
them transposed, which takes a CPU as long as the product.

Reference: Dao et al. 2022, https://arxiv.org/abs/2205.14135
"""

import functools
from typing import NamedTuple

import keras
from keras import ops

from kerasllm import backend
from kerasllm.layers.masks import Sight
from kerasllm.layers.rematerialization import next_seed

# From so many queries on, attention goes tile by tile.
LONG = 1024
# Keys and columns of a tile. Three tensors of scores fit the cache of a CPU's core.
ON_CPU, ELSEWHERE = 256, 1024
FEWEST_QUERIES = 16
# What no score is below, and what hidden ones are: so far that their exponential is 0, also where every key is hidden.
LOWEST, HIDDEN = -5e8, -1e9
_MIX = -1640531535  # odd and large: 2^32 over the golden ratio, as an int32


def is_long(T, S):
    """Whether probabilities cost more memory than they should; both lengths must be known when the graph is made."""
    return isinstance(T, int) and isinstance(S, int) and T >= LONG


def attend_in_tiles(query, key, value, sight, soft_cap, dropout, training):
    """The output of `dot_product.attend`, and zeros for a query that sees no key.

    Args:
        query, key, value, soft_cap, dropout, training: see `dot_product.attend`. T and S are known.
        sight: Sight.
    """
    B, H, T, _ = ops.shape(query)
    K, S = key.shape[1:3]
    seed = next_seed(dropout) if training else None
    if seed is None and sight.key_ids is sight.query_ids:
        output = backend.flash_attention(query, key, value, *sight[:3], soft_cap)
        if output is not None:
            return output
    tiles = _Tiles.of(H // K, T, S, sight, soft_cap, 0.0 if seed is None else dropout.rate, query.dtype)
    # JAX wants a function with a gradient of its own to be given all tensors that it needs.
    given = []
    if tiles.has_ids:
        pairs = (sight.query_ids, tiles.Q), (sight.key_ids, tiles.P)
        given += [ops.repeat(_padded(ids, 1, size), K, axis=0) for ids, size in pairs]
    if seed is not None:
        first = seed[0] * _MIX + ops.arange(B * K, dtype="int32")
        given.append(ops.stack([first, ops.full_like(first, seed[1] * _MIX)], axis=1))

    def heads(tensor, size):
        shape = (B * K, tensor.shape[1] // K, *tensor.shape[2:])
        return _padded(ops.reshape(tensor, shape), 2, size)

    def joined(tensor, like):
        return ops.reshape(tensor[:, :, : like.shape[2]], (B, *like.shape[1:]))

    @ops.custom_gradient
    def attended(query, key, value, *given):
        tensors = heads(query, tiles.Q), heads(key, tiles.P), heads(value, tiles.P)
        output, log_sums = backend.by_rows(_forward, tiles, *tensors, *given)

        def gradient(upstream):
            last = output, log_sums, heads(upstream, tiles.Q)
            parts = backend.by_rows(_backward, tiles, *tensors, *last, *given)
            return *map(joined, parts, (query, key, value)), *[None] * len(given)

        return joined(output, query), gradient

    return attended(query, key, value, *given)


def _forward(tiles, query, key, value, *given):
    """The output and the logarithms of the sums of exponentials of scores, (N, 1, G, T)."""
    ids, seeds = tiles.parts(given)
    dtype = query.dtype
    query, key, value = (ops.cast(tensor, tiles.narrow) for tensor in (query, key[:, 0], value[:, 0]))
    queries, values = ops.transpose(query, (0, 3, 1, 2)), ops.transpose(value, (0, 2, 1))
    N, h, G, T = ops.shape(queries)
    meetings = tiles.meetings(ids)

    def for_queries(i, output, log_sums):
        of_queries = tiles.columns(queries, i)

        def for_keys(j, largest, total, read):
            scores, _ = tiles.scores(tiles.keys(key, 1, j), of_queries, i, j, ids)
            larger = ops.maximum(largest, ops.max(scores, axis=1, keepdims=True))
            weights, less = ops.exp(scores - larger), ops.exp(largest - larger)
            dropped = tiles.dropped(weights, i, j, seeds)
            read = read * less + tiles.product(tiles.keys(values, 2, j), dropped)
            return j + 1, larger, total * less + ops.sum(weights, axis=1, keepdims=True), read

        C = G * tiles.Q
        begin = (
            ops.full((N, 1, C), LOWEST, tiles.wide),
            ops.zeros((N, 1, C), tiles.wide),
            ops.zeros((N, h, C), tiles.wide),
        )
        first, last = tiles.seen_by(i, meetings)
        _, largest, total, read = backend.while_loop(lambda j, *_: j < last, for_keys, (first, *begin))
        total = ops.maximum(total, 1e-30)
        return i + 1, tiles.put(output, read / total, i), tiles.put(log_sums, largest + ops.log(total), i)

    state = 0, ops.zeros((N, h, G, T), tiles.wide), ops.zeros((N, 1, G, T), tiles.wide)
    _, output, log_sums = backend.while_loop(lambda i, *_: i < T // tiles.Q, for_queries, state)
    return ops.cast(ops.transpose(output, (0, 2, 3, 1)), dtype), log_sums


def _backward(tiles, query, key, value, output, log_sums, upstream, *given):
    """The gradient by queries, keys and values."""
    ids, seeds = tiles.parts(given)
    dtype = query.dtype
    query, key, value, upstream = (
        ops.cast(tensor, tiles.narrow) for tensor in (query, key[:, 0], value[:, 0], upstream)
    )
    queries, upstreams = (ops.transpose(tensor, (0, 3, 1, 2)) for tensor in (query, upstream))
    keys = ops.transpose(key, (0, 2, 1))
    inner = ops.cast(upstream, tiles.wide) * ops.cast(output, tiles.wide)
    inner = ops.transpose(ops.sum(inner, axis=-1, keepdims=True), (0, 3, 1, 2))
    N, h, G, T = ops.shape(queries)
    S, meetings = key.shape[1], tiles.meetings(ids)

    def for_keys(j, by_query, by_key, by_value):
        of_keys, of_values, columns_of_keys = tiles.keys(key, 1, j), tiles.keys(value, 1, j), tiles.keys(keys, 2, j)

        def for_queries(i, by_query, by_key, by_value):
            scores, steepness = tiles.scores(of_keys, tiles.columns(queries, i), i, j, ids)
            weights = ops.exp(scores - tiles.columns(log_sums, i))
            dropped = tiles.dropped(weights, i, j, seeds)
            slope = dropped * tiles.product(of_values, tiles.columns(upstreams, i))
            slope = (slope - weights * tiles.columns(inner, i)) * steepness
            by_value = by_value + tiles.product(dropped, tiles.rows(upstream, i))
            by_key = by_key + tiles.product(slope, tiles.rows(query, i))
            more = tiles.columns(by_query, i) + tiles.product(columns_of_keys, slope)
            return i + 1, tiles.put(by_query, more, i), by_key, by_value

        zeros = ops.zeros((N, tiles.P, h), tiles.wide)
        first, last = tiles.seeing(j, meetings)
        _, by_query, *sums = backend.while_loop(lambda i, *_: i < last, for_queries, (first, by_query, zeros, zeros))
        written = (
            backend.slice_update(*pair, (0, j * tiles.P, 0)) for pair in zip((by_key, by_value), sums, strict=True)
        )
        return j + 1, by_query, *written

    state = 0, ops.zeros((N, h, G, T), tiles.wide), *[ops.zeros((N, S, h), tiles.wide)] * 2
    _, by_query, by_key, by_value = backend.while_loop(lambda j, *_: j < S // tiles.P, for_keys, state)
    parts = ops.transpose(by_query, (0, 2, 3, 1)), by_key[:, None], by_value[:, None]
    return tuple(ops.cast(part, dtype) for part in parts)


class _Tiles(NamedTuple):
    """How the attention of some lengths is laid out, and what is done to a tile: that of queries i and keys j.

    Attributes:
        G, T, S, Q, P: ints, see above.
        sight: Sight without ids.
        has_ids: bool.
        soft_cap: float or None.
        rate: float, of dropout.
        narrow, wide: str, the dtypes of what is multiplied and of everything else.
    """

    G: int
    T: int
    S: int
    Q: int
    P: int
    sight: Sight
    has_ids: bool
    soft_cap: float | None
    rate: float
    narrow: str
    wide: str

    @classmethod
    def of(cls, G, T, S, sight, soft_cap, rate, dtype):
        on_cpu, dtype = backend.on_cpu(), keras.backend.standardize_dtype(dtype)
        size = ON_CPU if on_cpu else ELSEWHERE
        wide = "float64" if dtype == "float64" else "float32"
        lengths = G, T, S, max(size // G, FEWEST_QUERIES), size
        has_ids = sight.key_ids is not None
        # What XLA multiplies on CPUs in less than float32 takes longer.
        return cls(*lengths, Sight(*sight[:2]), has_ids, soft_cap, rate, wide if on_cpu else dtype, wide)

    def parts(self, given):
        """Ids of queries and keys (N, T) and (N, S), and seeds (N, 2); None where there are none."""
        given = list(given)
        ids = (given.pop(0), given.pop(0)) if self.has_ids else None
        return ids, given[0] if given else None

    def meetings(self, ids):
        """Whether queries of a tile may see keys of another by their ids, bool (T / Q, S / P); None without ids."""
        if ids is None:
            return None
        tiles = [
            ops.reshape(part, (-1, part.shape[1] // size, size))
            for part, size in zip(ids, (self.Q, self.P), strict=True)
        ]
        (low, high), (key_low, key_high) = ((ops.min(part, axis=2), ops.max(part, axis=2)) for part in tiles)
        meet = ops.logical_and(low[:, :, None] <= key_high[:, None], key_low[:, None] <= high[:, :, None])
        return ops.any(meet, axis=0)

    def seen_by(self, i, meetings):
        """The first tile of keys that a tile of queries may see, and the one after the last."""
        causal, window, _, _ = self.sight
        begin, end, last = i * self.Q, (i + 1) * self.Q, -(-self.S // self.P)
        first = ops.maximum(begin - window + 1, 0) // self.P if window else 0
        if causal or window:
            last = ops.minimum((end + (0 if causal else window - 1) - 1) // self.P + 1, last)
        return _narrowed(first, last, None if meetings is None else meetings[i])

    def seeing(self, j, meetings):
        """The first tile of queries that may see a tile of keys, and the one after the last."""
        causal, window, _, _ = self.sight
        begin, end, last = j * self.P, (j + 1) * self.P, -(-self.T // self.Q)
        first = begin // self.Q if causal else ops.maximum(begin - window + 1, 0) // self.Q if window else 0
        if window:
            last = ops.minimum((end + window - 2) // self.Q + 1, last)
        return _narrowed(first, last, None if meetings is None else meetings[:, j])

    def columns(self, tensor, i):
        """Those of queries i in a tensor (N, n, G, T): (N, n, C)."""
        N, n, G, _ = ops.shape(tensor)
        return ops.reshape(ops.slice(tensor, (0, 0, 0, i * self.Q), (N, n, G, self.Q)), (N, n, G * self.Q))

    def put(self, tensor, columns, i):
        """Columns (N, n, C) of queries i written into a tensor (N, n, G, T)."""
        N, n, _ = ops.shape(columns)
        return backend.slice_update(tensor, ops.reshape(columns, (N, n, self.G, self.Q)), (0, 0, 0, i * self.Q))

    def rows(self, tensor, i):
        """Those of queries i in a tensor (N, G, T, h): (N, C, h)."""
        N, G, _, h = ops.shape(tensor)
        return ops.reshape(ops.slice(tensor, (0, 0, i * self.Q, 0), (N, G, self.Q, h)), (N, G * self.Q, h))

    def keys(self, tensor, axis, j):
        """Those of keys j along an axis of a tensor of three."""
        start, shape = [0, 0, 0], list(ops.shape(tensor))
        start[axis], shape[axis] = j * self.P, self.P
        return ops.slice(tensor, start, shape)

    def product(self, x, y):
        return ops.cast(backend.matmul(ops.cast(x, self.narrow), ops.cast(y, self.narrow)), self.wide)

    def scores(self, keys, queries, i, j, ids):
        """Scores (N, P, C), and how steep a soft cap is at them."""
        scores, steepness = self.product(keys, queries), 1.0
        if self.soft_cap is not None:
            bent = ops.tanh(scores / self.soft_cap)
            scores, steepness = self.soft_cap * bent, 1.0 - ops.square(bent)
        visible = self._visible(i, j, ids)
        if visible is not None:
            N, P, C = ops.shape(scores)
            by_head = ops.reshape(scores, (N, P, self.G, self.Q))
            scores = ops.reshape(ops.where(visible, by_head, HIDDEN), (N, P, C))
        return scores, steepness

    def _visible(self, i, j, ids):
        """Bool, broadcastable to (N, P, G, Q), or None."""
        causal, window, _, _ = self.sight
        places = j * self.P + ops.arange(self.P, dtype="int32")[:, None]
        distance = i * self.Q + ops.arange(self.Q, dtype="int32") - places
        conditions = [places < self.S] if self.S % self.P else []
        if causal:
            conditions.append(distance >= 0)
        if window:
            conditions.append(distance < window if causal else ops.abs(distance) < window)
        conditions = [condition[None, :, None] for condition in conditions]
        if ids is not None:
            of_queries, of_keys = (
                ops.slice(part, (0, at * size), (ops.shape(part)[0], size))
                for part, at, size in zip(ids, (i, j), (self.Q, self.P), strict=True)
            )
            conditions.append(of_keys[:, :, None, None] == of_queries[:, None, None])
        return functools.reduce(ops.logical_and, conditions) if conditions else None

    def dropped(self, weights, i, j, seeds):
        if seeds is None:
            return weights
        step = ops.stack([0, ops.cast(i * (-(-self.S // self.P)) + j, "int32")])
        return backend.dropout(weights, self.rate, seeds[0] + step)


def _padded(tensor, axis, multiple):
    """A tensor with zeros after it along an axis, so that its length is a multiple of another."""
    more = -tensor.shape[axis] % multiple
    return ops.pad(tensor, [(0, more if i == axis else 0) for i in range(len(tensor.shape))]) if more else tensor


def _narrowed(first, last, meetings):
    """A range of tiles, without those at its ends that do not meet what it is for."""
    if meetings is None:
        return first, last
    meetings = ops.cast(meetings, "int32")
    count = meetings.shape[0]
    return ops.maximum(ops.argmax(meetings), first), ops.minimum(count - ops.argmax(ops.flip(meetings)), last)
