"""The log-probability of each label: from logits, or from hidden states without ever holding the logits of all tokens.

Shapes: B batch, T time, N all tokens of a batch, D width of hidden states, V vocab, K what is known of each token: 1,
the log-probability of its label, or 2, also the mean log-probability of the whole vocabulary, for label smoothing.
"""

from typing import NamedTuple

from keras import ops

from kerasllm import backend


class OutputLayer(NamedTuple):
    """What makes logits of hidden states.

    Attributes:
        weights: float (V, D).
        bias: float (V,) or None.
        soft_cap: float or None, the size that logits approach but never reach, by a tanh
            (https://arxiv.org/abs/2408.00118).
        trainable: bool, whether the weights are trained: the gradient by those that are not is never made.
        low_rank: pair of float (D, r) and (V, r), which are trained, whose product is added to the weights; or None.
    """

    weights: object
    bias: object = None
    soft_cap: float | None = None
    trainable: bool = True
    low_rank: tuple | None = None

    def widened(self, hidden):
        """Hidden states (B, T, D + r) and a layer of weights (V, D + r) that make the same of them as this one.

        The gradient by the new columns alone is then that by what is added.
        """
        if self.low_rank is None:
            return hidden, self
        narrow, wide = self.low_rank
        more = ops.matmul(ops.cast(hidden, "float32"), narrow)
        weights = ops.concatenate([self.weights, ops.cast(wide, self.weights.dtype)], axis=1)
        hidden = ops.concatenate([hidden, ops.cast(more, hidden.dtype)], axis=2)
        return hidden, self._replace(weights=weights)

    @property
    def num_fixed(self):
        """How many columns of the weights, from the first on, no gradient is made by, once they are widened."""
        D = self.weights.shape[1]
        return 0 if self.trainable else D if self.low_rank is None else D - self.low_rank[1].shape[1]


def smoothed(log_probs, label_smoothing):
    """Log-probabilities (K, ...) as label smoothing takes them, float32 (...)."""
    if not label_smoothing:
        return log_probs[0]
    return (1 - label_smoothing) * log_probs[0] + label_smoothing * log_probs[1]


def log_probabilities(labels, logits, with_mean=False):
    """Log-probabilities of labels.

    Args:
        labels: int32 (B, T), within the vocabulary.
        logits: float (B, T, V).
        with_mean: bool, whether the mean over the vocabulary is wanted too.

    Returns:
        float32 (K, B, T).
    """

    @backend.custom_gradient
    def log_probs(logits):
        values, exponentials, total = _forward(labels, logits, with_mean)

        def gradient(upstream):
            return ops.cast(_backward(labels, exponentials, total, upstream), logits.dtype)

        return values, gradient

    return log_probs(logits)


def chunked_log_probabilities(labels, hidden, output_layer, chunk_size, with_mean=False, weight=None):
    """The same from hidden states, `chunk_size` tokens at a time. The backward pass makes each chunk's logits anew.

    Args:
        labels, with_mean: as for `log_probabilities`.
        hidden: float (B, T, D), what the output layer reads.
        output_layer: `OutputLayer`.
        chunk_size: int, tokens whose logits are held at a time.
        weight: float32 (B, T) or None. Where it is 0 no logits are made but in a last chunk, and what is returned means
            nothing.

    Returns:
        float32 (K, B, T), differentiable by `hidden` and by the weights, if they are trained, and the bias of the
        output layer.
    """

    def log_probs(chunks, hidden, output_layer):
        shape = ops.shape(hidden)[:2]

        def store(values, index, chunk):
            return ops.slice_update(values, (0, index * chunk_size), chunk)

        nothing = ops.zeros((1 + with_mean, chunks.padded))
        values_of = _of_labels(chunks, with_mean)
        values, _ = _scan(chunks, hidden, output_layer, nothing, store, values_of)

        def gradients(upstream):
            slopes = chunks.flat(upstream)
            return _scan(chunks, hidden, output_layer, nothing, lambda values, *_: values, values_of, slopes)[1]

        return chunks.unflat(ops.transpose(values), (*shape, 1 + with_mean)), gradients

    return ops.moveaxis(_differentiable(log_probs, labels, hidden, output_layer, chunk_size, weight), -1, 0)


def chunked_weighted_sums(labels, weight, hidden, output_layer, chunk_size, label_smoothing=0.0, training=True):
    """Sums of weighted log-probabilities, whose gradient is made in the forward pass, while the logits of a chunk are
    at hand: as the weights are known beforehand, no logits are made twice.

    Args:
        labels, hidden, output_layer, chunk_size: as for `chunked_log_probabilities`.
        weight: float32 (B, T).
        label_smoothing: float.
        training: bool. False makes no gradient.

    Returns:
        float32 (2,): the sum with label smoothing, which alone is differentiable, and that without.
    """
    shares = [1 - label_smoothing, label_smoothing] if label_smoothing else [1.0]
    return weighted_sums(
        lambda chunks: _of_labels(chunks, len(shares) == 2),
        lambda chunk: [smoothed(chunk, label_smoothing), chunk[0]],
        shares,
        *(labels, weight, hidden, output_layer, chunk_size, training),
    )


def weighted_sums(
    values_of, collected, shares, labels, weight, hidden, output_layer, chunk_size, training=True, given=()
):
    """Sums over tokens of what is made of the logits of each.

    Args:
        values_of: function (chunks) -> what `_scan` takes under that name.
        collected: function (values (K, size)) -> list of float32 (size,), of which the weighted sums are wanted.
        shares: list of K floats: the first of these is the sum of the values times them.
        labels, weight, hidden, output_layer, chunk_size, training: as for `chunked_weighted_sums`.
        given: tensors (B, T, any) that `values_of` reads too, as `chunks.given`.

    Returns:
        float32, as many as are collected; the first alone is differentiable.
    """
    count = len(collected(ops.zeros((len(shares), 1))))

    def sums(chunks, hidden, output_layer):
        weights = chunks.weights

        def add(sums, index, chunk):
            part = chunks.part(weights, index)
            return sums + ops.stack([ops.sum(values * part) for values in collected(chunk)])

        slopes = ops.stack([share * weights for share in shares], axis=-1) if training else None
        values, gradients = _scan(chunks, hidden, output_layer, ops.zeros((count,)), add, values_of(chunks), slopes)

        def times(upstream):
            return [g if g is None else g * ops.cast(upstream[0, 0], g.dtype) for g in gradients]

        return values[None], times

    return ops.sum(_differentiable(sums, labels, hidden, output_layer, chunk_size, weight, given), axis=0)


class _Chunks:
    """All tokens of a batch, as many of zero added as make whole chunks.

    With weights, those that count come first, and the chunks behind them are left out: of a conversation the answers
    alone are learned, of a text with hidden tokens these.

    Attributes:
        labels: int32 (N,).
        weights: float32 (N,) or None.
        given: list of tensors (N, any).
        padded: int, N.
        count: int, chunks to be looked at.
    """

    def __init__(self, labels, size, weight=None, given=()):
        self.size, self._order = size, None
        self.padded = ops.shape(self.flat(labels))[0]
        self.count = self.padded // size
        if weight is not None:
            counts_not = ops.cast(self.flat(weight) == 0, "int32")
            place = ops.arange(self.padded, dtype="int32")
            self._order = ops.argsort(counts_not * self.padded + place)  # in their order otherwise
            self.count = (self.padded - ops.sum(counts_not) + size - 1) // size
        self.labels = self.flat(labels)
        self.weights = None if weight is None else self.flat(weight)
        self.given = [self.flat(tensor) for tensor in given]

    def flat(self, tensor):
        """(B, T, ...) -> (N, ...)."""
        rows = backend.pad_rows(ops.reshape(tensor, (-1, *tensor.shape[2:])), self.size)
        return rows if self._order is None else ops.take(rows, self._order, axis=0)

    def unflat(self, rows, shape):
        """(N, ...) -> (B, T, ...)."""
        rows = rows if self._order is None else ops.take(rows, ops.argsort(self._order), axis=0)
        return ops.reshape(rows[: shape[0] * shape[1]], shape)

    def part(self, tensor, index):
        """The chunk of a tensor (N, ...)."""
        start = [index * self.size] + [0] * (len(tensor.shape) - 1)
        return ops.slice(tensor, start, (self.size, *tensor.shape[1:]))


def _differentiable(function, labels, hidden, output_layer, chunk_size, weight=None, given=()):
    """A function (chunks, hidden, output layer) -> (values, function from the gradient by them to those by `hidden`,
    the weights and the bias), called with its gradient in the place of what TensorFlow and JAX would make of it.

    Of several devices each goes through the chunks of its own rows; their values come one after the other."""
    hidden, output_layer = output_layer.widened(hidden)
    has_weight = weight is not None

    def on_rows(hidden, labels, *others):
        weight, others = (others[0], others[1:]) if has_weight else (None, others)
        given, inputs = others[: len(others) - num_whole], (hidden, *others[len(others) - num_whole :])

        @backend.custom_gradient
        def call(hidden, weights, *bias):
            layer = output_layer._replace(weights=weights, bias=bias[0] if bias else None)
            values, gradients = function(_Chunks(labels, chunk_size, weight, given), hidden, layer)

            def gradient(upstream):
                found = zip(gradients(upstream), inputs, strict=False)
                return tuple(None if g is None else ops.cast(g, x.dtype) for g, x in found)

            return values, gradient

        return call(*inputs)

    of_rows = [hidden, labels, *([weight] if has_weight else []), *given]
    whole = [part for part in (output_layer.weights, output_layer.bias) if part is not None]
    num_whole = len(whole)
    return backend.on_own_rows(on_rows, of_rows, whole)


def _of_labels(chunks, with_mean):
    """What `_scan` makes of logits where log-probabilities of labels are wanted."""

    def values_of(index, logits):
        labels = chunks.part(chunks.labels, index)
        log_probs, exponentials, total = _forward(labels, logits, with_mean)
        return log_probs, lambda slopes: _backward(labels, exponentials, total, slopes)

    return values_of


def _scan(chunks, hidden, output, collected, collect, values_of, slopes=None):
    """Makes logits chunk by chunk, and collects of them what is wanted.

    Args:
        chunks: `_Chunks`.
        hidden, output: as for `chunked_log_probabilities`.
        collected: tensor, what `collect` begins with.
        collect: function (collected, index of the chunk, values (K, size)) -> collected.
        values_of: function (index of the chunk, logits (size, V)) -> values of the tokens (K, size), and a function
            from slopes (K, size) to the gradient by the logits, float32 (size, V).
        slopes: float32 (N, K), by which the gradient of each value is multiplied; None makes no gradient.

    Returns:
        What was collected, and the gradients by hidden states, weights and bias: a list, empty without slopes.
    """
    dtype, shape, fixed = hidden.dtype, ops.shape(hidden), output.num_fixed
    rows, kernel = chunks.flat(hidden), ops.cast(output.weights, hidden.dtype)

    def body(index, collected, *gradients):
        h = chunks.part(rows, index)
        logits = logits_of(h, kernel, output)
        values, gradient = values_of(index, logits)
        collected = collect(collected, index, values)
        if slopes is None:
            return index + 1, collected
        slope = gradient(ops.transpose(chunks.part(slopes, index)))
        if output.soft_cap is not None:
            slope = slope * (1 - ops.square(ops.cast(logits, "float32") / output.soft_cap))
        by_rows, by_weights, by_bias = gradients
        slope = ops.cast(slope, dtype)
        by_rows = ops.slice_update(by_rows, (index * chunks.size, 0), ops.matmul(slope, kernel))
        if fixed < h.shape[1]:
            by_weights = by_weights + ops.cast(
                backend.matmul(slope, h[:, fixed:] if fixed else h, transpose_x=True), "float32"
            )
        if output.bias is not None:
            by_bias = by_bias + ops.sum(ops.cast(slope, "float32"), axis=0)
        return index + 1, collected, by_rows, by_weights, by_bias

    state = [ops.zeros((), "int32"), collected]
    if slopes is not None:
        V, D = output.weights.shape
        sums = ops.zeros((V, D - fixed) if fixed < D else ()), ops.zeros((V,))  # in float32, whatever they are of
        state += [ops.zeros_like(rows), *sums]
    _, collected, *gradients = backend.while_loop(lambda index, *_: index < chunks.count, body, state)
    if slopes is not None:
        gradients[0] = chunks.unflat(gradients[0], shape)
        if fixed == D:
            gradients[1] = backend.no_gradient(output.weights)
        elif fixed:
            gradients[1] = ops.pad(gradients[1], ((0, 0), (fixed, 0)))
    return collected, gradients


def logits_of(rows, kernel, output):
    """Logits (N, V) of rows (N, D), by a kernel (V, D) and what else an `OutputLayer` has."""
    logits = backend.matmul(rows, kernel, transpose_y=True)
    if output.bias is not None:
        logits = logits + ops.cast(output.bias, rows.dtype)
    if output.soft_cap is not None:
        logits = output.soft_cap * ops.tanh(logits / output.soft_cap)
    return logits


def _forward(labels, logits, with_mean):
    """Log-probabilities (K, ...), and what makes their gradient: exponentials (..., V) and their sums (...)."""
    logits = ops.cast(logits, "float32")
    most = ops.max(logits, axis=-1, keepdims=True)
    exponentials = backend.exponentials(logits, most)
    total = ops.sum(exponentials, axis=-1)
    values = [(ops.take_along_axis(logits, labels[..., None], axis=-1) - most)[..., 0]]
    if with_mean:
        values.append(ops.mean(logits - most, axis=-1))
    return ops.stack(values) - ops.log(total)[None], exponentials, total


def _backward(labels, exponentials, total, slopes):
    """The gradient by logits, float32 (..., V), of log-probabilities times slopes (K, ...): the target less the
    softmax. Made of the exponentials that the forward pass needed anyway, it takes a third of the passes over them that
    differentiating step by step takes."""
    result = backend.scale(exponentials, (-ops.sum(slopes, axis=0) / total)[..., None])
    if slopes.shape[0] == 2:
        result = result + (slopes[1] / exponentials.shape[-1])[..., None]
    return backend.add_at(result, labels, slopes[0])
