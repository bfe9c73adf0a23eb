"""What a model did in a task: figures with standard errors, by group too, and two models compared item by item."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from kerasllm.statistics import sign_flip_p_value

MEASURES = ("acc", "loose", "loss", "gain", "margin")


class Measured(NamedTuple):
    """A figure and how sure it is.

    Attributes:
        value: float, a mean over items.
        error: float, its standard error; NaN of a single item.
    """

    value: float
    error: float

    @classmethod
    def of(cls, values):
        """The mean of values, one for each item."""
        values = np.asarray(values, "float64")
        error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return cls(float(values.mean()), float(error))

    def __str__(self):
        return f"{self.value:.3f}" if math.isnan(self.error) else f"{self.value:.3f} ± {self.error:.3f}"


@dataclass(frozen=True, eq=False)
class TaskScores:
    """What a model did in a task.

    Attributes:
        task: str, its name.
        groups: tuple of str, names of what the figures are split by.
        chance: float, the accuracy of guessing.
        items: list of dicts, one for each item: its figures by measure, and "group".
    """

    task: str
    groups: tuple
    chance: float
    items: list = field(repr=False)

    @property
    def measures(self) -> list[str]:
        """Names of the figures: "acc" and what else the task has."""
        return [name for name in MEASURES if name in self.items[0]]

    def estimates(self) -> dict[str, Measured]:
        """The figures over all items: dict from their names to (value, error)."""
        return {name: Measured.of([item[name] for item in self.items]) for name in self.measures}

    def by_group(self, measure: str = "acc") -> dict[tuple, Measured]:
        """A figure of each group: dict from tuples, as `groups` names their parts, to (value, error)."""
        found: dict = {}
        for item in self.items:
            found.setdefault(tuple(item["group"]), []).append(item[measure])
        return {group: Measured.of(values) for group, values in found.items()}

    def rows(self) -> Iterator[tuple[str, str]]:
        """Rows of a table: (what, figure)."""
        for name, figure in self.estimates().items():
            chance = f" (chance {self.chance:g})" if name == "acc" and self.chance else ""
            yield f"{self.task}: {name} of {len(self.items)}{chance}", str(figure)

    def __str__(self):
        lines = [f"{what}  {figure}" for what, figure in self.rows()]
        if self.groups:
            lines += [f"  {', '.join(group)}  {figure}" for group, figure in self.by_group().items()]
        return "\n".join(lines)

    def to_dict(self) -> dict:
        """All of it, as JSON takes it."""
        groups = [
            {**dict(zip(self.groups, group, strict=True)), "acc": _of_json(figure)}
            for group, figure in (self.by_group().items() if self.groups else ())
        ]
        figures = {name: _of_json(figure) for name, figure in self.estimates().items()}
        return {**figures, "chance": self.chance, "by_group": groups, "items": self.items}


class Difference(NamedTuple):
    """How two models differ in a figure over the same items.

    Attributes:
        before, after: floats.
        value: float, after minus before.
        error: float, the standard error of `value`, from the differences of the items.
        p_value: float, how probable so large a difference is if both models do alike: McNemar's exact test of what is
            right or wrong, for other figures by exchanging the models in items at random.
    """

    before: float
    after: float
    value: float
    error: float
    p_value: float


def compare_scores(before: TaskScores, after: TaskScores, seed: int = 0) -> dict[str, Difference]:
    """How two models differ in a task, item by item.

    Args:
        before, after: `TaskScores` of the same items: of the same task, texts, limit, context and seed.
        seed: int, of the exchanges at random.

    Returns:
        dict from measures to `Difference`.

    Raises:
        ValueError: for scores of other items.

    Example:
        >>> compare_scores(before["cloze"], after["cloze"])["acc"].p_value
    """
    keys = [[(item["group"], item.get("right"), item.get("prompt")) for item in s.items] for s in (before, after)]
    if before.task != after.task or keys[0] != keys[1]:
        raise ValueError(
            f"The scores of {before.task} and {after.task} are not of the same items: have both models do the same "
            "task, with the same texts, limit, context and seed."
        )
    found = {}
    for name in before.measures:
        values = [np.array([item[name] for item in scores.items], "float64") for scores in (before, after)]
        difference = Measured.of(values[1] - values[0])
        test = mcnemar_p_value if name in ("acc", "loose") else lambda *both: sign_flip_p_value(both[1] - both[0], seed)
        of_both = float(values[0].mean()), float(values[1].mean())
        found[name] = Difference(*of_both, difference.value, difference.error, test(*values))
    return found


def mcnemar_p_value(before, after):
    """McNemar's exact test: how probable so uneven a split is of the items that one model alone has right, float.

    Args:
        before, after: arrays (N,) of 0 and 1.
    """
    gained, lost = int(np.sum(after > before)), int(np.sum(after < before))
    n = gained + lost
    tail = sum(math.comb(n, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**n)


def _of_json(figure):
    return {"value": figure.value, "error": None if math.isnan(figure.error) else figure.error}
