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
# Keys and columns of a tile: of one head, for a core of a CPU, whose cache holds three tensors of scores; and of all.
OF_ONE, OF_ALL = 256, 512
FEWEST_QUERIES = 16
# What no score is below, and what hidden ones are: so far that their exponential is 0, also where every key is hidden.
LOWEST, HIDDEN = -5e8, -1e9
_MIX = -1640531535  # odd and large: 2^32 over the golden ratio, as an int32


def is_long(T, S):
    """Whether probabilities cost more memory than they should; both lengths must be known when the graph is made."""
    return isinstance(T, int) and isinstance(S, int) and T >= LONG


def has_kernel(layer, training):
    """Whether attention of any length is a kernel of the backend's, as it is on torch."""
    return backend.IS_TORCH and layer.attention_soft_cap is None and not (training and layer.dropout)


def attend_in_tiles(query, key, value, sight, soft_cap, dropout, training):
    """The output of `dot_product.attend`, and zeros for a query that sees no key.

    Args:
        query, key, value, soft_cap, dropout, training: see `dot_product.attend`. T and S are known.
        sight: Sight.
    """
    B, H, T, _ = ops.shape(query)
    K, S = key.shape[1:3]
    seed = next_seed(dropout) if training else None
    if seed is None:
        output = backend.flash_attention(query, key, value, *sight, soft_cap)
        if output is not None:
            return output
    # JAX wants a function with a gradient of its own to be given all tensors that it needs.
    given = [] if sight.key_ids is None else [sight.query_ids, sight.key_ids]
    if seed is not None:
        first = seed[0] * _MIX + ops.reshape(ops.arange(B * K, dtype="int32"), (B, K, 1))
        given.append(ops.concatenate([first, ops.full_like(first, seed[1] * _MIX)], axis=2))
    tiles = _Tiles.of(H // K, T, S, sight, soft_cap, 0.0 if seed is None else dropout.rate, query.dtype)
    return backend.on_own_rows(functools.partial(_attended, tiles), [query, key, value, *given], heads=K)


def _attended(tiles, query, key, value, *given):
    """The same of one device's rows and heads."""
    B, K = ops.shape(key)[:2]
    ids, seeds = (given[:2], given[2:]) if tiles.has_ids else ((), given)
    ids = [
        ops.repeat(_padded(of_rows, 1, size), K, axis=0) for of_rows, size in zip(ids, (tiles.Q, tiles.P), strict=False)
    ]
    given = [*ids, *(ops.reshape(of_heads, (B * K, 2)) for of_heads in seeds)]

    def heads(tensor, size):
        shape = (B * K, tensor.shape[1] // K, *tensor.shape[2:])
        return _padded(ops.reshape(tensor, shape), 2, size)

    def joined(tensor, like):
        return ops.reshape(tensor[:, :, : like.shape[2]], (B, *like.shape[1:]))

    @backend.custom_gradient
    def attended(query, key, value, *given):
        tensors = heads(query, tiles.Q), heads(key, tiles.P), heads(value, tiles.P)
        output, log_sums = tiles.run(_forward, *tensors, *given)

        def gradient(upstream):
            last = output, log_sums, heads(upstream, tiles.Q)
            parts = tiles.run(_backward, *tensors, *last, *given)
            return *map(joined, parts, (query, key, value)), *[None] * len(given)

        return joined(output, query), gradient

    return attended(query, key, value, *given)


def _forward(tiles, query, key, value, *given):
    """The output, and the logarithms of the sums of exponentials of scores, (N, tiles of queries, 1, C)."""
    queries, (keys, values) = tiles.of_queries(query), map(tiles.of_keys, (key, value))
    queries, values, known = ops.swapaxes(queries, 2, 3), ops.swapaxes(values, 2, 3), tiles.known(given)
    count, N, h, C = ops.shape(queries)

    def for_queries(i, output, log_sums):
        of_queries = queries[i]

        def for_keys(j, largest, total, read):
            scores = backend.matmul(keys[j], of_queries)
            state = largest, total, read
            weights, *state, read = backend.compiled(_weighed, tiles, scores, *state, i, j, *known.at(i, j))
            return j + 1, *state, backend.compiled(_added, tiles, read, backend.matmul(values[j], weights))

        one, many = ops.zeros((N, 1, C), tiles.wide), ops.zeros((N, h, C), tiles.wide)
        first, last = tiles.seen_by(i, known.meetings)
        _, *state = backend.while_loop(lambda j, *_: j < last, for_keys, (first, one + LOWEST, one, many))
        read, log_sum = backend.compiled(_finished, tiles, *state)
        return i + 1, backend.put_row(output, read, i), backend.put_row(log_sums, log_sum, i)

    state = 0, ops.zeros((count, N, h, C), tiles.wide), ops.zeros((count, N, 1, C), tiles.wide)
    _, output, log_sums = backend.while_loop(lambda i, *_: i < count, for_queries, state)
    return tiles.joined(output, query), ops.swapaxes(log_sums, 0, 1)


def _backward(tiles, query, key, value, output, log_sums, upstream, *given):
    """The gradient by queries, keys and values."""
    queries, upstreams = tiles.of_queries(query), tiles.of_queries(upstream)
    inner = ops.cast(upstream, tiles.wide) * ops.cast(output, tiles.wide)
    inner = ops.swapaxes(tiles.of_queries(ops.sum(inner, axis=-1, keepdims=True), tiles.wide), 2, 3)
    (keys, values), log_sums = map(tiles.of_keys, (key, value)), ops.swapaxes(log_sums, 0, 1)
    known, columns = tiles.known(given), lambda tensor: ops.swapaxes(tensor, 2, 3)
    of_queries, of_upstreams, of_keys = columns(queries), columns(upstreams), columns(keys)
    (count, N, C, h), (key_count, _, P, _) = ops.shape(queries), ops.shape(keys)

    def for_keys(j, by_query, by_key, by_value):
        def for_queries(i, by_query, by_key, by_value):
            products = backend.matmul(keys[j], of_queries[i]), backend.matmul(values[j], of_upstreams[i])
            sums = log_sums[i], inner[i]
            dropped, slope = backend.compiled(_sloped, tiles, *products, *sums, i, j, *known.at(i, j))
            by_value = backend.compiled(_added, tiles, by_value, backend.matmul(dropped, upstreams[i]))
            by_key = backend.compiled(_added, tiles, by_key, backend.matmul(slope, queries[i]))
            more = backend.compiled(_added, tiles, by_query[i], backend.matmul(of_keys[j], slope))
            return i + 1, backend.put_row(by_query, more, i), by_key, by_value

        zeros = ops.zeros((N, P, h), tiles.wide)
        first, last = tiles.seeing(j, known.meetings)
        state = first, by_query, zeros, zeros
        _, by_query, *sums = backend.while_loop(lambda i, *_: i < last, for_queries, state)
        return j + 1, by_query, backend.put_row(by_key, sums[0], j), backend.put_row(by_value, sums[1], j)

    zeros = ops.zeros((key_count, N, P, h), tiles.wide)
    state = 0, ops.zeros((count, N, h, C), tiles.wide), zeros, zeros
    _, by_query, *by_others = backend.while_loop(lambda j, *_: j < key_count, for_keys, state)
    by_others = [ops.reshape(ops.swapaxes(part, 0, 1), ops.shape(key)) for part in by_others]
    return tiles.joined(by_query, query), *(ops.cast(part, key.dtype) for part in by_others)


def _weighed(tiles, scores, largest, total, read, i, j, *known):
    """The softmax of what was seen of the queries so far: weights of these keys, the largest score, the sum of all
    weights, and what was read with the others, all as if the largest score were 0."""
    scores, _ = tiles.seen(scores, i, j, known)
    larger = ops.maximum(largest, ops.max(scores, axis=1, keepdims=True))
    weights, less = ops.exp(scores - larger), ops.exp(largest - larger)
    total = total * less + ops.sum(weights, axis=1, keepdims=True)
    return ops.cast(tiles.dropped(weights, i, j, known), tiles.narrow), larger, total, read * less


def _finished(tiles, largest, total, read):
    """What was read, and the logarithm of the sum of exponentials of scores."""
    total = ops.maximum(total, 1e-30)
    return read / total, largest + ops.log(total)


def _sloped(tiles, scores, by_weights, log_sums, inner, i, j, *known):
    """Weights after dropout, and the gradient by scores."""
    scores, steepness = tiles.seen(scores, i, j, known)
    weights = ops.exp(scores - log_sums)
    dropped = tiles.dropped(weights, i, j, known)
    slope = (dropped * ops.cast(by_weights, tiles.wide) - weights * inner) * steepness
    return ops.cast(dropped, tiles.narrow), ops.cast(slope, tiles.narrow)


def _added(tiles, total, part):
    return total + ops.cast(part, tiles.wide)


class _Known(NamedTuple):
    """What is known of queries and keys besides their vectors.

    Attributes:
        tensors: () or ids of queries (tiles, N, Q) and keys (tiles, N, P); and then () or seeds, int32 (N, 2).
        meetings: bool (tiles of queries, tiles of keys), or None. Whether queries may see keys by their ids.
    """

    tensors: tuple
    meetings: object

    def at(self, i, j):
        """The tensors of a tile."""
        if self.meetings is None:
            return self.tensors
        return self.tensors[0][i], self.tensors[1][j], *self.tensors[2:]


class _Tiles(NamedTuple):
    """How the attention of some lengths is laid out, and what is done to a tile: that of queries i and keys j.

    Attributes:
        G, T, S, Q, P: ints, see above.
        sight: Sight without ids.
        has_ids: bool.
        soft_cap: float or None.
        rate: float, of dropout.
        narrow, wide: str, the dtypes of what is multiplied and of everything else.
        by_core: bool. On TensorFlow XLA compiles all that is done to a head, for a core of a CPU; otherwise only what
            is done between products, which are those of all heads.
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
    by_core: bool

    @classmethod
    def of(cls, G, T, S, sight, soft_cap, rate, dtype):
        dtype = keras.backend.standardize_dtype(dtype)
        wide = "float64" if dtype == "float64" else "float32"
        # What XLA multiplies on CPUs in less than float32 takes longer, and what TensorFlow does less long.
        by_core = backend.on_cpu() and not (dtype == "bfloat16" and backend.has_fast_bfloat16())
        size, narrow = (OF_ONE, wide) if by_core else (OF_ALL, dtype)
        lengths = G, T, S, max(size // G, FEWEST_QUERIES), size
        return cls(*lengths, Sight(*sight[:2]), sight.key_ids is not None, soft_cap, rate, narrow, wide, by_core)

    def run(self, function, *tensors):
        # Tapes would have the function differentiated as well, in vain, which not all that is in it can be.
        tensors = map(ops.stop_gradient, tensors)
        return backend.by_rows(function, self, *tensors) if self.by_core else function(self, *tensors)

    def known(self, given):
        given = list(given)
        ids = [self._in_tiles(given.pop(0), size) for size in (self.Q, self.P)] if self.has_ids else []
        if not ids:
            return _Known(tuple(given), None)
        (low, high), (key_low, key_high) = ((ops.min(part, axis=2), ops.max(part, axis=2)) for part in ids)
        meet = ops.logical_and(low[:, None] <= key_high[None], key_low[None] <= high[:, None])
        return _Known((*ids, *given), ops.any(meet, axis=2))

    @staticmethod
    def _in_tiles(ids, size):
        N, T = ops.shape(ids)
        return ops.swapaxes(ops.reshape(ids, (N, T // size, size)), 0, 1)

    def of_queries(self, tensor, dtype=None):
        """(N, G, T, n) as (tiles, N, C, n)."""
        N, G, T, n = ops.shape(tensor)
        tensor = ops.reshape(ops.cast(tensor, dtype or self.narrow), (N, G, T // self.Q, self.Q, n))
        return ops.reshape(ops.transpose(tensor, (2, 0, 1, 3, 4)), (T // self.Q, N, G * self.Q, n))

    def of_keys(self, tensor):
        """(N, 1, S, n) as (tiles, N, P, n)."""
        N, _, S, n = ops.shape(tensor)
        tensor = ops.reshape(ops.cast(tensor, self.narrow), (N, S // self.P, self.P, n))
        return ops.swapaxes(tensor, 0, 1)

    def joined(self, tensor, query):
        """(tiles, N, h, C) as queries are, (N, G, T, h)."""
        count, N, h, _ = ops.shape(tensor)
        tensor = ops.reshape(ops.swapaxes(tensor, 2, 3), (count, N, self.G, self.Q, h))
        return ops.cast(ops.reshape(ops.transpose(tensor, (1, 2, 0, 3, 4)), ops.shape(query)), query.dtype)

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

    def seen(self, scores, i, j, known):
        """Scores (N, P, C) in full precision, bent and hidden, and how steep a soft cap is at them."""
        scores, steepness = ops.cast(scores, self.wide), 1.0
        if self.soft_cap is not None:
            bent = ops.tanh(scores / self.soft_cap)
            scores, steepness = self.soft_cap * bent, 1.0 - ops.square(bent)
        visible = self._visible(i, j, known)
        if visible is not None:
            N, P, C = ops.shape(scores)
            by_head = ops.reshape(scores, (N, P, self.G, self.Q))
            scores = ops.reshape(ops.where(visible, by_head, HIDDEN), (N, P, C))
        return scores, steepness

    def _visible(self, i, j, known):
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
        if self.has_ids:
            of_queries, of_keys = known[:2]
            conditions.append(of_keys[:, :, None, None] == of_queries[:, None, None])
        return functools.reduce(ops.logical_and, conditions) if conditions else None

    def dropped(self, weights, i, j, known):
        if not self.rate:
            return weights
        step = ops.stack([0, ops.cast(i * (-(-self.S // self.P)) + j, "int32")])
        return backend.dropout(weights, self.rate, known[-1] + step)


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
