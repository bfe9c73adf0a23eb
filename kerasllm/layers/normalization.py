"""Keras' normalisation of the last axis, with fewer passes over memory in training."""

import functools

import keras
from keras import ops

from kerasllm import backend


class LayerNormalization(keras.layers.LayerNormalization):
    """As `keras.layers.LayerNormalization`: https://arxiv.org/abs/1607.06450"""

    def call(self, inputs, training=None):
        if not training:
            return super().call(inputs)
        weights = [weight for weight in (self.gamma, self.beta) if weight is not None]
        return backend.fused(_norm(self.epsilon, centered=True), inputs, *weights)


class RMSNormalization(keras.layers.RMSNormalization):
    """As `keras.layers.RMSNormalization`, which drops masks, with a warning: https://arxiv.org/abs/1910.07467"""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs, training=None):
        if not training:
            return super().call(inputs)
        return backend.fused(_norm(self.epsilon, centered=False), inputs, self.scale)


def make_norm(kind, epsilon, use_bias, name, dtype):
    """Layer normalisation, or RMS normalisation; `use_bias=False` leaves out the offset."""
    if kind == "rms":
        return RMSNormalization(epsilon=epsilon, name=name, dtype=dtype)
    return LayerNormalization(epsilon=epsilon, center=use_bias, name=name, dtype=dtype)


@functools.cache
def _norm(epsilon, centered):
    """A function of x (..., D), gamma (D,) and perhaps beta (D,), and its gradient: see `backend.fused`."""

    def forward(x, gamma, beta=None):
        mean = backend.row_means(x) if centered else 0.0
        inverse = ops.rsqrt(backend.row_means(ops.square(x - mean)) + epsilon)
        y = (x - mean) * inverse * gamma
        return y if beta is None else y + beta, (mean, inverse)

    def gradient(upstream, kept, x, gamma, *beta):
        mean, inverse = kept
        normed = (x - mean) * inverse
        product = upstream * normed
        along = normed * backend.row_means(product, gamma)
        if centered:
            along = along + backend.row_means(upstream, gamma)
        by_x = (upstream * gamma - along) * inverse
        return by_x, backend.sum_of_rows(product), *(backend.sum_of_rows(upstream) for _ in beta)

    return forward, gradient
