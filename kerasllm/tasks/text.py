"""What tasks share whose models learn from running text, which is cut into windows."""

import functools
import json
import shutil
import tempfile
import weakref
from pathlib import Path

import kerasllm
from kerasllm.tasks.corpus import Corpus
from kerasllm.tasks.task import OF_ENCODERS, Task

DEFAULT_BATCH_SIZE = 32


class TextTask(Task):
    """A task whose data are documents. A subclass says also which function of `kerasllm.data` makes its batches."""

    unused_settings = ("batch_tokens", "test")
    unused_fields = OF_ENCODERS

    @staticmethod
    def make_dataset(*args, **options):
        """As `kerasllm.data.causal_lm_dataset`."""
        raise NotImplementedError

    @staticmethod
    def score_corpus(model, tokenizer, corpus, **options):
        """Scores a model on a `Corpus`; returns a dict."""
        raise NotImplementedError

    def measure(self):
        settings = self.settings
        sources, columns = settings.data, settings.field
        if settings.clean or settings.deduplicate:
            sources, columns = (self._filtered_copy(),), ("text",)
        train, valid = ("all", "all") if settings.valid else ("train", "valid")
        self._training = Corpus(sources, train, *columns)
        self._validation = Corpus(settings.valid or sources, valid, *(settings.field if settings.valid else columns))
        return {"train": self._training.measure(), "valid": self._validation.measure()}

    def texts(self):
        return self._training

    def datasets(self, config, tokenizer, folder):
        """Where a run goes on, the tokens are in the folder, and read to be sure that they are those once written."""
        files = {
            part: _tokens(corpus, tokenizer, folder / part)
            for part, corpus in {"train": self._training, "valid": self._validation}.items()
        }

        def dataset(part, **options):
            return self.make_dataset(
                files[part],
                tokenizer,
                config.max_length,
                self._batch_size,
                seed=self.settings.seed,
                packed=self.settings.packed,
                **options,
            )

        return functools.partial(dataset, "train"), dataset("valid", shuffle=False)

    def tokens_per_step(self, config, training):
        return self._batch_size * config.max_length, config.flops_per_token(config.max_length)

    def score(self, model, tokenizer):
        return self.score_corpus(model, tokenizer, self._validation)

    @classmethod
    def evaluate(cls, model, tokenizer, sources, columns, **options):
        return cls.score_corpus(model, tokenizer, Corpus(tuple(sources), "all", *columns), **options)

    @property
    def _batch_size(self):
        return self.settings.batch_size or DEFAULT_BATCH_SIZE

    def _filtered_copy(self):
        """The path of a file with the documents of `data` that cleaning leaves, which lives as long as the task.

        The text is read many times, and cleaning takes much longer than reading.
        """
        from kerasllm import data, report

        settings = self.settings
        documents, filters = data.read_text(list(settings.data), field=next(iter(settings.field), None)), {}
        if settings.clean:
            documents = filters["clean"] = data.clean(documents, settings.clean)
        if settings.deduplicate:
            documents = filters["deduplicate"] = data.deduplicate(documents)
        folder = tempfile.mkdtemp(prefix="kerasllm-documents-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        path = Path(folder) / "documents.jsonl"
        with path.open("w", encoding="ascii") as file:
            file.writelines(json.dumps({"text": document}) + "\n" for document in documents)
        for name, filtered in filters.items():
            counts = filtered.report
            report.stage(f"{name}: {counts.kept:,} of {counts.seen:,} documents kept")
            if not counts.kept:
                raise ValueError(f"{name} leaves nothing of {', '.join(settings.data)}:\n{counts}")
        return str(path)


def _tokens(corpus, tokenizer, folder):
    if not folder.exists():
        return kerasllm.data.write_tokens(corpus, tokenizer, folder)
    files = kerasllm.data.TokenFiles(folder)
    files.verify()
    return files
