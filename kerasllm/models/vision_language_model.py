"""A causal language model that sees: pictures stand in its text in the places of image tokens.

Shapes: B batch, T time, D d_model, V vocab, I pictures, P image tokens of a picture.
"""

import dataclasses

import keras
from keras import ops

from kerasllm import backend
from kerasllm.layers.composite import check_parts, kernels_of_config
from kerasllm.layers.options import check_choice
from kerasllm.losses import token_weights
from kerasllm.models.causal_lm import CausalLM
from kerasllm.models.language_model import as_dict, small_deviation
from kerasllm.models.weights import weight_names, weights_to_save
from kerasllm.vision import Projector, ProjectorConfig, VisionConfig, VisionTransformer
from kerasllm.vision.vision_transformer import check_pixels

ATTENTIONS = ("causal", "image", "prefix")
STAGES = ("projector", "language", "all")


@keras.saving.register_keras_serializable("kerasllm")
class VisionLanguageModel(CausalLM):
    """An encoder of pictures, a projector, and a `CausalLM` that reads what they make in the place of image tokens.

    Args:
        config: TransformerConfig of the language model.
        vision: VisionConfig of the encoder, or a dict of its fields.
        projector: ProjectorConfig, or a dict of its fields.
        image_token_id: int, the id of image tokens. A picture stands in a text as `tokens_per_image` of them.
        attention: "causal", in which a patch sees what is before it, as all tokens do; "image", in which those of a
            picture see each other both ways, as in Gemma 3; or "prefix", in which all up to the last picture do, and in
            generation the whole prompt, as in PaliGemma.
        keeps_class_token: bool. The encoder's class token becomes an image token too.

    Attributes:
        image_processor: the `images.ImageProcessor` that makes its pictures of files, or None; saved with it.

    Call arguments:
        inputs: a dict with "token_ids", int (B, T), or in their place "embeddings", as for a `CausalLM`; and
            "pixel_values", float (I, height, width, channels), the pictures of all rows, one after the other in the
            order of their tokens; or (B, most pictures of a row, height, width, channels), where those that a row has
            not are anything. Without pictures it is a `CausalLM`. Besides "document_ids" it may have "span_ids", int
            (B, T): tokens of one number other than 0 see each other both ways, whatever `attention` says.
        padding_mask, position_ids, cache, cache_index, return_hidden_states: see `CausalLM`.

    Returns:
        float (B, T, V): see `CausalLM`. Image tokens are never learned as labels.

    Raises:
        ValueError: if there are more or fewer image tokens than the pictures make. In a compiled function, where
            nothing can be raised, the logits are not finite then.

    Example:
        >>> config = kerasllm.models.TransformerConfig(100, num_layers=2, d_model=64, num_heads=4, dff=256)
        >>> vision = kerasllm.vision.VisionConfig(32, 8, num_layers=2, d_model=48, num_heads=4, dff=192)
        >>> model = kerasllm.models.VisionLanguageModel(config, vision, {"kind": "mlp"}, image_token_id=99)
        >>> model.tokens_per_image
        16
        >>> ids = np.array([[99] * 16 + [1, 2, 3]])
        >>> model({"token_ids": ids, "pixel_values": np.zeros((1, 32, 32, 3), "float32")}).shape
        TensorShape([1, 19, 100])

    Reference: Liu et al. 2023, https://arxiv.org/abs/2304.08485; PaliGemma, https://arxiv.org/abs/2407.07726
    """

    settings = ("vision", "projector", "image_token_id", "attention", "keeps_class_token")
    optional_inputs = ("document_ids", "span_ids", "pixel_values")
    image_processor = None

    def __init__(
        self, config, vision, projector, image_token_id, *, attention="causal", keeps_class_token=False, **kwargs
    ):
        check_choice("attention", attention, ATTENTIONS)
        self.vision = dataclasses.replace(VisionConfig.from_dict(vision), pooling=None)  # which nothing would read
        self.projector = ProjectorConfig.from_dict(projector)
        if not isinstance(image_token_id, int) or not 0 <= image_token_id < config.vocab_size:
            raise ValueError(f"`image_token_id` must be an id below {config.vocab_size}, got {image_token_id!r}.")
        self.image_token_id, self.attention = image_token_id, attention
        self.keeps_class_token = keeps_class_token and self.vision.class_token
        self.tokens_per_image = self.projector.tokens_of(self.vision.num_patches + self.keeps_class_token)
        super().__init__(config, **kwargs)

    @property
    def _kernel_deviation(self):  # texts have to find what they are about among many patches
        return small_deviation(self.config)

    @classmethod
    def from_model(cls, model, vision, projector, image_token_id, *, quantized=False, **options):
        """A model that sees over what a `CausalLM` has learned, with a projector that has learned nothing.

        Args:
            model: a `CausalLM` that has a row for image tokens: `models.with_new_tokens` gives it one. It stays as it
                is, and shares no weights.
            vision: a model with an encoder, which is taken as it has learned; or as in the class, of one that is new.
            projector, image_token_id, **options: see the class.
            quantized: bool. Kernels in few bits stay so, for adapters to be trained beside them.

        Returns:
            A new `VisionLanguageModel`, not compiled. `train_stage("projector")` is where LLaVA begins.

        Example:
            >>> clip, _ = kerasllm.load("clip-vit-base-patch32")
            >>> chat, tokenizer = kerasllm.load("my-chat-model")
            >>> tokenizer = kerasllm.tokenizers.with_image_token(tokenizer)
            >>> (image_id,) = tokenizer.encode("<image>", parse_special=True)
            >>> chat = kerasllm.models.with_new_tokens(chat, [image_id])
            >>> model = kerasllm.models.VisionLanguageModel.from_model(chat, clip, {"kind": "mlp"}, image_id)
        """
        check_parts(model, plain=True)
        seeing = vision if isinstance(vision, keras.Model) else None
        kernels = model.get_config().get("kernel_layers", {})
        with kernels_of_config(kernels if quantized else {}):
            eyes = getattr(vision, "vision", None) or getattr(vision, "config", vision)  # of an ImageClassifier
            made = cls(model.config, eyes, projector, image_token_id, dtype=model.dtype_policy, **options)
        arrays = weights_to_save(model, plain=not quantized)
        body = {name: weight for name, weight in weight_names(made).items() if name in arrays}
        if seeing is not None:
            arrays |= {name: array for name, array in weights_to_save(seeing).items() if name.startswith("vision/")}
        for name, weight in weight_names(made).items():
            if name in arrays:
                weight.assign(arrays[name]())
        made.generation_settings = getattr(model, "generation_settings", {})
        if getattr(model, "base", None) is not None and (quantized or not kernels):
            made.base = model.base.under_a_new_head(body)
        return made

    def build(self, shape):
        vision = self.vision
        self.vision_encoder = VisionTransformer(
            vision,
            kernel_initializer=self._scaled(),
            name="vision",
            dtype=self.dtype_policy,
        )
        self.image_projector = Projector(
            self.projector,
            self.config.d_model,
            kernel_initializer=self._scaled(),
            name="projector",
            dtype=self.dtype_policy,
        )
        self.vision_encoder.build((None, vision.image_size, vision.image_size, vision.channels))
        self.image_projector.build((None, None, vision.d_model))
        super().build(shape)

    def __call__(self, inputs, *args, **kwargs):
        self._check_names(inputs)
        if isinstance(inputs, dict) and kwargs.get("cache") is None:
            self.check_prompt(inputs)
        return super().__call__(inputs, *args, **kwargs)

    def check_prompt(self, prompt):
        """Refuses pictures that are none, and texts with more or fewer image tokens than the pictures make.

        Args:
            prompt: dict of inputs, of one text or of several: "token_ids", and perhaps "pixel_values".
        """
        pixels, ids = prompt.get("pixel_values"), prompt.get("token_ids")
        if pixels is not None:
            check_pixels(pixels, self.vision)
        ids = ops.convert_to_numpy(ids) if isinstance(ids, list) else ids if ids is None else backend.known(ids)
        if ids is None or len(getattr(pixels, "shape", ())) == 5:
            return
        found = int((ids == self.image_token_id).sum())
        count = 0 if pixels is None else pixels.shape[0]
        if count is not None and found != count * self.tokens_of(pixels):
            each = self.tokens_of(pixels)
            raise ValueError(
                f"{count} pictures stand in a text as {each} tokens with the id {self.image_token_id} each, "
                f"{count * each} in all, and the text has {found} of them."
            )

    def tokens_of(self, pixel_values=None):
        """int, the image tokens of a picture of this size; of the usual one, `tokens_per_image`, for None."""
        if pixel_values is None:
            return self.tokens_per_image
        n, m = ((size or self.vision.image_size) // self.vision.patch_size for size in pixel_values.shape[-3:-1])
        return self.projector.tokens_of(n * m + self.keeps_class_token)

    def image_vectors(self, pixel_values, training=None):
        """What stands in the places of image tokens.

        Args:
            pixel_values: float (..., height, width, channels).

        Returns:
            float (..., P, D).
        """
        shape = ops.shape(pixel_values)
        x = self.vision_encoder(ops.reshape(pixel_values, (-1, *shape[-3:])), training=training)
        if self.vision.class_token and not self.keeps_class_token:
            x = x[:, 1:]
        x = self.image_projector(x, training=training)
        return ops.reshape(x, (*shape[:-3], *x.shape[1:])) if len(shape) > 4 else x

    def embed(self, inputs, training=None):
        """The vectors of tokens, those of pictures in the places of image tokens.

        Args:
            inputs: int (B, T), token ids, or a dict of inputs, as in a call.

        Returns:
            float (B, T, D), for `model({"embeddings": x})`.
        """
        inputs = as_dict(inputs)
        x, pixels = super().embed(inputs), inputs.get("pixel_values")
        if pixels is None:
            return x
        vectors = self.image_vectors(pixels, training)
        is_image = ops.cast(inputs["token_ids"], "int32") == self.image_token_id
        T, D = ops.shape(x)[1], self.config.d_model
        if len(pixels.shape) == 4:  # all rows have their tokens one after the other
            vectors, is_image = ops.reshape(vectors, (1, -1, D)), ops.reshape(is_image, (1, -1))
        else:
            vectors = ops.reshape(vectors, (ops.shape(vectors)[0], -1, D))
        place, count = ops.cumsum(ops.cast(is_image, "int32"), axis=1) - 1, ops.shape(vectors)[1]
        found = ops.take_along_axis(vectors, ops.clip(place, 0, count - 1)[..., None], axis=1)
        are_enough = place < count
        if len(pixels.shape) == 4:
            are_enough = ops.logical_and(are_enough, place[:, -1:] + 1 == count)
        found = ops.where(are_enough[..., None], ops.cast(found, x.dtype), float("nan"))
        return ops.where(ops.reshape(is_image, (-1, T, 1)), ops.reshape(found, (-1, T, D)), x)

    @property
    def sees_prompts_whole(self):
        return self.attention == "prefix"

    def hidden_states(self, inputs, *args, training=None, **options):
        inputs = as_dict(inputs)
        if inputs.get("pixel_values") is not None and inputs.get("embeddings") is None:
            inputs = {**inputs, "embeddings": self.embed(inputs, training)}
        return super().hidden_states(inputs, *args, training=training, **options)

    def _spans(self, inputs, cache, cache_index):
        spans, ids = inputs.get("span_ids"), inputs.get("token_ids")
        if spans is not None or self.attention == "causal" or ids is None or ids.shape[1] == 1:
            return spans
        is_image = ops.cast(ops.cast(ids, "int32") == self.image_token_id, "int32")
        if self.attention == "image":
            begins = is_image * (1 - ops.pad(is_image[:, :-1], ((0, 0), (1, 0))))
            return ops.cumsum(begins, axis=1) * is_image
        if cache is not None:  # a prompt is read from the beginning on, and nothing else is
            return ops.ones_like(is_image) if isinstance(cache_index, int) and cache_index == 0 else None
        documents = inputs.get("document_ids")
        if documents is None:
            return ops.cast(ops.flip(ops.cumsum(ops.flip(is_image, axis=1), axis=1), axis=1) > 0, "int32")
        places = ops.arange(ids.shape[1] or ops.shape(ids)[1])
        is_ahead = ops.logical_and(places[:, None] <= places, documents[:, :, None] == documents[:, None])
        return ops.cast(ops.any(ops.logical_and(is_ahead, is_image[:, None] > 0), axis=-1), "int32")

    def _labels(self, x, y, sample_weight):
        y, sample_weight = super()._labels(x, y, sample_weight)
        if isinstance(y, dict):
            return y, sample_weight
        return y, token_weights(sample_weight, y) * ops.cast(y != self.image_token_id, "float32")

    def train_stage(self, stage):
        """Says what is trained from now on; compile the model anew then.

        Args:
            stage: "projector" alone, as LLaVA's first stage; "language", that and the language model; or "all".

        Raises:
            ValueError: for another stage.
        """
        check_choice("stage", stage, STAGES)
        for layer in self._flatten_layers(include_self=False, recursive=False):
            layer.trainable = stage == "all" or (stage == "language" and layer is not self.vision_encoder)
        self.image_projector.trainable = True

    def get_config(self):
        own = {"vision": self.vision.to_dict(), "projector": self.projector.to_dict()}
        return {**super().get_config(), **{name: getattr(self, name) for name in self.settings}, **own}


def check_reads_text_alone(model, form):
    """Refuses a model that sees where what is written would not.

    Args:
        model: any model.
        form: str, what is to be written.
    """
    if isinstance(model, VisionLanguageModel):
        raise ValueError(
            f"{form} holds models that read text alone, and this is a VisionLanguageModel: export.saved_model and "
            "huggingface.save write models that see."
        )
