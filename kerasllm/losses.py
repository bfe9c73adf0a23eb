"""Cross-entropy that counts tokens.

Shapes: B batch, T time, N all tokens of a batch, D width of hidden states, V vocab.
"""

from typing import NamedTuple

import keras
from keras import ops

from kerasllm import backend
from kerasllm.vocabulary import check_ids, is_outside, within

__all__ = ["OutputLayer", "TokenCrossentropy", "token_weights"]


def __dir__():  # what completion shows
    return __all__


@keras.saving.register_keras_serializable("kerasllm")
class TokenCrossentropy(keras.losses.Loss):
    """The mean negative log-likelihood of the labels over the tokens that count, in nats.

    Keras' `SparseCategoricalCrossentropy` divides by B x T, padding included; this divides by the sum of the weights.

    Args:
        label_smoothing: float in [0, 1), the share of probability that the target gives to all tokens alike
            (https://arxiv.org/abs/1512.00567).
        chunk_size: int or None. Our models then make the logits of so many tokens at a time, with their gradient, and
            never hold those of all, which for a large vocabulary take most of the memory of training. The numbers are
            the same. Metrics that need logits cannot be compiled beside it.
        ignore_class: int or None, the label of tokens that nothing is to be learned of, besides those of weight 0.

    Call arguments:
        y_true: int (B, T) or (B, T, 1), labels.
        y_pred: float (B, T, V), logits.
        sample_weight: float (B, T), or (B,) for whole rows, or None; 0 where nothing is to be learned.

    Returns:
        float scalar.

    Raises:
        ValueError: if `label_smoothing`, `chunk_size` or `ignore_class` is out of range. Outside of a graph also for a
            label that is neither in the vocabulary nor ignored. Our models say in every mode which one it is; with
            another model TensorFlow's own error holds this sentence, or the loss is not a number where XLA compiles.

    Example:
        >>> loss = kerasllm.losses.TokenCrossentropy()
        >>> float(loss(np.array([[1, 0]]), np.zeros((1, 2, 4)), np.array([[1.0, 0.0]])))  # log(4), one token
        1.3862943649291992
    """

    def __init__(self, label_smoothing=0.0, chunk_size=None, ignore_class=-100, name="token_crossentropy"):
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"`label_smoothing` must be at least 0 and less than 1, got {label_smoothing}.")
        if chunk_size is not None and (type(chunk_size) is not int or chunk_size < 1):
            raise ValueError(f"`chunk_size` must be a positive number of tokens or None, got {chunk_size!r}.")
        if ignore_class is not None and type(ignore_class) is not int:
            raise ValueError(f"`ignore_class` must be a label or None, got {ignore_class!r}.")
        super().__init__(name=name, reduction="mean_with_sample_weight", dtype="float32")
        self.label_smoothing = label_smoothing
        self.chunk_size = chunk_size
        self.ignore_class = ignore_class

    def __call__(self, y_true, y_pred, sample_weight=None):
        mask = getattr(y_pred, "_keras_mask", None)  # such as that of an Embedding with mask_zero
        y_pred = ops.convert_to_tensor(y_pred, "float32")
        labels, weight = self.targets(y_true, sample_weight, y_pred)
        weight = weight if mask is None else weight * ops.cast(mask, "float32")
        V = y_pred.shape[-1]
        check_ids(backend.known(labels), V, "label", self.ignore_class)
        are_bad = is_outside(labels, V)
        backend.refuse(are_bad, f"A label is outside of 0 to {V - 1}, and not ignore_class={self.ignore_class}.")
        losses = self._smoothed(_crossentropies(within(labels, V), y_pred, self.label_smoothing > 0))
        losses = ops.where(are_bad, float("nan"), losses)
        return ops.sum(losses * weight) / ops.maximum(ops.sum(weight), 1e-9)

    def targets(self, y_true, sample_weight, outputs):
        """What is to be learned.

        Args:
            y_true, sample_weight: as in a call.
            outputs: float (B, T, any), of the model.

        Returns:
            Labels int (B, T), 0 where nothing is to be learned, whatever stood there; and weights float32 (B, T).
        """
        labels = as_rows(y_true, outputs)
        weight = token_weights(sample_weight, labels)
        if self.ignore_class is not None:
            weight = ops.where(labels == self.ignore_class, 0.0, weight)
        return ops.where(weight != 0, labels, 0), weight

    def sums(self, y_true, y_pred, sample_weight=None):
        """What the mean is made of: the weighted sum of the loss, that of the negative log-likelihood (the same without
        label smoothing), and the sum of the weights. Labels outside of the vocabulary are taken for those at its ends.
        """
        labels, weight = self.targets(y_true, sample_weight, y_pred)
        labels = within(labels, y_pred.shape[-1])
        losses = _crossentropies(labels, y_pred, self.label_smoothing > 0)
        return ops.sum(self._smoothed(losses) * weight), ops.sum(losses[0] * weight), ops.sum(weight)

    def chunked_sums(self, y_true, hidden, output_layer, sample_weight=None, training=True):
        """The same as `sums`, from what the output layer reads, `chunk_size` tokens at a time.

        Args:
            y_true, sample_weight: as in a call.
            hidden: float (B, T, D).
            output_layer: `OutputLayer`.
            training: bool. False makes no gradient.
        """
        labels, weight = self.targets(y_true, sample_weight, hidden)
        chunks = _Chunks.of(within(labels, output_layer.weights.shape[0]), weight, self.chunk_size)
        if training:
            sums = _differentiable_sums(self, chunks, hidden, output_layer)
        else:
            sums, _ = _sum_chunks(self, chunks, hidden, output_layer, with_gradient=False)
        return sums[0], sums[1], ops.sum(weight)

    def _smoothed(self, losses):
        if not self.label_smoothing:
            return losses[0]
        return (1 - self.label_smoothing) * losses[0] + self.label_smoothing * losses[1]

    def get_config(self):
        names = ("name", "label_smoothing", "chunk_size", "ignore_class")
        return {name: getattr(self, name) for name in names}


def as_rows(labels, outputs):
    """Labels int (B, T), from (B, T) or (B, T, 1), for outputs (B, T, any)."""
    labels = backend.as_integers(labels)
    given, wanted = backend.static_shape(labels), tuple(outputs.shape[:-1])
    if given is None or given[2:] == (1,):  # TensorFlow no longer knows which, where one `fit` had one and one another
        return ops.reshape(labels, ops.shape(outputs)[:-1])
    if len(given) != 2 or any(None not in (a, b) and a != b for a, b in zip(given, wanted, strict=True)):
        raise ValueError(
            f"Labels {given} do not fit the model's output {tuple(outputs.shape)}: a label is needed for each token, "
            "such as the token that follows it."
        )
    return labels


def token_weights(sample_weight, labels):
    """Weights float32 (B, T) of labels (B, T), from those of tokens, those of rows (B,) or None, which is 1 for all."""
    shape = ops.shape(labels)
    if sample_weight is None:
        return ops.ones(shape, "float32")
    weight = ops.cast(sample_weight, "float32")
    given = backend.static_shape(weight)
    if given is None or len(given) != 2:
        weight = ops.reshape(weight, (shape[0], -1))
    if any(None not in (a, b) and a not in (1, b) for a, b in zip(weight.shape, labels.shape, strict=True)):
        raise ValueError(f"`sample_weight` {tuple(sample_weight.shape)} does not fit the labels {tuple(labels.shape)}.")
    return ops.broadcast_to(weight, shape)


def _crossentropies(labels, logits, with_uniform):
    """Cross-entropies of each token with its label and, where asked, with all tokens alike: float32 (1 or 2, B, T)."""

    @ops.custom_gradient
    def crossentropies(logits):
        losses, exponentials, total = _forward(labels, logits, with_uniform)

        def gradient(upstream):
            return ops.cast(_backward(labels, exponentials, total, upstream, with_uniform), logits.dtype)

        return losses, gradient

    return crossentropies(logits)


def _forward(labels, logits, with_uniform):
    """Cross-entropies (1 or 2, ...), and what makes their gradient: exponentials (..., V) and their sums (...)."""
    shifted = ops.cast(logits, "float32")
    shifted = shifted - ops.max(shifted, axis=-1, keepdims=True)
    exponentials = ops.exp(shifted)
    total = ops.sum(exponentials, axis=-1)
    targets = [ops.take_along_axis(shifted, labels[..., None], axis=-1)[..., 0]]
    if with_uniform:
        targets.append(ops.mean(shifted, axis=-1))
    return ops.log(total)[None] - ops.stack(targets), exponentials, total


def _backward(labels, exponentials, total, upstream, with_uniform):
    """The gradient by logits, float32 (..., V): the softmax less the target. Made of the exponentials that the forward
    pass needed anyway, it takes a third of the passes over them that differentiating step by step takes."""
    result = exponentials * (ops.sum(upstream, axis=0) / total)[..., None]
    if with_uniform:
        result = result - (upstream[1] / exponentials.shape[-1])[..., None]
    return backend.add_at(result, labels, -upstream[0])


class OutputLayer(NamedTuple):
    """What makes logits of hidden states.

    Attributes:
        weights: float (V, D).
        bias: float (V,) or None.
        soft_cap: float or None, the size that logits approach but never reach, by a tanh
            (https://arxiv.org/abs/2408.00118).
    """

    weights: object
    bias: object = None
    soft_cap: float | None = None


class _Chunks(NamedTuple):
    """Labels int32 (N,) and weights float32 (N,) of all tokens, N made a multiple of `size` by tokens of weight 0."""

    labels: object
    weights: object
    size: int

    @classmethod
    def of(cls, labels, weights, size):
        labels, weights = ops.reshape(labels, (-1,)), ops.reshape(weights, (-1,))
        return cls(backend.pad_rows(labels, size), backend.pad_rows(weights, size), size)

    def rows(self, tensor, index):
        """Those of a tensor (N, ...) that belong to a chunk."""
        start = [index * self.size] + [0] * (len(tensor.shape) - 1)
        return ops.slice(tensor, start, (self.size, *tensor.shape[1:]))


def _differentiable_sums(loss, chunks, hidden, output):
    """`_sum_chunks`, whose gradient is made in the forward pass, while the logits of a chunk are at hand."""

    @ops.custom_gradient
    def sums(hidden, weights, *bias):
        output_layer = OutputLayer(weights, *(bias or (None,)), output.soft_cap)
        results, gradients = _sum_chunks(loss, chunks, hidden, output_layer, with_gradient=True)

        def gradient(upstream):
            inputs = (hidden, weights, *bias)
            return tuple(
                ops.cast(part * ops.cast(upstream[0], part.dtype), tensor.dtype)
                for part, tensor in zip(gradients, inputs, strict=False)
            )

        return results, gradient

    return sums(hidden, output.weights, *([] if output.bias is None else [output.bias]))


def _sum_chunks(loss, chunks, hidden, output, with_gradient):
    """The weighted sums of the loss and of the negative log-likelihood, float32 (2,), chunk by chunk.

    With them come the gradients of the first sum by `hidden`, by the output layer's weights and by its bias.
    """
    dtype, shape = hidden.dtype, ops.shape(hidden)
    rows = backend.pad_rows(ops.reshape(hidden, (-1, hidden.shape[-1])), chunks.size)
    kernel = ops.cast(output.weights, dtype)
    smoothed = loss.label_smoothing > 0
    shares = [1 - loss.label_smoothing, loss.label_smoothing] if smoothed else [1.0]

    def body(index, sums, *gradients):
        h, labels, weight = (chunks.rows(part, index) for part in (rows, chunks.labels, chunks.weights))
        logits = backend.matmul(h, kernel, transpose_y=True)
        if output.bias is not None:
            logits = logits + ops.cast(output.bias, dtype)
        if output.soft_cap is not None:
            logits = output.soft_cap * ops.tanh(logits / output.soft_cap)
        losses, exponentials, total = _forward(labels, logits, smoothed)
        sums = sums + ops.stack([ops.sum(loss._smoothed(losses) * weight), ops.sum(losses[0] * weight)])
        if not with_gradient:
            return index + 1, sums
        slope = _backward(labels, exponentials, total, ops.stack([s * weight for s in shares]), smoothed)
        if output.soft_cap is not None:
            slope = slope * (1 - ops.square(ops.cast(logits, "float32") / output.soft_cap))
        by_rows, by_weights, by_bias = gradients
        slope = ops.cast(slope, dtype)
        by_rows = ops.slice_update(by_rows, (index * chunks.size, 0), ops.matmul(slope, kernel))
        by_weights = by_weights + ops.cast(backend.matmul(slope, h, transpose_x=True), "float32")
        by_bias = by_bias + ops.sum(ops.cast(slope, "float32"), axis=0)
        return index + 1, sums, by_rows, by_weights, by_bias

    state = [ops.zeros((), "int32"), ops.zeros((2,))]
    if with_gradient:
        V, D = output.weights.shape
        state += [ops.zeros_like(rows), ops.zeros((V, D)), ops.zeros((V,))]  # the sums in float32, whatever they are of
    count = ops.shape(rows)[0] // chunks.size
    _, sums, *gradients = backend.while_loop(lambda index, *_: index < count, body, state)
    if with_gradient:
        tokens = shape[0] * shape[1]
        gradients[0] = ops.reshape(gradients[0][:tokens], shape)
    return sums, gradients
