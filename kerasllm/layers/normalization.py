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
        return backend.fused(_norm(self.epsilon, True, self.gamma is not None), inputs, *weights)


class RMSNormalization(keras.layers.RMSNormalization):
    """As `keras.layers.RMSNormalization`, which drops masks, with a warning: https://arxiv.org/abs/1910.07467

    Args:
        scaled: bool. False leaves out the trained scale.
        **kwargs: as in Keras.
    """

    def __init__(self, scaled=True, **kwargs):
        super().__init__(**kwargs)
        self.scaled = scaled
        self.supports_masking = True

    def build(self, input_shape):
        if self.scaled:
            super().build(input_shape)
        else:
            self.scale, self.built = None, True

    def call(self, inputs, training=None):
        if not training:
            return super().call(inputs)
        return backend.fused(_norm(self.epsilon, False, self.scaled), inputs, *([self.scale] if self.scaled else []))

    def get_config(self):
        return {**super().get_config(), "scaled": self.scaled}


def make_norm(kind, epsilon, scaled, use_bias, name, dtype):
    """Layer normalisation, or RMS normalisation, with or without a scale; `use_bias=False` leaves out the offset."""
    if kind == "rms":
        return RMSNormalization(epsilon=epsilon, scaled=scaled, name=name, dtype=dtype)
    return LayerNormalization(epsilon=epsilon, scale=scaled, center=use_bias, name=name, dtype=dtype)


@functools.cache
def _norm(epsilon, centered, scaled):
    """A function of x (..., D), and perhaps gamma (D,) and beta (D,), and its gradient: see `backend.fused`."""

    def parts(weights):
        return (weights[0], weights[1:]) if scaled else (None, weights)

    def forward(x, *weights):
        gamma, beta = parts(weights)
        mean = backend.row_means(x) if centered else 0.0
        inverse = ops.rsqrt(backend.row_means(ops.square(x - mean)) + epsilon)
        y = (x - mean) * inverse
        y = y if gamma is None else y * gamma
        return y + beta[0] if beta else y, (mean, inverse)

    def gradient(upstream, kept, x, *weights):
        gamma, beta = parts(weights)
        mean, inverse = kept
        normed = (x - mean) * inverse
        product = upstream * normed
        along = normed * backend.row_means(product, gamma)
        if centered:
            along = along + backend.row_means(upstream, gamma)
        by_x = ((upstream if gamma is None else upstream * gamma) - along) * inverse
        by_gamma = [] if gamma is None else [backend.sum_of_rows(product)]
        return by_x, *by_gamma, *(backend.sum_of_rows(upstream) for _ in beta)

    return forward, gradient
