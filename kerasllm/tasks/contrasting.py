"""`--task contrast`: a model learns to put images and texts near each other that belong together."""

import functools

import kerasllm
from kerasllm.tasks.seeing import SeeingTask, examples_of, key_of

DEFAULT_BATCH_SIZE = 64
_AT_ONCE = 64  # images or texts of which vectors are made
_RECALLS = ("text_to_image", "image of a text"), ("image_to_text", "text of an image")


class ContrastTask(SeeingTask):
    """Images with a text each, scored by how often one is found by the other among all that were held out."""

    name = "contrast"
    learns = "puts images and texts near each other that belong together, as CLIP and SigLIP do"
    function = "image_vectors"
    scored_by = "matching_scores"
    command = "evaluate --model {} --data YOUR_IMAGES.jsonl"
    own_fields = ("vision", "width", "loss_kind", "pooling")

    @staticmethod
    def model_class():
        return kerasllm.models.ContrastiveModel

    def config(self):
        config = super().config()
        if self._base is None:
            self._vision = self._new_vision(config)
            self.processor = kerasllm.images.ImageProcessor(self._vision.image_size)
            return config
        model, _ = self._base
        if not isinstance(model, self.model_class()):
            raise TypeError(f"A ContrastiveModel goes on, and {self.settings.base} holds a {type(model).__name__}.")
        self.processor = self.processor_of(model)
        return config

    def model(self, config, dtype):
        if self._base is not None:
            return self._adapted(self._base[0])
        options = {name: self.settings.model[name] for name in self.own_fields[1:] if name in self.settings.model}
        model = self.model_class()(config, self._vision, **{"width": config.d_model, **options}, dtype=dtype)
        model.image_processor = self.processor
        return model

    def datasets(self, config, tokenizer, folder):
        self.measure()
        settings = self.settings
        self._length = _length(self._parts["train"], tokenizer, self._max_length(config))

        def dataset(examples, **options):
            size = settings.batch_size or DEFAULT_BATCH_SIZE
            common = self.processor, self._length, size, settings.seed
            return kerasllm.data.image_pair_dataset(examples, tokenizer, *common, **options)

        return functools.partial(dataset, self._parts["train"]), dataset(self._parts["valid"], shuffle=False)

    def tokens_per_step(self, config, training):
        """No FLOPs: most of the work is on images."""
        return training.batch_size * self._length, None

    def score(self, model, tokenizer):
        return _scores(model, tokenizer, self.processor, self._parts["valid"])

    @classmethod
    def evaluate(cls, model, tokenizer, sources, columns):
        return _scores(model, tokenizer, cls.processor_of(model), examples_of(sources, columns))

    @staticmethod
    def rows(figures):
        for name, what in _RECALLS:
            found = " / ".join(f"{figures[f'{name}_recall_at_{k}']:.2%}" for k in (1, 5, 10))
            yield f"{what} nearest / among 5 / 10", found
        yield "measured on", f"{figures['images']:,} images, {figures['texts']:,} texts"

    @staticmethod
    def served(model, tokenizer, text):
        raise ValueError(
            "A ContrastiveModel takes images: kerasllm.export.image_saved_model(model, model.image_processor, path) "
            "writes a SavedModel of it that does."
        )


def _length(examples, tokenizer, most):
    """Tokens of the longest text, or as many as the model takes."""
    from kerasllm.tokenizers.cutting import encode_whole

    rows, _, _ = encode_whole(tokenizer, [example.get("text", "") for example in examples], most)
    return max(map(len, rows))


def _scores(model, tokenizer, processor, examples):
    """What `matching_scores` finds, each image and each text once; what is said of several images belongs to all."""
    import numpy as np

    images, texts = ({} for _ in range(2))
    for number, example in enumerate(examples):
        if len(example["images"]) != 1 or "text" not in example:
            raise ValueError(f"An image with a text is compared with others, and example {number} has something else.")
        images.setdefault(key_of(example["images"]), example["images"][0])
        texts.setdefault(example["text"], None)
    labels = _components(examples)
    image_vectors = np.concatenate(list(_image_vectors(model, processor, list(images.values()))))
    text_vectors = np.concatenate(list(_text_vectors(model, tokenizer, list(texts))))
    scores = kerasllm.evaluation.matching_scores(
        image_vectors, text_vectors, [labels[image] for image in images], [labels[text] for text in texts]
    )
    recalls = {f"{name}_recall_at_{k}": recall for name, _ in _RECALLS for k, recall in getattr(scores, name).items()}
    return {**recalls, "images": scores.images, "texts": scores.texts}


def _image_vectors(model, processor, images):
    import numpy as np

    from kerasllm.data.image_batches import WORKERS, ImageDecoder

    pixels_of = ImageDecoder(processor, WORKERS)
    for begin in range(0, len(images), _AT_ONCE):
        yield np.array(model.image_vectors(pixels_of(images[begin : begin + _AT_ONCE])))


def _text_vectors(model, tokenizer, texts):
    import numpy as np

    from kerasllm.tokenizers.cutting import encode_whole

    rows, _, _ = encode_whole(tokenizer, texts, model.config.max_length)
    for begin in range(0, len(rows), _AT_ONCE):
        part = rows[begin : begin + _AT_ONCE]
        ids = np.full((len(part), max(map(len, part))), tokenizer.pad_id or 0, "int32")
        documents = np.zeros_like(ids)
        for row, found in enumerate(part):
            ids[row, : len(found)], documents[row, : len(found)] = found, 1
        yield np.array(model.text_vectors({"token_ids": ids, "document_ids": documents}))


def _components(examples):
    """A number for each image and each text, the same for those that belong together, also by way of others."""
    parents = {}

    def root(item):
        while parents.setdefault(item, item) != item:
            item = parents[item] = parents[parents[item]]
        return item

    for example in examples:
        parents[root(key_of(example["images"]))] = root(example["text"])
    numbers = {}
    return {item: numbers.setdefault(root(item), len(numbers)) for item in list(parents)}
