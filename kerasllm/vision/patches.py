"""Pictures cut into patches, and where these are.

Shapes: B pictures, n patches in a column, m in a row, N = n m, p height and width of a patch, c channels, D d_model.
"""

import functools

import keras
import numpy as np
from keras import ops

from kerasllm.layers.composite import Composite
from kerasllm.layers.dense import Dense, clone_initializer
from kerasllm.layers.taps import tap

_CUBIC = -0.75  # the steepness of the cubic that torch and OpenCV take


class PatchEmbedding(Composite, keras.layers.Layer):
    """Vectors of patches, with their positions, and before them perhaps a class token.

    Args:
        config: VisionConfig.
        kernel_initializer: of the projection.

    Call arguments:
        pixel_values: float (B, height, width, c), of any size: positions lie in between the learned ones, as torch's
            bicubic interpolation has them.

    Returns:
        float (B, N, D), row by row; with a class token (B, 1 + N, D).
    """

    def __init__(self, config, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, _):
        config = self.config
        self.projection = Dense(
            config.d_model,
            use_bias=config.patch_bias,
            kernel_initializer=clone_initializer(self.kernel_initializer),
            name="projection",
            dtype=self.dtype_policy,
        )
        self.projection.build((None, None, config.patch_size**2 * config.channels))
        vector = keras.initializers.RandomNormal(0.02)
        self.class_token = self.positions = None
        if config.class_token:
            self.class_token = self.add_weight((config.d_model,), clone_initializer(vector), name="class_token")
        if config.positions is not None:
            shape = (config.class_token + config.num_patches, config.d_model)
            self.positions = self.add_weight(shape, self._first_positions, name="positions")

    def _first_positions(self, shape, dtype=None):
        """What learned positions begin as: those of neighbours alike, and as large as what patches add to them."""
        waves = waves_of_grid(self.config.grid, self.config.d_model)
        return ops.convert_to_tensor(np.pad(waves, ((shape[0] - len(waves), 0), (0, 0))), dtype or "float32")

    def call(self, pixel_values, training=None):
        p, (B, *_, c) = self.config.patch_size, ops.shape(pixel_values)
        n, m = ((size or self.config.image_size) // p for size in pixel_values.shape[1:3])
        x = ops.reshape(pixel_values[:, : n * p, : m * p], (-1, n, p, m, p * c))
        x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4)), (-1, n * m, p * p * c))
        x = tap(self.projection(x, training=training), self, "patches")
        if self.class_token is not None:
            first = ops.broadcast_to(ops.cast(self.class_token, x.dtype), (B, 1, self.config.d_model))
            x = ops.concatenate([first, x], axis=1)
        return x if self.positions is None else x + ops.cast(self._positions(n, m), x.dtype)

    def _positions(self, n, m):
        """Those of n x m patches, (N, D) or (1 + N, D)."""
        table, grid, D = ops.convert_to_tensor(self.positions), self.config.grid, self.config.d_model
        if n == grid and m == grid:
            return table
        before = int(self.config.class_token)
        first, table = table[:before], table[before:]
        table = ops.reshape(table, (grid, grid * D))
        table = ops.reshape(ops.matmul(ops.cast(in_between(grid, n), table.dtype), table), (n, grid, D))
        table = ops.reshape(ops.matmul(ops.cast(in_between(grid, m), table.dtype), table), (n * m, D))
        return ops.concatenate([first, table], axis=0)

    def get_config(self):
        return {
            **super().get_config(),
            "config": self.config.to_dict(),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def waves_of_grid(grid, d_model):
    """Sines and cosines of the rows and the columns of patches, with waves of 6 to about 600 patches (He et al. 2022,
    https://arxiv.org/abs/2111.06377, have longer ones): float32 (grid * grid, d_model)."""
    quarter = -(-d_model // 4)
    angles = np.arange(grid)[:, None] / 100 ** (np.arange(quarter) / quarter)
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    both = np.broadcast_arrays(waves[:, None], waves[None])  # by row, by column
    return np.concatenate(both, axis=-1).reshape(grid * grid, -1)[:, :d_model].astype("float32")


@functools.cache
def in_between(before, after):
    """The matrix (after, before) that makes so many places along an axis of as many others, by a cubic through the four
    nearest; the first and the last stand for what would lie outside."""
    matrix = np.zeros((after, before), "float32")
    for row in range(after):
        place = (row + 0.5) * before / after - 0.5
        nearest = int(np.floor(place))
        for other in range(nearest - 1, nearest + 3):
            matrix[row, min(max(other, 0), before - 1)] += _cubic(abs(place - other))
    return matrix


def _cubic(distance):
    """How much counts what is so far away, less than 2."""
    if distance <= 1:
        return (_CUBIC + 2) * distance**3 - (_CUBIC + 3) * distance**2 + 1
    return _CUBIC * (distance**3 - 5 * distance**2 + 8 * distance - 4)
