"""The encoder of pictures.

Shapes: B pictures, N patches, D d_model.
"""

import keras
from keras import ops

from kerasllm.layers.block_options import BlockOptions
from kerasllm.layers.composite import Composite
from kerasllm.layers.transformer import Transformer
from kerasllm.vision.attention_pooling import AttentionPooling
from kerasllm.vision.patches import PatchEmbedding
from kerasllm.vision.vision_config import VisionConfig


@keras.saving.register_keras_serializable("kerasllm")
class VisionTransformer(Composite, keras.layers.Layer):
    """Patches of pictures, their positions, and a Transformer in which all see each other.

    Args:
        config: VisionConfig, or a dict of its fields.
        kernel_initializer: of all kernels.

    Call arguments:
        pixel_values: float (B, height, width, channels), as an image processor makes them of pictures: scaled and
            centred, not from 0 to 255.

    Returns:
        float (B, N, D), vectors of patches row by row; with a class token (B, 1 + N, D), that first.

    Raises:
        ValueError: for pictures of another number of channels, or smaller than a patch.
        TypeError: for whole numbers.

    Example:
        >>> config = kerasllm.vision.VisionConfig(32, 4, num_layers=2, d_model=64, num_heads=4, dff=256)
        >>> encoder = kerasllm.vision.VisionTransformer(config)
        >>> encoder(np.zeros((1, 32, 32, 3), "float32")).shape
        TensorShape([1, 64, 64])

    Reference: Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929
    """

    def __init__(self, config, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.config = config = VisionConfig.from_dict(config)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        options = {"kernel_initializer": self.kernel_initializer, "dtype": self.dtype_policy}
        self.patch_embedding = PatchEmbedding(config, name="patch_embedding", **options)
        self.transformer = Transformer(
            config.num_layers,
            config.d_model,
            config.num_heads,
            config.dff,
            causal=False,
            input_norm=config.input_norm,
            final_norm=config.final_norm,
            name="transformer",
            **{**BlockOptions.of(config), "positions": None},
            **options,
        )
        self.pooling = None
        if config.pooling == "attention":
            self.pooling = AttentionPooling(config, name="pooling", **options)

    def __call__(self, pixel_values, *args, **kwargs):
        check_pixels(pixel_values, self.config)
        return super().__call__(pixel_values, *args, **kwargs)

    def build(self, shape):
        self.patch_embedding.build(shape)
        of_vectors = (None, None, self.config.d_model)
        self.transformer.build(of_vectors)
        if self.pooling is not None:
            self.pooling.build(of_vectors)

    def call(self, pixel_values, training=None):
        return self.transformer(self.patch_embedding(pixel_values, training=training), training=training)

    def pooled(self, x, training=None):
        """One vector of each picture, float (B, D), of what a call makes of them, as the config says."""
        how, before = self.config.pooling, int(self.config.class_token)
        if how is None:
            raise ValueError("This encoder has no vector for a whole picture: its config says pooling=None.")
        if how == "attention":
            return self.pooling(x, training=training)
        return x[:, 0] if how == "first" else ops.mean(x[:, before:], axis=1)

    def compute_output_shape(self, shape):
        B, height, width, _ = shape
        p, first = self.config.patch_size, int(self.config.class_token)
        N = None if None in (height, width) else first + (height // p) * (width // p)
        return B, N, self.config.d_model

    def get_config(self):
        return {
            **super().get_config(),
            "config": self.config.to_dict(),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def check_pixels(pixel_values, config):
    """Refuses what are no pixel values (..., height, width, channels) of pictures that an encoder takes."""
    shape, dtype = tuple(pixel_values.shape), keras.backend.standardize_dtype(pixel_values.dtype)
    if "float" not in dtype:
        raise TypeError(
            f"`pixel_values` are scaled and centred floats, as an image processor makes them, got {dtype}: pixels from "
            "0 to 255 become such by (pixels / 255 - mean) / std."
        )
    if len(shape) < 4 or shape[-1] not in (None, config.channels):
        first = " (channels come last here, and first in torch)" if shape[-3:-2] == (config.channels,) else ""
        raise ValueError(
            f"`pixel_values` are pictures (…, height, width, {config.channels}), got the shape {shape}{first}."
        )
    if any(size is not None and size < config.patch_size for size in shape[-3:-1]):
        raise ValueError(f"Pictures of {shape[-3]} x {shape[-2]} pixels have no patch of {config.patch_size} pixels.")
