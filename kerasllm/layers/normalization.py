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
        return backend.fused(_layer_norm(self.epsilon), inputs, *weights)


class RMSNormalization(keras.layers.RMSNormalization):
    """As `keras.layers.RMSNormalization`, which drops masks, with a warning: https://arxiv.org/abs/1910.07467"""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs, training=None):
        if not training:
            return super().call(inputs)
        return backend.fused(_rms_norm(self.epsilon), inputs, self.scale)


def make_norm(kind, epsilon, use_bias, name, dtype):
    """Layer normalisation, or RMS normalisation; `use_bias=False` leaves out the offset."""
    if kind == "rms":
        return RMSNormalization(epsilon=epsilon, name=name, dtype=dtype)
    return LayerNormalization(epsilon=epsilon, center=use_bias, name=name, dtype=dtype)


@functools.cache
def _layer_norm(epsilon):
    def norm(x, gamma, beta=None):
        x = _rms_norm(epsilon)(x - backend.row_means(x), gamma)
        return x if beta is None else x + backend.row_for_each(beta, x)

    return norm


@functools.cache
def _rms_norm(epsilon):
    def norm(x, scale):
        x = x * ops.rsqrt(backend.row_means(ops.square(x)) + epsilon)
        return x * backend.row_for_each(scale, x)

    return norm
