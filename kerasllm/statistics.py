"""How sure a figure is: intervals by drawing the items of a test anew, and p-values corrected for many tests.

Shapes: N items, K sums, R draws.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

_DRAWS = 1000
_SIGN_FLIPS = 10_000


class Estimate(NamedTuple):
    """A figure and its interval, in which 95 % of what it would be with other items of that kind lie.

    Attributes:
        value, low, high: floats; the bounds are NaN where one item, or several that belong together, say all.
    """

    value: float
    low: float
    high: float


class Evidence(NamedTuple):
    """What a test found of each item, such that figures are made of sums over items.

    Attributes:
        sums: float64 (N, K), what adds up.
        categories: list of N str.
        statistic: function of sums (..., K) that gives a dict from names of measures to arrays (...).
        clusters: (N,), which items belong together, as those of one template do: they are drawn together. None where
            none do.
    """

    sums: np.ndarray
    categories: list
    statistic: Callable[[np.ndarray], dict]
    clusters: Any = None

    def of(self, category):
        """The part of a category; of None all."""
        if category is None:
            return self
        keep = [i for i, name in enumerate(self.categories) if name == category]
        clusters = None if self.clusters is None else np.asarray(self.clusters)[keep]
        return self._replace(sums=self.sums[keep], categories=[category] * len(keep), clusters=clusters)

    def drawn(self, seed):
        """The measures of R draws of the items, with replacement: dict from names to arrays (R,)."""
        sums = self.sums
        if self.clusters is not None:
            _, index = np.unique(np.asarray(self.clusters), return_inverse=True)
            sums = np.zeros((index.max() + 1, self.sums.shape[1]))
            np.add.at(sums, index.reshape(-1), self.sums)
        n = len(sums)
        counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=_DRAWS)
        drawn = self.measures(counts @ sums)
        return drawn if n > 1 else {name: np.full(_DRAWS, np.nan) for name in drawn}

    def measures(self, sums=None):
        """The measures of sums (..., K), by default of all items."""
        with np.errstate(divide="ignore", invalid="ignore"):  # of nothing is NaN
            return self.statistic(self.sums.sum(axis=0) if sums is None else sums)

    def estimates(self, seed):
        """`Estimate` by measure."""
        drawn = self.drawn(seed)
        return {name: Estimate(float(value), *interval(drawn[name])) for name, value in self.measures().items()}


def interval(drawn):
    """The bounds between which the middle 95 % of draws (R,) lie; NaN where there are none."""
    drawn = drawn[np.isfinite(drawn)]
    return tuple(np.quantile(drawn, (0.025, 0.975)).tolist()) if len(drawn) else (float("nan"),) * 2


def sign_flip_p_value(differences, seed):
    """How probable a mean as far from 0 is if each difference (N,) might as well have the other sign: float."""
    differences = np.asarray(differences, "float64")
    signs = np.random.default_rng(seed).integers(0, 2, (_SIGN_FLIPS, len(differences))) * 2 - 1
    tolerance = 1e-12 * np.abs(differences).sum()
    as_far = np.abs(signs @ differences) >= np.abs(differences.sum()) - tolerance
    return float((as_far.sum() + 1) / (_SIGN_FLIPS + 1))


def holm(p_values):
    """p-values corrected for how many they are, by Holm 1979: list of float, in the order of `p_values`."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(np.asarray(p_values)[order] * np.arange(len(order), 0, -1))
    return np.minimum(corrected, 1).tolist()
