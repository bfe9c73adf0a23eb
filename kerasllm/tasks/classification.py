"""`--task classify`: a model learns which label a text has."""

import dataclasses
import functools
import hashlib
from pathlib import Path

import kerasllm
from kerasllm.tasks.over_a_base import OverABaseTask
from kerasllm.tasks.task import SAMPLE

DEFAULT_BATCH_SIZE = 32
VALIDATION_SHARE = 0.1  # of the texts of each label, where no validation texts are given
PLOT = "confusion.png"
_SCORES = (
    ("loss", "loss", "{:,.4f}"),
    ("accuracy", "accuracy", "{:.2%}"),
    ("baseline_accuracy", "by naming the most frequent label", "{:.2%}"),
    ("macro_f1", "macro F1", "{:.4f}"),
    ("matthews", "Matthews correlation", "{:.4f}"),
    ("correlation", "Pearson correlation", "{:.4f}"),
)


class ClassificationTask(OverABaseTask):
    """Texts with labels, scored by accuracy, macro F1 and Matthews' correlation."""

    name = "classify"
    learns = "says which label a text has, from texts with labels"
    function = "classify"
    scored_by = "classification_scores"
    command = 'classify --model {} --text "A text."'
    unused_settings = (*OverABaseTask.unused_settings, "field")
    most_columns = 3

    @staticmethod
    def model_class():
        return kerasllm.models.SequenceClassifier

    def model(self, config, dtype):
        options = {"problem": self._problem, "labels": self._names}
        if self._problem == "regression":
            options = {"problem": "regression", "num_labels": self._num_numbers}
        return self._over_base(config, dtype, **options)

    def measure(self):
        if self._parts is None:
            self._parts = self._read()
        return {part: _measured(rows) for part, rows in self._parts.items()}

    def _read(self):
        """Reads the texts once and keeps them; returns the parts."""
        settings = self.settings
        rows = _rows_of(settings.data, self._columns)
        problem = settings.problem or _problem_of([label for _, label in rows])
        self._problem, self._names = problem, kerasllm.data.label_names(label for _, label in rows)
        if problem == "regression":
            self._num_numbers = len(rows[0][1]) if isinstance(rows[0][1], list) else 1
        elif len(self._names) < 2:
            raise ValueError(f"All texts have the label {self._names[0]!r}, so there is nothing to learn.")
        if settings.valid:
            parts = rows, _rows_of(settings.valid, self._columns)
        else:
            parts = _split(rows, settings.seed, problem == "single_label")
        for part in parts:
            self._targets(part)  # so that an unknown label is refused before the model is trained
        return dict(zip(("train", "valid"), parts, strict=True))

    @property
    def _columns(self):
        return self.settings.text_column or None, self.settings.label_column

    def texts(self):
        self.measure()
        return (text for texts, _ in self._parts["train"] for text in _singles(texts))

    def _targets(self, rows):
        from kerasllm.data.labelled import targets_of

        return targets_of([label for _, label in rows], self._names, self._problem)

    def datasets(self, config, tokenizer, folder):
        self.measure()
        settings = self.settings

        def dataset(rows, **options):
            texts, targets = [text for text, _ in rows], self._targets(rows)
            batch_size = settings.batch_size or DEFAULT_BATCH_SIZE
            options |= {"token_types": self._has_types(config)}
            return kerasllm.data.classification_dataset(
                texts, targets, tokenizer, self._max_length(config), batch_size, settings.seed, **options
            )

        weights = _even_weights(self._targets(self._parts["train"])) if settings.balanced else None
        training = functools.partial(dataset, self._parts["train"], label_weights=weights)
        return training, dataset(self._parts["valid"])

    def score(self, model, tokenizer):
        return _scores(model, tokenizer, self._parts["valid"], Path(self.settings.out) / PLOT)

    @classmethod
    def evaluate(cls, model, tokenizer, sources, columns):
        *texts, label = columns or (None, None)
        return _scores(model, tokenizer, _rows_of(sources, (texts[0] if len(texts) == 1 else texts, label)))

    @staticmethod
    def rows(figures):
        for name, label, form in _SCORES:
            if figures.get(name) is not None:
                yield label, form.format(figures[name])
        yield "measured on", f"{figures['texts']:,} texts"

    @staticmethod
    def served(model, tokenizer, text):
        from kerasllm.export import mask_filler, whole_texts

        return whole_texts.ServedClassifier(model, tokenizer) if text else mask_filler.ServedIds(model)

    @classmethod
    def compared(cls, model, tokenizer, signatures):
        from kerasllm.generation.classifying import text_logits

        if "serving_default" not in signatures:
            return None
        return cls.close_to_served(signatures, "logits", text_logits(model, tokenizer, [SAMPLE])[0])


def _problem_of(labels):
    from kerasllm.data.labelled import are_quantities

    if isinstance(labels[0], list):
        return "multi_label"
    return "regression" if are_quantities(labels) else "single_label"


def _rows_of(sources, columns):
    rows = list(kerasllm.data.read_labelled(list(sources), *columns))
    if not rows:
        raise ValueError(f"{', '.join(sources)} holds no texts.")
    return rows


def _split(rows, seed, by_label):
    """Training and validation rows: a share of each label, for files are often sorted by them."""
    import numpy as np

    order = np.random.default_rng([seed, 0]).permutation(len(rows))
    if by_label:
        order = np.array(sorted(order, key=lambda i: str(rows[i][1])))
    every = round(1 / VALIDATION_SHARE)
    held_out = {*order[every // 2 :: every].tolist()}
    if not held_out:
        raise ValueError(f"{len(rows)} texts are too few to keep some for validation: give --valid.")
    return [row for i, row in enumerate(rows) if i not in held_out], [rows[i] for i in sorted(held_out)]


def _even_weights(targets):
    """Weights of labels, with which all count alike and the mean of all texts is 1."""
    import numpy as np

    if targets.dtype.kind == "f":
        raise ValueError("balanced is for texts with one label of several: leave it out.")
    counts = np.bincount(targets)
    return len(targets) / (np.count_nonzero(counts) * np.maximum(counts, 1))


def _singles(texts):
    """One text, or both of a pair."""
    return (texts,) if isinstance(texts, str) else texts


def _measured(rows):
    digest, size = hashlib.sha256(), 0
    for texts, label in rows:
        for part in (*_singles(texts), str(label)):
            encoded = part.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
            size += len(encoded)
    return {"texts": len(rows), "bytes": size, "sha256": digest.hexdigest()}


def _scores(model, tokenizer, rows, plot=None):
    texts, labels = zip(*rows, strict=True)
    scores = kerasllm.evaluation.classification_scores(model, tokenizer, texts, labels)
    if plot is not None and scores.confusion is not None:
        scores.plot(plot)
    figures = dataclasses.asdict(scores)
    confusion = figures.pop("confusion")
    return {**figures, "labels": list(scores.labels), "confusion": None if confusion is None else confusion.tolist()}
