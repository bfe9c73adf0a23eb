"""`--task embed`: a model learns to put texts near each other that belong together."""

import dataclasses
import functools

import kerasllm
from kerasllm.tasks.over_a_base import OverABaseTask
from kerasllm.tasks.task import OF_CLASSIFYING, SAMPLE
from kerasllm.tasks.translation import measured, pairs_of

DEFAULT_BATCH_SIZE = 64
VALIDATION_SHARE, MOST_VALIDATION_PAIRS = 0.1, 1000  # of the data, where no validation pairs are given


class EmbeddingTask(OverABaseTask):
    """Pairs of texts, scored by how often the second of a pair is the nearest to the first."""

    name = "embed"
    learns = "puts texts near each other that belong together, from pairs"
    function = "embed"
    scored_by = "retrieval_scores"
    command = "evaluate --model {} --data YOUR_PAIRS.tsv"
    unused_settings = (*OverABaseTask.unused_settings, *OF_CLASSIFYING, "test")

    @staticmethod
    def model_class():
        return kerasllm.models.TextEmbedder

    def model(self, config, dtype):
        from kerasllm.models import TextEmbedder

        if self._base is not None and isinstance(self._base[0], TextEmbedder):
            return self._adapted(self._base[0])
        return self._over_base(config, dtype)

    def measure(self):
        if self._parts is None:
            settings = self.settings
            pairs = pairs_of(settings.data, settings.field)
            if settings.valid:
                held_out = pairs_of(settings.valid, settings.field)
            else:
                count = min(int(len(pairs) * VALIDATION_SHARE), MOST_VALIDATION_PAIRS)
                if not count:
                    raise ValueError(f"{len(pairs)} pairs are too few to keep some for validation: give --valid.")
                pairs, held_out = pairs[:-count], pairs[-count:]
            self._parts = {"train": pairs, "valid": held_out}
        return {part: measured(pairs) for part, pairs in self._parts.items()}

    def texts(self):
        self.measure()
        return (text for pair in self._parts["train"] for text in pair)

    def datasets(self, config, tokenizer, folder):
        self.measure()

        def dataset(pairs, **options):
            batch_size, seed = self.settings.batch_size or DEFAULT_BATCH_SIZE, self.settings.seed
            return kerasllm.data.pair_dataset(pairs, tokenizer, self._max_length(config), batch_size, seed, **options)

        return functools.partial(dataset, self._parts["train"]), dataset(self._parts["valid"])

    def score(self, model, tokenizer):
        return _scores(model, tokenizer, self._parts["valid"])

    @classmethod
    def evaluate(cls, model, tokenizer, sources, columns):
        return _scores(model, tokenizer, pairs_of(sources, columns))

    @staticmethod
    def rows(figures):
        yield "second of a pair nearest to the first", f"{figures['recall_at_1']:.2%}"
        yield "among the ten nearest", f"{figures['recall_at_10']:.2%}"
        yield "mean reciprocal rank", f"{figures['mean_reciprocal_rank']:.4f}"
        yield "measured on", f"{figures['pairs']:,} pairs, {figures['texts']:,} different seconds"

    @staticmethod
    def served(model, tokenizer, text):
        from kerasllm.export import mask_filler, whole_texts

        return whole_texts.ServedEmbedder(model, tokenizer) if text else mask_filler.ServedIds(model)

    @classmethod
    def compared(cls, model, tokenizer, signatures):
        if "serving_default" not in signatures:
            return None
        return cls.close_to_served(signatures, "vector", kerasllm.embed(model, tokenizer, SAMPLE))


def _scores(model, tokenizer, pairs):
    return dataclasses.asdict(kerasllm.evaluation.retrieval_scores(model, tokenizer, pairs))
