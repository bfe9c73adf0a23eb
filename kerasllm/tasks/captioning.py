"""`--task caption`: a model learns to write what images show, or to answer questions about them."""

import dataclasses
import functools

import kerasllm
from kerasllm.tasks.adapting import adapt, is_adapted
from kerasllm.tasks.captions import ImageRows, caption_figures
from kerasllm.tasks.causal import CausalTask
from kerasllm.tasks.seeing import SeeingTask, examples_of
from kerasllm.tasks.task import OF_SEEING
from kerasllm.tasks.text import KINDS

DEFAULT_BATCH_SIZE = 16
_ITS_OWN = ("packed", "label_smoothing", "loss_chunk", *OF_SEEING)
DEFAULT_PROJECTOR = {"kind": "mlp"}
IMAGE_TOKEN = "<image>"
MOST_SCORED = 500  # images that are written of when a run ends
_SCORES = (
    ("loss", "loss, nats per token", "{:,.4f}"),
    ("loss_of_other_images", "and beside other images", "{:,.4f}"),
    ("exact_match", "written as it was said", "{:.2%}"),
    ("bleu", "BLEU", "{:.2f}"),
    ("cider", "CIDEr-D", "{:.2f}"),
)


class CaptionTask(SeeingTask):
    """Images with texts, questions and answers, or chats, of which the texts and the answers are learned."""

    name = "caption"
    learns = "writes what images show, or answers questions about them"
    function = "generate"
    scored_by = "perplexity"
    command = "caption --model {} YOUR_IMAGE.jpg"
    unused_settings = tuple(name for name in SeeingTask.unused_settings if name not in _ITS_OWN)
    own_fields = ("vision", "projector", "attention")
    fields_beside_base = ("max_length", *own_fields)
    special_tokens = (IMAGE_TOKEN,)

    @staticmethod
    def defaults(given):
        usual = SeeingTask.defaults(given)
        return {**usual, "learning_rate": 1e-3} if given.get("train") == "projector" else usual  # which is new

    @staticmethod
    def model_class():
        return kerasllm.models.VisionLanguageModel

    def __init__(self, settings):
        super().__init__(settings)
        self._eyes = None  # a model whose encoder is taken, or the `VisionConfig` of a new one

    def config(self):
        config, settings = super().config(), self.settings
        if is_adapted(settings) and settings.train == "projector":
            raise ValueError("adapter does nothing beside train=projector, which trains nothing else: leave it out.")
        if self._begins_with_sight:
            if given := {*self.own_fields} & settings.model.keys():
                raise ValueError(f"model.{min(given)} does nothing beside base: {settings.base} sees already.")
            if settings.encoder:
                raise ValueError(f"encoder does nothing beside base: {settings.base} sees already.")
            self.processor = _with_tokens(*self._base)
            return config
        if self._base is not None and not isinstance(self._base[0], kerasllm.models.CausalLM):
            kind = type(self._base[0]).__name__
            raise TypeError(f"A model that writes is to see, and {settings.base} holds a {kind}.")
        self._eyes, self.processor = self._encoder(config)
        self._projector = kerasllm.vision.ProjectorConfig.from_dict(self._mapping("projector", DEFAULT_PROJECTOR))
        count = self._projector.tokens_of(_patches_of(self._eyes))
        if count >= config.max_length:
            raise ValueError(
                f"max_length={config.max_length} has no place for a text behind the {count} tokens of an image: raise "
                "it, or take a projector of fewer, such as model.projector.kind=average."
            )
        tokens = kerasllm.images.ImageTokens(count, IMAGE_TOKEN)
        self.processor = dataclasses.replace(self.processor, tiles=None, tokens=tokens)
        return config

    @property
    def _begins_with_sight(self):
        return self._base is not None and isinstance(self._base[0], self.model_class())

    def _encoder(self, config):
        """A model whose encoder is taken, or the `VisionConfig` of a new one; and the processor of its images."""
        path = self.settings.encoder
        if path is None:
            if self._base is not None and "vision" not in self.settings.model:
                raise ValueError(
                    f"{self.settings.base} does not see: give --encoder a model that does, or say by --set "
                    "model.vision.image_size=… and the like what a new encoder is to be."
                )
            vision = self._new_vision(config)
            return vision, kerasllm.images.ImageProcessor(vision.image_size)
        if "vision" in self.settings.model:
            raise ValueError(f"model.vision does nothing beside encoder: {path} says what it is.")
        dtype, _ = kerasllm.training.precision(self.settings.precision)
        model, _ = kerasllm.load(path, dtype)
        if not hasattr(model, "vision_encoder"):
            raise TypeError(f"An encoder of images is to be taken, and {path} holds a {type(model).__name__}.")
        return model, self.processor_of(model)

    def tokenizer(self):
        if self._begins_with_sight:
            return self._base[1]
        if self._base is None and self.settings.tokenizer in KINDS:
            return None
        base = self._base[1] if self._base else kerasllm.tokenizers.Tokenizer.load(self.settings.tokenizer)
        return kerasllm.tokenizers.with_image_token(base, IMAGE_TOKEN)

    def fitted(self, config, tokenizer):
        self._image_id = tokenizer.engine.token_to_id(self.processor.tokens.token)
        if self._base is None:
            return super().fitted(config, tokenizer)
        return dataclasses.replace(config, vocab_size=max(config.vocab_size, tokenizer.vocab_size))

    def model(self, config, dtype):
        model, stage = self._made(config, dtype), self.settings.train
        stage = stage or ("all" if self._has_new_encoder else "language")
        if is_adapted(self.settings):
            adapt(model, self.settings, ["projector/*"], layers=["/transformer/*"] if stage == "language" else None)
        else:
            model.train_stage(stage)
        model.image_processor = self.processor
        self._base = self._eyes = None
        return model

    def _made(self, config, dtype):
        """The model before it is said what of it is trained."""
        if self._begins_with_sight:
            return self._base[0]
        kind, options = self.model_class(), {"attention": self._attention}
        of_images = self._eyes, self._projector, self._image_id
        if self._base is None:
            if self._has_new_encoder:
                return kind(config, *of_images, dtype=dtype, **options)
            return kind.from_model(kerasllm.models.CausalLM(config, dtype=dtype), *of_images, **options)
        language, tokenizer = self._base
        if new := range(tokenizer.vocab_size, config.vocab_size):
            language = kerasllm.models.with_new_tokens(language, new)
        return kind.from_model(language, *of_images, quantized=is_adapted(self.settings), **options)

    @property
    def _has_new_encoder(self):
        return isinstance(self._eyes, kerasllm.vision.VisionConfig)

    @property
    def _attention(self):
        return self._base[0].attention if self._begins_with_sight else self.settings.model.get("attention", "causal")

    def loss(self):
        return kerasllm.losses.TokenCrossentropy(self.settings.label_smoothing, self.settings.loss_chunk)

    def datasets(self, config, tokenizer, folder):
        self.measure()
        settings, most = self.settings, self._max_length(config)
        self._size = settings.batch_size or DEFAULT_BATCH_SIZE
        rows = ImageRows(tokenizer, self.processor, self._attention)
        training, held_out = (rows.written(examples) for examples in self._parts.values())
        self._window = rows.longest(training, most)
        dataset = functools.partial(
            rows.dataset, training, self._window, self._size, seed=settings.seed, packed=settings.packed
        )
        return dataset, rows.dataset(held_out, rows.longest(held_out, most), self._size, shuffle=False)

    def tokens_per_step(self, config, training):
        """No FLOPs: much of the work is on images."""
        return self._size * self._window, None

    def score(self, model, tokenizer):
        return caption_figures(model, tokenizer, self.processor, self._parts["valid"], self._size, MOST_SCORED)

    @classmethod
    def evaluate(cls, model, tokenizer, sources, columns):
        model.compile()
        examples = examples_of(sources, columns)
        return caption_figures(model, tokenizer, _with_tokens(model, tokenizer), examples, DEFAULT_BATCH_SIZE)

    @staticmethod
    def rows(figures):
        for name, label, form in _SCORES:
            if figures.get(name) is not None:
                yield label, form.format(figures[name])
        of_chats = "" if figures["written_of"] else "; of chats nothing is written to be compared"
        yield "measured on", f"{figures['texts']:,} texts, {figures['images']:,} images{of_chats}"
        if 0 < figures["written_of"] < figures["images"]:
            yield "of which it wrote of", f"{figures['written_of']:,}"

    @staticmethod
    def served(model, tokenizer, text, **asked):
        return CausalTask.served(model, tokenizer, text, **asked)

    @staticmethod
    def compared(model, tokenizer, signatures):
        return CausalTask.compared(model, tokenizer, signatures)


def _with_tokens(model, tokenizer):
    """The image processor of a model that sees, which knows what stands for an image in a text."""
    processor = SeeingTask.processor_of(model)
    if processor.tokens is not None:
        return processor
    token = tokenizer.engine.id_to_token(model.image_token_id)
    return dataclasses.replace(processor, tokens=kerasllm.images.ImageTokens(model.tokens_per_image, token))


def _patches_of(eyes):
    """How many vectors an encoder makes of an image."""
    vision = eyes if isinstance(eyes, kerasllm.vision.VisionConfig) else getattr(eyes, "vision", eyes.config)
    return vision.num_patches
