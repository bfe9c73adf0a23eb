"""The feed-forward half of a Transformer block, plain or gated.

Shapes: B batch, T time, D d_model, F dff.
"""

import dataclasses
import functools

import keras
from keras import ops

from kerasllm import backend
from kerasllm.layers.checks import check_vectors
from kerasllm.layers.composite import Composite
from kerasllm.layers.dense import Dense, clone_initializer
from kerasllm.layers.option_names import explain_options
from kerasllm.layers.options import Options
from kerasllm.layers.taps import tap


def get_activation(name):
    """Keras' activations by name, and three more: "gelu_tanh" (GPT-2's approximation of GELU), "quick_gelu" (CLIP's)
    and "relu_squared" (Primer, https://arxiv.org/abs/2109.08668)."""
    own = {"gelu_tanh": gelu_tanh, "quick_gelu": quick_gelu, "relu_squared": relu_squared}
    try:
        return own.get(name) or keras.activations.get(name)
    except ValueError:
        raise ValueError(
            f"Unknown activation {name!r}. Use 'gelu_tanh', 'quick_gelu', 'relu_squared', or any of Keras' own, such "
            f"as 'gelu', 'silu' or 'relu'."
        ) from None


@functools.cache
def gate(activate):
    """A function that multiplies the activated half of its argument by the other half."""

    def gated(x):
        gate, x = ops.split(x, 2, axis=-1)
        return activate(gate) * x

    return gated


def gelu_tanh(x):
    """GELU by its tanh approximation (https://arxiv.org/abs/1606.08415), which GPT-2 and Gemma use.

    Written for XLA, which is quicker at a tanh than at a sigmoid, and without the `pow` by which `ops.gelu` cubes.
    """
    half = 0.5 * x
    return half + half * ops.tanh(x * (0.7978845608028654 + 0.035677408136300125 * ops.square(x)))


def quick_gelu(x):
    return x * ops.sigmoid(1.702 * x)


def relu_squared(x):
    return ops.square(ops.relu(x))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeedForwardOptions(Options):
    """What happens between the two layers.

    Args:
        activation: str, any Keras activation, "gelu_tanh", "quick_gelu" or "relu_squared".
        gated: bool. Multiply the activated half by a second projection, as in GEGLU and SwiGLU
            (https://arxiv.org/abs/2002.05202).
    """

    activation: str = "gelu"
    gated: bool = False

    def check(self, d_model=None, num_heads=None):
        super().check(d_model, num_heads)
        get_activation(self.activation)

    def feed_forward_parameters(self, d_model, dff, use_bias):
        """The number of weights of a feed-forward layer."""
        return (d_model + use_bias) * dff * (2 if self.gated else 1) + (dff + use_bias) * d_model

    def feed_forward_kept(self, dff):
        """Numbers for each token that training keeps of a feed-forward layer for its gradient: before the activation
        and behind it."""
        return (3 if self.gated else 2) * dff


class Widening(Composite, keras.layers.Layer):
    """What layers have in common that act on each token alone, and are wide inside: see `FeedForward`."""

    _options = FeedForwardOptions

    def __init__(
        self,
        d_model,
        dff,
        *,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        output_initializer=None,
        **options,
    ):
        own = self._options.take(options)
        super().__init__(**options)
        own.set_on(self)
        self._input_width = None
        self.d_model = d_model
        self.dff = dff
        self.activate = get_activation(self.activation)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_initializer = keras.initializers.get(output_initializer)
        self.supports_masking = True

    def __call__(self, x, *args, **kwargs):
        rank = max(len(getattr(x, "shape", ())), 2)
        check_vectors(self.name, "x", x, self._input_width, rank)
        return super().__call__(x, *args, **kwargs)

    def compute_output_shape(self, x_shape):
        return (*x_shape[:-1], self.d_model)

    def get_config(self):
        return {
            **super().get_config(),
            "d_model": self.d_model,
            "dff": self.dff,
            **self._options.of(self),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "output_initializer": keras.initializers.serialize(self.output_initializer),
        }


@keras.saving.register_keras_serializable("kerasllm")
@explain_options(FeedForwardOptions)
class FeedForward(Widening):
    """Two dense layers on each token: widen to `dff`, activate, narrow to `d_model`.

    Args:
        d_model: int, width of the output.
        dff: int, inner width.
        use_bias: bool.
        kernel_initializer: initializer of the widening kernel.
        output_initializer: initializer of the narrowing kernel; None means `kernel_initializer`.
        **options: `FeedForwardOptions`, and `name` and `dtype` of `keras.layers.Layer`.

    Call arguments:
        x: float (B, T, any width).

    Returns:
        float (B, T, D).

    Example:
        >>> kerasllm.layers.FeedForward(64, 256, activation="silu", gated=True)(np.ones((2, 10, 64))).shape
        TensorShape([2, 10, 64])
    """

    def build(self, x_shape):
        self._input_width = x_shape[-1]
        self.inner = self._dense(2 * self.dff if self.gated else self.dff, "inner", self.kernel_initializer)
        self.inner.build(x_shape)
        self.outer = self._dense(self.d_model, "outer", self.output_initializer or self.kernel_initializer)
        self.outer.build((*x_shape[:-1], self.dff))

    def _dense(self, units, name, initializer):
        return Dense(
            units,
            use_bias=self.use_bias,
            kernel_initializer=clone_initializer(initializer),
            name=name,
            dtype=self.dtype_policy,
        )

    def call(self, x, training=None):
        parts = self.inner.in_parts(x, (self.dff, self.dff)) if self.gated else None
        if parts is not None:
            x = self.activate(parts[0]) * parts[1]
        else:
            activate, x = gate(self.activate) if self.gated else self.activate, self.inner(x)
            x = backend.fused(activate, x) if training else activate(x)
        x = tap(x, self, "inner")
        return tap(self.outer(x), self, "output")
