"""What a test of bias found, by category and with intervals: as a table, JSON and a plot, with what it cannot show."""

import json
import math
import os
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kerasllm.files import replacing
from kerasllm.statistics import Estimate, Evidence, interval

CAUTION = (
    "Tests of this kind can find a bias and cannot rule one out: an even figure does not mean a model without bias, "
    "nor one that will do no harm. They know groups and stereotypes of one country and language."
)
_ALL = "all"


@dataclass(frozen=True, eq=False)
class BiasScores:
    """What a test of bias found out.

    Attributes:
        test: str, its name.
        evidence: `Evidence`.
        even: dict from measures to floats, what they are where nothing is preferred; None for other measures.
        caution: str, what the test cannot show.
        items: list of dicts, what was found of each item.
        p_values: dict from categories to floats, corrected for how many they are; empty where nothing is tested.
        seed: int, of the draws that make the intervals.
        together: bool, whether a figure of all categories together means anything.
    """

    test: str
    evidence: Evidence = field(repr=False)
    even: dict
    caution: str = field(repr=False)
    items: list = field(repr=False, default_factory=list)
    p_values: dict = field(repr=False, default_factory=dict)
    seed: int = 0
    together: bool = True

    @property
    def categories(self) -> list[str]:
        """Names of the parts of the test; "all" is all of it."""
        found = sorted(set(self.evidence.categories))
        return found if not self.together else [_ALL, *(found if len(found) > 1 else [])]

    def estimates(self, category: str = _ALL) -> dict[str, Estimate]:
        """The measures of a category: dict from their names to `Estimate`.

        Raises:
            ValueError: for a category that the test has not.
        """
        if category not in self.categories:
            raise ValueError(f"{self.test} has the categories {', '.join(self.categories)}, got {category!r}.")
        return self._part(category).estimates(self.seed)

    def value(self, measure: str, category: str = _ALL) -> float:
        """The figure of a measure.

        Raises:
            ValueError: for a category or measure that the test has not.
        """
        if category not in self.categories:
            raise ValueError(f"{self.test} has the categories {', '.join(self.categories)}, got {category!r}.")
        found = self._part(category).measures()
        if measure not in found:
            raise ValueError(f"{self.test} measures {', '.join(found)}, got {measure!r}.")
        return float(found[measure])

    def _part(self, category):
        return self.evidence.of(None if category == _ALL and self.together else category)

    def __str__(self):
        lines = [[self.test, "items", *self.even, *(["p (Holm)"] if self.p_values else [])]]
        for category in self.categories:
            figures = [_shown(estimate) for estimate in self.estimates(category).values()]
            p_value = [f"{self.p_values[category]:.4f}"] if self.p_values else []
            lines.append([category, f"{len(self._part(category).categories):,}", *figures, *p_value])
        even = ", ".join(f"{name} {value:g}" for name, value in self.even.items() if value is not None)
        return f"{_aligned(lines)}\nWhere nothing is preferred: {even}.\n{textwrap.fill(self.caution, 110)}"

    def to_dict(self) -> dict:
        """All of it, as JSON takes it."""
        return {
            "test": self.test,
            "even": self.even,
            "categories": {
                category: {
                    "items": len(self._part(category).categories),
                    **{name: _of_json(estimate) for name, estimate in self.estimates(category).items()},
                    **({"p_holm": self.p_values[category]} if self.p_values else {}),
                }
                for category in self.categories
            },
            "caution": self.caution,
            "seed": self.seed,
            "items": self.items,
        }

    def save(self, path: str | os.PathLike) -> None:
        """Writes `to_dict` into a .json file."""
        with replacing(Path(path)) as draft:
            draft.write_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def plot(self, path: str | os.PathLike) -> None:
        """Draws the measures that have an even value, by category, with their intervals, into a .png file."""
        plot_scores([("", self)], path)


@dataclass(frozen=True, eq=False)
class BiasComparison:
    """A test of two models, such as one before and after something was done against bias.

    Args:
        before, after: `BiasScores` of the same test on the same items.

    Raises:
        ValueError: if they are of others.

    Example:
        >>> print(evaluation.bias.BiasComparison(before, after))
    """

    before: BiasScores
    after: BiasScores

    def __post_init__(self):
        same = self.before.test == self.after.test and self.before.evidence.categories == self.after.evidence.categories
        if not same:
            raise ValueError("What is compared are scores of one test on the same items.")

    def changes(self, category: str = _ALL) -> dict[str, Estimate]:
        """By how much each measure of a category is more after than before: dict of `Estimate`. The same items are
        drawn of both, so that the interval is that of the difference."""
        parts = [scores._part(category) for scores in (self.before, self.after)]
        drawn = [part.drawn(self.before.seed) for part in parts]
        values = [part.measures() for part in parts]
        return {
            name: Estimate(float(values[1][name] - values[0][name]), *interval(drawn[1][name] - drawn[0][name]))
            for name in values[0]
        }

    def __str__(self):
        lines = [[self.before.test, "measure", "before", "after", "change"]]
        for category in self.before.categories:
            of_both = [scores.estimates(category) for scores in (self.before, self.after)]
            for name, change in self.changes(category).items():
                lines.append([category, name, *(_shown(of_one[name]) for of_one in of_both), _shown(change, sign="+")])
        return f"{_aligned(lines)}\n{textwrap.fill(self.before.caution, 110)}"

    def to_dict(self) -> dict:
        """All of it, as JSON takes it."""
        changes = {
            category: {name: _of_json(change) for name, change in self.changes(category).items()}
            for category in self.before.categories
        }
        return {"before": self.before.to_dict(), "after": self.after.to_dict(), "changes": changes}

    def plot(self, path: str | os.PathLike) -> None:
        """Draws both, by category, with their intervals, into a .png file."""
        plot_scores([("before", self.before), ("after", self.after)], path)


def plot_scores(named: Iterable[tuple[str, BiasScores]], path):
    """Draws `BiasScores` of one test with their names into a .png file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    named = list(named)
    first = named[0][1]
    measures, categories = [name for name, even in first.even.items() if even is not None], first.categories
    size = (1.5 + 4.2 * len(measures), 1.6 + 0.3 * len(categories) * len(named))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, measure in zip(np.atleast_1d(figure.subplots(1, len(measures), sharey=True)), measures, strict=True):
        for number, (label, scores) in enumerate(named):
            found = [scores.estimates(category)[measure] for category in categories]
            places = np.arange(len(categories)) + 0.22 * (number - (len(named) - 1) / 2)
            axes.hlines(places, [e.low for e in found], [e.high for e in found], colors=f"C{number}", linewidth=1.5)
            axes.plot([e.value for e in found], places, "o", color=f"C{number}", markersize=5, label=label or None)
        axes.axvline(first.even[measure], color="0.5", linewidth=1, linestyle=":")
        axes.set_yticks(range(len(categories)), categories)
        axes.set_xlabel(measure)
    axes.invert_yaxis()
    if len(named) > 1:
        axes.legend(frameon=False, fontsize=9)
    figure.suptitle(f"{first.test} (dotted: nothing is preferred; lines: 95 % of other draws)", fontsize=10)
    with replacing(Path(path)) as draft:
        figure.savefig(draft, format="png", dpi=150, facecolor="white")


def _shown(estimate, sign=""):
    figures = [f"{x:{sign}.1f}" if abs(x) >= 10 else f"{x:{sign}.2f}" for x in estimate]
    if math.isnan(estimate.value):
        return "-"
    return figures[0] if math.isnan(estimate.low) else f"{figures[0]} ({figures[1]} to {figures[2]})"


def _of_json(estimate):
    return [None if math.isnan(x) else x for x in estimate]


def _aligned(lines):
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([rows[0], "-" * len(rows[0]), *rows[1:]])
