"""Vectors of patches become vectors that stand for image tokens in a text.

Shapes: B pictures, N patches, P image tokens of a picture, E width of patches' vectors, D width of tokens' vectors.
"""

import dataclasses

import keras
from keras import ops

from kerasllm.layers.composite import Composite
from kerasllm.layers.dense import Dense, clone_initializer
from kerasllm.layers.feed_forward import get_activation
from kerasllm.layers.normalization import RMSNormalization
from kerasllm.layers.options import check_choice, check_sizes
from kerasllm.layers.taps import tap
from kerasllm.layers.transformer import Transformer
from kerasllm.vision.vision_config import PlainConfig

KINDS = ("linear", "mlp", "pixel_shuffle", "average", "perceiver")
_HEADS = 4  # of a perceiver, where its width can be shared out among them


@dataclasses.dataclass(frozen=True)
class ProjectorConfig(PlainConfig):
    """What a `Projector` does.

    Args:
        kind: "linear", a matrix, as in PaliGemma; "mlp", two layers with an activation between them, as in LLaVA 1.5;
            "pixel_shuffle", a matrix over squares of patches side by side, as in Idefics 3 and SmolVLM; "average", a
            matrix over means of squares of patches, normalised, as in Gemma 3; "perceiver", trained queries that look
            at all patches (https://arxiv.org/abs/2204.14198).
        factor: int, patches along the side of a square, in "pixel_shuffle" and "average".
        num_tokens: int, queries of a "perceiver".
        activation: str, of "mlp".
        use_bias: bool, biases of the layers.
        norm_epsilon: float, of what "average" normalises.

    Raises:
        ValueError: if there is no such kind.

    Example:
        >>> kerasllm.vision.ProjectorConfig("pixel_shuffle", factor=4).tokens_of(1024)
        64
    """

    kind: str = "mlp"
    factor: int = 2
    num_tokens: int = 32
    activation: str = "gelu"
    use_bias: bool = True
    norm_epsilon: float = 1e-6

    def __post_init__(self):
        check_choice("kind", self.kind, KINDS)
        check_sizes(factor=self.factor, num_tokens=self.num_tokens)
        get_activation(self.activation)

    def tokens_of(self, num_patches):
        """int, the image tokens of a square picture of so many patches.

        Raises:
            ValueError: if patches are left over beside the squares.
        """
        if self.kind == "perceiver":
            return self.num_tokens
        if self.kind not in ("pixel_shuffle", "average"):
            return num_patches
        side = round(num_patches**0.5)
        if side**2 != num_patches or side % self.factor:
            raise ValueError(
                f"`factor` ({self.factor}) must divide the patches in a row of square pictures, of which there are "
                f"{num_patches} in all."
            )
        return (side // self.factor) ** 2


@keras.saving.register_keras_serializable("kerasllm")
class Projector(Composite, keras.layers.Layer):
    """Makes of the vectors of patches those of image tokens.

    Args:
        config: ProjectorConfig, or a dict of its fields.
        width: int, D.
        kernel_initializer: of kernels.

    Call arguments:
        x: float (B, N, E), vectors of the patches of square pictures, row by row, without that of a class token.

    Returns:
        float (B, P, D).

    Example:
        >>> projector = kerasllm.vision.Projector(kerasllm.vision.ProjectorConfig("mlp"), width=64)
        >>> projector(np.zeros((1, 16, 32), "float32")).shape
        TensorShape([1, 16, 64])

    Reference: LLaVA 1.5, Liu et al. 2023, https://arxiv.org/abs/2310.03744; Idefics 3, Laurençon et al. 2024,
    https://arxiv.org/abs/2408.12637; Gemma 3, https://arxiv.org/abs/2503.19786
    """

    def __init__(self, config, width, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.config, self.width = ProjectorConfig.from_dict(config), width
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, shape):
        kind, E = self.config.kind, shape[-1]
        self.inner = self.norm = self.queries = self.transformer = None
        if kind == "average":
            self.norm = RMSNormalization(epsilon=self.config.norm_epsilon, name="norm", dtype=self.dtype_policy)
            self.norm.build((None, None, E))
        if kind == "mlp":
            self.inner = self._dense("inner", E)
        if kind == "perceiver":
            self._build_perceiver(E)
        else:
            inputs = {"mlp": self.width, "pixel_shuffle": self.config.factor**2 * E}
            self.outer = self._dense("outer", inputs.get(kind, E))

    def _dense(self, name, inputs):
        layer = Dense(
            self.width,
            use_bias=self.config.use_bias,
            kernel_initializer=clone_initializer(self.kernel_initializer),
            name=name,
            dtype=self.dtype_policy,
        )
        layer.build((None, None, inputs))
        return layer

    def _build_perceiver(self, E):
        shape, D = (self.config.num_tokens, self.width), self.width
        self.queries = self.add_weight(shape, keras.initializers.RandomNormal(0.02), name="queries")
        self.transformer = Transformer(
            1,
            D,
            1 if D % _HEADS else _HEADS,
            4 * D,
            causal=False,
            positions=None,
            use_bias=self.config.use_bias,
            activation=self.config.activation,
            kernel_initializer=self.kernel_initializer,
            name="transformer",
            dtype=self.dtype_policy,
        )
        self.transformer.build((None, None, D), (None, None, E))

    def call(self, x, training=None):
        kind = self.config.kind
        if kind == "perceiver":
            queries = ops.cast(self.queries, x.dtype)
            queries = ops.broadcast_to(queries, (ops.shape(x)[0], *queries.shape))
            return tap(self.transformer(queries, x, training=training), self, "output")
        if kind == "mlp":
            x = get_activation(self.config.activation)(self.inner(x, training=training))
        elif kind == "pixel_shuffle":
            squares = self._squares(x)
            _, P, size, E = ops.shape(squares)
            x = ops.reshape(squares, (-1, P, size * E))
        elif kind == "average":
            x = self.norm(ops.mean(self._squares(x), axis=2))
        return tap(self.outer(x, training=training), self, "output")

    def _squares(self, x):
        """Patches (B, N, E) by squares of them, row by row: (B, P, factor * factor, E)."""
        f, (_, N, E) = self.config.factor, ops.shape(x)
        P = self.config.tokens_of(N)
        m = int(P**0.5)
        x = ops.transpose(ops.reshape(x, (-1, m, f, m, f, E)), (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, P, f * f, E))

    def compute_output_shape(self, shape):
        return shape[0], shape[1] and self.config.tokens_of(shape[1]), self.width

    def get_config(self):
        return {
            **super().get_config(),
            "config": self.config.to_dict(),
            "width": self.width,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
