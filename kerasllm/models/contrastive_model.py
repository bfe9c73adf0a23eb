"""A model that puts pictures and texts into one space, where those that belong together are near.

Shapes: B batch, T time, D d_model, W width of vectors.
"""

import math

import keras
from keras import ops

from kerasllm import backend
from kerasllm.layers.dense import Dense
from kerasllm.layers.options import check_choice
from kerasllm.losses import MatchingSigmoid, MatchingSoftmax
from kerasllm.models.headless import POOLINGS, HeadlessModel, pooled
from kerasllm.models.language_model import as_dict
from kerasllm.vision import VisionConfig, VisionTransformer
from kerasllm.vision.vision_transformer import check_pixels

# The loss, and where the logarithm of the scale and the bias of logits begin.
_LOSSES = {
    "softmax": (MatchingSoftmax, math.log(1 / 0.07), 0.0),
    "sigmoid": (MatchingSigmoid, math.log(10.0), -10.0),
}


@keras.saving.register_keras_serializable("kerasllm")
class ContrastiveModel(HeadlessModel):
    """An encoder of pictures and one of texts, whose vectors are compared.

    Args:
        config: TransformerConfig of the texts' encoder.
        vision: VisionConfig of the pictures', or a dict of its fields.
        width: int, W.
        loss_kind: "softmax", CLIP's, or "sigmoid", SigLIP's, with a trained bias of the logits.
        causal: bool. A token sees itself and earlier ones only, as in CLIP.
        pooling: what stands for a text: "mean", "first", "last" or "max" of its tokens that are not padding; or "end",
            its first token `end_id`, as in CLIP.
        end_id: int or None, for "end"; None means the highest id of each text.
        projects_images: bool. The vector of a picture goes through a layer of its own, as in CLIP; False leaves it as
            it is, so that W must be its width, as in SigLIP.
        use_bias: bool, biases of these layers.

    Attributes:
        image_processor: the `images.ImageProcessor` that makes its pictures of files, or None; saved with it.

    Call arguments:
        inputs: dict with "token_ids", int (B, T), and "pixel_values", float (B, height, width, channels), one picture
            for each text; and perhaps "document_ids", 0 where a text is padding.
        padding_mask, position_ids: see `MaskedLM`; of the texts.

    Returns:
        float32 (B, B), logits of how well pictures, the rows, go with texts.

    Raises:
        ValueError: if the numbers do not fit together.

    `compile()` without a loss means that of `loss_kind`, over the pairs of all replicas or devices. Labels are int
    (B,), a number for each pair, and those of one number are the same; without any, all differ: `fit(inputs)`.

    Example:
        >>> config = kerasllm.models.TransformerConfig(100, num_layers=2, d_model=64, num_heads=4, dff=256)
        >>> vision = kerasllm.vision.VisionConfig(32, 8, num_layers=2, d_model=48, num_heads=4, dff=192)
        >>> model = kerasllm.models.ContrastiveModel(config, vision, width=32)
        >>> pixels = np.zeros((4, 32, 32, 3), "float32")
        >>> model({"token_ids": np.ones((4, 10), "int32"), "pixel_values": pixels}).shape
        TensorShape([4, 4])
        >>> model.image_vectors(pixels).shape
        TensorShape([4, 32])

    Reference: Radford et al. 2021, https://arxiv.org/abs/2103.00020; Zhai et al. 2023,
    https://arxiv.org/abs/2303.15343
    """

    settings = (
        *HeadlessModel.settings,
        *("vision", "width", "loss_kind", "pooling", "end_id", "projects_images", "use_bias"),
    )
    needed_inputs = ("token_ids", "pixel_values")
    optional_inputs = ("document_ids",)
    image_processor = None
    _labels_are_of_tokens = False

    def __init__(
        self,
        config,
        vision,
        width,
        loss_kind="softmax",
        *,
        causal=False,
        pooling="mean",
        end_id=None,
        projects_images=True,
        use_bias=False,
        **kwargs,
    ):
        check_choice("loss_kind", loss_kind, tuple(_LOSSES))
        check_choice("pooling", pooling, (*POOLINGS, "end"))
        self.vision, self.width, self.loss_kind = VisionConfig.from_dict(vision), width, loss_kind
        self.pooling, self.end_id = pooling, end_id
        self.projects_images, self.use_bias = projects_images, use_bias
        if self.vision.pooling is None:
            raise ValueError("A ContrastiveModel needs a vector of each picture, got vision with pooling=None.")
        if not projects_images and width != self.vision.d_model:
            raise ValueError(
                f"Without a projection of pictures their vectors have the width {self.vision.d_model}, got "
                f"width={width}."
            )
        super().__init__(config, causal, **kwargs)
        self.vision_encoder = VisionTransformer(
            self.vision,
            kernel_initializer=self._scaled(),
            name="vision",
            dtype=self.dtype_policy,
        )
        self.head_text = self._projection("head_text", config.d_model)
        self.head_image = self._projection("head_image", self.vision.d_model) if projects_images else None
        self.build(None)

    def _projection(self, name, width):
        return Dense(
            self.width,
            use_bias=self.use_bias,
            kernel_initializer=self._normal(width**-0.5),
            name=name,
            dtype="float32",
        )

    def build(self, _):
        self._build_body()
        vision = self.vision
        self.vision_encoder.build((None, vision.image_size, vision.image_size, vision.channels))
        self.head_text.build((None, self.config.d_model))
        if self.head_image is not None:
            self.head_image.build((None, vision.d_model))
        _, log_scale, bias = _LOSSES[self.loss_kind]
        constant = keras.initializers.Constant
        self.logit_scale = self.add_weight((1,), constant(log_scale), "float32", autocast=False, name="logit_scale")
        self.logit_bias = None
        if self.loss_kind == "sigmoid":
            self.logit_bias = self.add_weight((1,), constant(bias), "float32", autocast=False, name="logit_bias")

    def call(self, inputs, padding_mask=None, position_ids=None, training=None):
        images = self._of_all_replicas(self.image_vectors(inputs["pixel_values"], training))
        texts = self._of_all_replicas(self.text_vectors(inputs, padding_mask, position_ids, training))
        logits = ops.matmul(images, ops.transpose(texts)) * ops.exp(self.logit_scale)
        return logits if self.logit_bias is None else logits + self.logit_bias

    def image_vectors(self, pixel_values, training=None):
        """Vectors of length 1 of pictures (B, height, width, channels): float32 (B, W)."""
        check_pixels(pixel_values, self.vision)
        x = self.vision_encoder(pixel_values, training=training)
        x = ops.cast(self.vision_encoder.pooled(x, training), "float32")
        return ops.normalize(x if self.head_image is None else self.head_image(x), axis=-1)

    def text_vectors(self, inputs, padding_mask=None, position_ids=None, training=None):
        """Vectors of length 1 of texts, int (B, T) or a dict of inputs: float32 (B, W); the rest as in a call."""
        inputs = as_dict(inputs)
        x = ops.cast(self._hidden_states(inputs, padding_mask, position_ids, training), "float32")
        if self.pooling == "end":
            ids = ops.cast(inputs["token_ids"], "int32")
            place = ops.argmax(ids if self.end_id is None else ops.cast(ids == self.end_id, "int32"), axis=-1)
            x = ops.take_along_axis(x, place[:, None, None], axis=1)[:, 0]
        else:
            x = pooled(x, self.pooling, inputs, padding_mask)
        return ops.normalize(self.head_text(x), axis=-1)

    def compile(self, optimizer="adam", loss=None, **kwargs):
        """As `keras.Model.compile`; without a loss, that of the model."""
        super().compile(optimizer, _LOSSES[self.loss_kind][0]() if loss is None else loss, **kwargs)

    def _of_all_replicas(self, x):
        """What all replicas of a step have, (all of B, ...): each pair is to be told from those of the others too."""
        return backend.gathered_over_replicas(x) if self._is_stepping else x

    def _labels(self, x, y, sample_weight):
        if y is None:
            numbers = self._of_all_replicas(ops.zeros((ops.shape(x["token_ids"])[0],), dtype="int32"))
            y = ops.arange(ops.shape(numbers)[0], dtype="int32")
        else:
            y = self._of_all_replicas(y)
        return y, None if sample_weight is None else self._of_all_replicas(sample_weight)

    def get_config(self):
        return {**super().get_config(), "vision": self.vision.to_dict()}
