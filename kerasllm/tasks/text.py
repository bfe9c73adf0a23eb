"""What tasks share whose models learn from running text, which is cut into windows."""

import functools
import json
import shutil
import tempfile
import weakref
from pathlib import Path

import kerasllm
from kerasllm.tasks.corpus import Corpus, Measured
from kerasllm.tasks.prepared import prepared
from kerasllm.tasks.task import NOT_OF_TEXT, OF_ENCODERS, OF_RUNNING_TEXT, Task

DEFAULT_BATCH_SIZE = 32
KINDS = "bpe", "wordpiece", "unigram", "char", "byte"  # of tokenizers that are trained on the text
PARTS = "train", "valid"
CANARIES = "canaries.json"  # among the tokens


class TextTask(Task):
    """A task whose data are documents. A subclass says also which function of `kerasllm.data` makes its batches."""

    unused_settings = ("batch_tokens", "test", *(name for name in NOT_OF_TEXT if name not in OF_RUNNING_TEXT))
    unused_fields = OF_ENCODERS
    is_private = True

    @staticmethod
    def make_dataset(*args, **options):
        """As `kerasllm.data.causal_lm_dataset`."""
        raise NotImplementedError

    @staticmethod
    def score_corpus(model, tokenizer, corpus, **options):
        """Scores a model on documents, an iterable of str that is read once; returns a dict."""
        raise NotImplementedError

    def __init__(self, settings):
        super().__init__(settings)
        self._measures = {}

    def tokenizer(self):
        """That of the tokens, where the data is tokens and no folder is named."""
        if self._prepared is None or self.settings.tokenizer not in KINDS:
            return None
        if self.settings.tokenizer != KINDS[0]:
            raise ValueError(f"tokenizer={self.settings.tokenizer} does nothing for tokens, which are made already.")
        return self._prepared.tokenizer()

    def measure(self):
        if self._prepared:
            return self._prepared.measures()
        if not self._measures:
            self._read(lambda part, documents: None)
        return self._measures

    def texts(self):
        sources, columns = self._source
        return Corpus(sources, "all" if self.settings.valid else "train", *columns)

    def datasets(self, config, tokenizer, folder):
        """Where a run goes on, the tokens are in the folder, and read to be sure that they are those once written."""
        files = self._files(tokenizer, folder)

        def dataset(part, seq_len=config.max_length, rows=self.rows_per_step, **options):
            options = {"seed": self.settings.seed, "packed": self.settings.packed, **options}
            return self.make_dataset(files[part], tokenizer, seq_len, rows, **options)

        training = functools.partial(dataset, "train")
        if warmup := self.settings.context_stages():
            training = functools.partial(
                kerasllm.data.curriculum_dataset, training, config.max_length, self.rows_per_step, warmup
            )
        return training, dataset("valid", shuffle=False)

    def _files(self, tokenizer, folder):
        """The streams of tokens of both parts."""
        if self._prepared:
            return dict(zip(PARTS, (self._prepared.training, self._prepared.held_out), strict=True))
        if folder.exists():
            files = {part: kerasllm.data.TokenFiles(folder / part) for part in PARTS}
            for part in PARTS:
                files[part].verify()
            return files
        canaries, seed = self._canaries(tokenizer), self.settings.seed

        def write(part, documents):
            if canaries and part == "train":
                documents = kerasllm.safety.plant(documents, canaries, seed)
            return kerasllm.data.write_tokens(documents, tokenizer, folder / part)

        files = self._read(write)
        if canaries:
            kerasllm.safety.save_canaries(canaries, folder / CANARIES)
        return files

    def tokens_per_step(self, config, training):
        return self.rows_per_step * config.max_length, config.flops_per_token(config.max_length)

    def score(self, model, tokenizer):
        held_out = self._prepared.texts(tokenizer) if self._prepared else self._held_out
        return self.score_corpus(model, tokenizer, held_out)

    @classmethod
    def evaluate(cls, model, tokenizer, sources, columns, **options):
        return cls.score_corpus(model, tokenizer, Corpus(tuple(sources), "all", *columns), **options)

    def _canaries(self, tokenizer):
        """The `safety.Canary` that the settings ask for."""
        canaries = kerasllm.safety.make_canaries([int(times) for times in self.settings.canaries], self.settings.seed)
        for canary in canaries:
            if tokenizer.decode(tokenizer.encode(canary.text)) != canary.text:
                raise ValueError(
                    f"The tokenizer cannot write canaries such as {canary.text!r}: take another kind of it."
                )
        return canaries

    @property
    def rows_per_step(self):
        """int, rows of a batch."""
        return self.settings.batch_size or DEFAULT_BATCH_SIZE

    @functools.cached_property
    def _prepared(self):
        """The `Prepared` where the data is tokens, or None."""
        return prepared(self.settings)

    @functools.cached_property
    def _source(self):
        """What to read: sources and columns, of the data or of what is left of them."""
        settings = self.settings
        if settings.clean or settings.deduplicate:
            return (self._filtered_copy(),), ("text",)
        return settings.data, settings.field

    def _read(self, use):
        """Reads the text once, keeping what is held out and the measures of both parts.

        Args:
            use: function (part, documents), for what comes of each part.

        Returns:
            A dict of the parts with what `use` returned.
        """
        from kerasllm.data.splitting import Spool, split_once

        sources, columns = self._source
        documents = Corpus(sources, "all", *columns)
        if self.settings.valid:
            training, self._held_out = documents, Spool(Corpus(self.settings.valid, "all", *self.settings.field))
        else:
            training, self._held_out = split_once(documents)
        used = {}
        for part, documents in zip(PARTS, (training, self._held_out), strict=True):
            measured = Measured(documents)
            used[part] = use(part, measured)
            self._measures[part] = measured.measures()
        return used

    def _filtered_copy(self):
        """The path of a file with the documents of `data` that cleaning leaves, which lives as long as the task.

        The text is read twice, and cleaning takes much longer than reading.
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
