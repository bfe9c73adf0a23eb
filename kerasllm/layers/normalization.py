"""Keras' normalisation of the last axis, with fewer passes over memory in training."""

import dataclasses
import functools

import keras
from keras import ops

from kerasllm import backend
from kerasllm.layers.options import Options, check_choice

NORMS = ("layer", "rms")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormOptions(Options):
    """How vectors are normalised.

    Args:
        norm: "layer" or "rms" (https://arxiv.org/abs/1910.07467).
        norm_epsilon: float, added to the mean square.
        norm_scale: bool. Norms have a trained scale, those of `qk_norm` too; nanochat's have none.
    """

    norm: str = "layer"
    norm_epsilon: float = 1e-5
    norm_scale: bool = True

    def check(self, d_model=None, num_heads=None):
        super().check(d_model, num_heads)
        check_choice("norm", self.norm, NORMS)

    def norm_parameters(self, width, use_bias):
        """The number of weights of one norm."""
        return width * (self.norm_scale + (self.norm == "layer" and use_bias))


class LayerNormalization(keras.layers.LayerNormalization):
    """As `keras.layers.LayerNormalization`: https://arxiv.org/abs/1607.06450"""

    def call(self, inputs, training=None):
        if not training or backend.IS_TORCH:  # which has a kernel for it
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
        if not training or backend.IS_TORCH:  # which has a kernel for it
            return super().call(inputs)
        return backend.fused(_norm(self.epsilon, False, self.scaled), inputs, *([self.scale] if self.scaled else []))

    def get_config(self):
        return {**super().get_config(), "scaled": self.scaled}


def make_norm(options, name, dtype):
    """The norm of `NormOptions`, beside which `use_bias` says whether layer normalisation has an offset."""
    if options.norm == "rms":
        return RMSNormalization(epsilon=options.norm_epsilon, scaled=options.norm_scale, name=name, dtype=dtype)
    return LayerNormalization(
        epsilon=options.norm_epsilon, scale=options.norm_scale, center=options.use_bias, name=name, dtype=dtype
    )


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
