"""How well a classifier names the labels of texts: accuracy, macro F1, Matthews' correlation, and what it mixes up.

Shapes: N texts, L labels.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kerasllm.data.labelled import targets_of
from kerasllm.files import replacing
from kerasllm.generation.classifying import label_names_of, text_logits
from kerasllm.models import SequenceClassifier
from kerasllm.tokenizers import Tokenizer

_MOST_NAMED = 100  # labels, in a plot


@dataclass(frozen=True)
class ClassificationScores:
    """What `classification_scores` found out.

    Attributes:
        loss: Mean cross-entropy in nats; in regression the mean squared error.
        accuracy: Share of the texts whose label is named, or all of whose labels are; None in regression.
        macro_f1: Mean of the labels' F1, each of which counts alike; of those that occur or are named. None in
            regression.
        matthews: Matthews' correlation coefficient, of several labels as Gorodkin 2004 defines it; 0 for chance, 1 for
            all named. Of one label of several alone; else None.
        correlation: Pearson's, in regression; else None.
        baseline_accuracy: Share of the texts that have the most frequent label; None in regression.
        texts: How many were scored.
        confusion: int (L, L), how many texts with the label of the row were given that of the column; None but for one
            label of several.
        labels: Their names.
    """

    loss: float
    texts: int
    accuracy: float | None = None
    macro_f1: float | None = None
    matthews: float | None = None
    correlation: float | None = None
    baseline_accuracy: float | None = None
    confusion: Any = field(default=None, repr=False)
    labels: tuple[str, ...] = field(default=(), repr=False)

    def plot(self, path: str | os.PathLike) -> None:
        """Draws the confusion matrix into a .png file: rows are true labels, columns what they were taken for."""
        if self.confusion is None:
            raise ValueError("Only where a text has one label of several is there a confusion matrix to plot.")
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        count = len(self.labels)
        width = min(4 + 0.22 * count, 24)
        figure = Figure(figsize=(width, width), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        shares = self.confusion / np.maximum(self.confusion.sum(axis=1, keepdims=True), 1)
        picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        if count <= _MOST_NAMED:
            size = 9 if count <= 30 else 6
            axes.set_xticks(range(count), self.labels, rotation=90, fontsize=size)
            axes.set_yticks(range(count), self.labels, fontsize=size)
        if count <= 12:
            for (row, column), number in np.ndenumerate(self.confusion):
                color = "white" if shares[row, column] > 0.6 else "#33373d"
                axes.text(column, row, f"{number:,}", ha="center", va="center", color=color, fontsize=9)
        axes.set_xlabel("what the model says")
        axes.set_ylabel("label")
        axes.set_title(f"accuracy {self.accuracy:.2%} of {self.texts:,} texts", fontsize=11)
        figure.colorbar(picture, ax=axes, shrink=0.6, label="share of the row")
        with replacing(Path(path)) as draft:
            figure.savefig(draft, format="png", dpi=150, facecolor="white")


def classification_scores(
    model: SequenceClassifier,
    tokenizer: Tokenizer,
    texts: Sequence[str | tuple[str, str]],
    labels: Sequence[Any],
    batch_size: int = 32,
) -> ClassificationScores:
    """Scores a classifier on texts whose labels are known.

    Args:
        model: a `SequenceClassifier`.
        tokenizer: the model's `Tokenizer`.
        texts: list of str, or of pairs of them.
        labels: as many, as `kerasllm.data.read_labelled` gives them: names, or numbers, or lists of them.
        batch_size: int, texts at once.

    Returns:
        `ClassificationScores`.

    Raises:
        ValueError: for other than as many labels as texts, no text, or a label that the model does not know.

    Example:
        >>> texts, labels = zip(*kerasllm.data.read_labelled("test.csv"))
        >>> scores = kerasllm.evaluation.classification_scores(model, tokenizer, texts, labels)
        >>> print(scores.accuracy, scores.macro_f1)
        >>> scores.plot("confusion.png")
    """
    texts, labels = list(texts), list(labels)
    if not texts or len(texts) != len(labels):
        raise ValueError(f"Each text needs a label: got {len(texts)} texts and {len(labels)} labels.")
    names = label_names_of(model)
    targets = targets_of(labels, names, model.problem)
    logits = text_logits(model, tokenizer, texts, batch_size).astype("float64")
    if model.problem == "regression":
        return _of_numbers(logits, targets.reshape(logits.shape).astype("float64"))
    if model.problem == "multi_label":
        return _of_several(logits, targets, names)
    return _of_one(logits, targets, names)


def _of_one(logits, targets, names):
    top = logits.max(axis=1)
    losses = top + np.log(np.exp(logits - top[:, None]).sum(axis=1)) - logits[np.arange(len(targets)), targets]
    confusion = np.zeros((len(names), len(names)), "int64")
    np.add.at(confusion, (targets, logits.argmax(axis=1)), 1)
    hits, true, named = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    N = len(targets)
    spread = np.sqrt(float(N**2 - (named**2).sum()) * float(N**2 - (true**2).sum()))
    return ClassificationScores(
        loss=float(losses.mean()),
        texts=N,
        accuracy=float(hits.sum() / N),
        macro_f1=_macro_f1(hits, true, named),
        matthews=float(N * hits.sum() - (true * named).sum()) / spread if spread else 0.0,
        baseline_accuracy=float(true.max() / N),
        confusion=confusion,
        labels=tuple(names),
    )


def _of_several(logits, targets, names):
    losses = np.logaddexp(0, logits) - logits * targets
    found, targets = logits >= 0, targets > 0
    kinds = np.unique(targets, axis=0, return_counts=True)[1]
    return ClassificationScores(
        loss=float(losses.mean()),
        texts=len(targets),
        accuracy=float((found == targets).all(axis=1).mean()),
        macro_f1=_macro_f1((found & targets).sum(axis=0), targets.sum(axis=0), found.sum(axis=0)),
        baseline_accuracy=float(kinds.max() / len(targets)),
        labels=tuple(names),
    )


def _of_numbers(found, targets):
    moments = found - found.mean(axis=0), targets - targets.mean(axis=0)
    size = np.sqrt((moments[0] ** 2).sum() * (moments[1] ** 2).sum())
    return ClassificationScores(
        loss=float(((found - targets) ** 2).mean()),
        texts=len(targets),
        correlation=float((moments[0] * moments[1]).sum() / size) if size else 0.0,
    )


def _macro_f1(hits, true, named):
    counts = true + named
    return float((2 * hits[counts > 0] / counts[counts > 0]).mean())
