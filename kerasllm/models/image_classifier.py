"""A model that says of which kind a picture is.

Shapes: B pictures, D d_model, L labels.
"""

import keras

from kerasllm.layers.composite import Composite
from kerasllm.layers.dense import Dense
from kerasllm.layers.taps import tap
from kerasllm.models.classifiers import checked_labels
from kerasllm.models.language_model import scaled_normal
from kerasllm.vision import VisionConfig, VisionTransformer
from kerasllm.vision.vision_transformer import check_pixels


@keras.saving.register_keras_serializable("kerasllm")
class ImageClassifier(Composite, keras.Model):
    """A `VisionTransformer` and a layer of labels, as one `keras.Model`.

    Args:
        config: VisionConfig, or a dict of its fields; its `pooling` is what stands for a picture.
        num_labels: int, L; as many as there are `labels` when absent.
        labels: list of str, their names, or None.
        random_weights: bool. False begins with zeros, for weights that are to be loaded.

    Attributes:
        image_processor: the `images.ImageProcessor` that makes its pictures of files, or None; saved with it.

    Call arguments:
        inputs: float (B, height, width, channels), as an image processor makes them.

    Returns:
        float32 (B, L), logits.

    Raises:
        ValueError: if the numbers do not fit together.

    `compile()` without a loss means cross-entropy of one label, int (B,), with accuracy.

    Example:
        >>> config = kerasllm.vision.VisionConfig(32, 8, num_layers=2, d_model=48, num_heads=4, dff=192)
        >>> model = kerasllm.models.ImageClassifier(config, labels=["cat", "dog"])
        >>> model(np.zeros((1, 32, 32, 3), "float32")).shape
        TensorShape([1, 2])

    Reference: Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929
    """

    settings = ("num_labels", "labels")
    image_processor = None

    def __init__(self, config, num_labels=None, *, labels=None, random_weights=True, **kwargs):
        super().__init__(**kwargs)
        self.config = VisionConfig.from_dict(config)
        self.num_labels, self.labels = checked_labels(num_labels, labels)
        if self.config.pooling is None:
            raise ValueError("An ImageClassifier needs a vector of each picture, got a config with pooling=None.")
        kernels, of_output = scaled_normal(), keras.initializers.RandomNormal(0.02)
        if not random_weights:
            kernels = of_output = keras.initializers.Zeros()
        self.vision_encoder = VisionTransformer(
            self.config, kernel_initializer=kernels, name="vision", dtype=self.dtype_policy
        )
        self.head_output = Dense(self.num_labels, kernel_initializer=of_output, name="head_output", dtype="float32")
        size = self.config.image_size
        self.build((None, size, size, self.config.channels))

    def __call__(self, inputs, *args, **kwargs):
        check_pixels(inputs, self.config)
        return super().__call__(inputs, *args, **kwargs)

    def build(self, shape):
        self.vision_encoder.build(shape)
        self.head_output.build((None, self.config.d_model))

    def call(self, inputs, training=None):
        x = self.vision_encoder(inputs, training=training)
        return tap(self.head_output(self.vision_encoder.pooled(x, training)), self, "logits")

    def compile(self, optimizer="adam", loss=None, *, metrics=None, **kwargs):
        """As `keras.Model.compile`; without a loss, cross-entropy of one label, with the accuracy."""
        if loss is None:
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            metrics = ["accuracy"] if metrics is None else metrics
        super().compile(optimizer, loss, metrics=metrics, **kwargs)

    def get_config(self):
        dtype = keras.dtype_policies.serialize(self.dtype_policy)
        own = {"config": self.config.to_dict(), "num_labels": self.num_labels, "labels": self.labels}
        return {"name": self.name, "dtype": dtype, **own, **self._parts_config()}
