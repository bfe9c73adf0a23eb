"""The loss as a function of weights and tokens, E + A / N^alpha + B / D^beta, fitted to runs.

The law is that of Hoffmann et al. 2022 (https://arxiv.org/abs/2203.15556), approach 3. For given exponents E, A and B
are a linear least squares over what is not negative, so that the exponents alone are searched for, as in variable
projection (https://arxiv.org/abs/2603.22339).

Letters: N weights, D tokens; R draws of the runs, G pairs of exponents, n runs.
"""

import dataclasses
import itertools

import numpy as np

from kerasllm.statistics import interval

NUMBERS = 5  # that the law has
FEWEST_RUNS = NUMBERS + 1
_FEWEST_VALUES = 3  # of two values any exponent makes a curve through both
_EXPONENTS = (0.03, 2.0)
_COARSE, _STEPS = 15, 12
_BESIDE, _LONGEST = 1e-5, 1.0  # in logarithms of exponents: between two of a difference, and of a step
_DAMPING = np.array([1e-14, 1e-6, 1e-2])
_AT_ONCE = 16  # draws, to save memory
# Which of E, A and B are above 0: all that a least squares over what is not negative can come to.
_ACTIVE = np.array([one for one in itertools.product((0.0, 1.0), repeat=3) if any(one)])


@dataclasses.dataclass(frozen=True)
class ScalingLaw:
    """The loss of a model of N weights after D tokens: E + A / N^alpha + B / D^beta.

    Args:
        E: float, nats per token that no model gets below.
        A, B: floats.
        alpha, beta: floats, the exponents.

    Example:
        >>> law = kerasllm.planning.ScalingLaw(1.817, 482.0, 2085.4, 0.348, 0.366)   # of Chinchilla's runs
        >>> round(law.loss(70e9, 1.4e12), 2)
        1.97
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, parameters, tokens):
        """Nats per token, of ints or arrays of them."""
        return self.E + self.A / np.power(parameters, self.alpha) + self.B / np.power(tokens, self.beta)

    def optimum(self, flops, flops_per_token=6.0):
        """The weights and tokens of the lowest loss at so much compute.

        Args:
            flops: float, to train with.
            flops_per_token: float, for each weight.

        Returns:
            A pair of floats, N and D, with N * D * flops_per_token = flops.

        Raises:
            ValueError: where the loss does not depend on both.
        """
        if not (self.A > 0 and self.B > 0):
            raise ValueError(f"By this law more of one of weights and tokens is of no use: A={self.A:g}, B={self.B:g}.")
        pairs = flops / flops_per_token
        ratio = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        parameters = ratio * pairs ** (self.beta / (self.alpha + self.beta))
        return parameters, pairs / parameters


@dataclasses.dataclass(frozen=True)
class ScalingFit:
    """A law fitted to runs, and those of draws of the runs.

    Attributes:
        law: `ScalingLaw`.
        draws: list of `ScalingLaw`, each of as many runs drawn with replacement.
        residuals: float64 (n,), by how much of itself each loss is off the law.
    """

    law: ScalingLaw
    draws: list
    residuals: np.ndarray

    @property
    def noise(self):
        """float, the standard deviation of a run from the law, as a share of its loss."""
        return float(np.sqrt((self.residuals**2).sum() / self._free))

    @property
    def _free(self):
        return max(len(self.residuals) - NUMBERS, 1)

    def interval(self, parameters, tokens, of_a_run=True):
        """The bounds between which the loss of another run lies with 95 %, as far as the law holds there.

        Args:
            parameters, tokens: ints.
            of_a_run: bool. False: the bounds of the law, without the noise of a run.

        Returns:
            A pair of floats.
        """
        found = np.array([law.loss(parameters, tokens) for law in self.draws])
        middle = self.law.loss(parameters, tokens)
        # Draws of few runs spread too little: as of a variance, whose sum of squares is divided by n - 5 and not by n.
        found = middle + (found - middle) * np.sqrt(len(self.residuals) / self._free)
        if of_a_run:
            found = found * (1 + self.noise * np.random.default_rng(0).standard_t(self._free, len(found)))
        return interval(found)

    def intervals(self):
        """The bounds of each number of the law: dict of pairs of floats."""
        names = [field.name for field in dataclasses.fields(ScalingLaw)]
        return {name: interval(np.array([getattr(law, name) for law in self.draws])) for name in names}


def fit_scaling_law(parameters, tokens, losses, *, draws=200, seed=0):
    """Fits E + A / N^alpha + B / D^beta to runs, by the squares of relative errors, with intervals over the runs.

    Args:
        parameters: ints (n,), weights of each run's model, all of them: embeddings too.
        tokens: ints (n,), that each was trained on.
        losses: floats (n,), on what was held out, nats per token.
        draws: int, of the runs with replacement, for intervals.
        seed: int.

    Returns:
        A `ScalingFit`.

    Raises:
        ValueError: for fewer than 6 runs, or of fewer than three sizes or lengths; for what is no positive number.

    Example:
        >>> law = kerasllm.planning.ScalingLaw(1.8, 480.0, 2100.0, 0.35, 0.37)
        >>> N, D = [1e6, 1e6, 2e6, 2e6, 4e6, 4e6], [1e7, 3e7, 1e7, 3e7, 2e7, 6e7]
        >>> losses = [law.loss(*one) for one in zip(N, D)]
        >>> fit = kerasllm.planning.fit_scaling_law(N, D, losses, draws=20)
        >>> round(fit.law.alpha, 2)
        0.35
    """
    N, D, y = (np.asarray(values, "float64") for values in (parameters, tokens, losses))
    if not (N.ndim == 1 and N.shape == D.shape == y.shape):
        raise ValueError(f"Each run needs weights, tokens and a loss: got shapes {N.shape}, {D.shape} and {y.shape}.")
    if not all(np.isfinite(values).all() and (values > 0).all() for values in (N, D, y)):
        raise ValueError("Weights, tokens and losses are numbers above 0.")
    counts = np.ones((1, len(y)))
    if len(y) < FEWEST_RUNS or not _says_enough(counts, N, D).all():
        raise ValueError(
            f"A law has five numbers: it takes at least {FEWEST_RUNS} runs, of three sizes and three lengths; got "
            f"{len(y)} runs, of {len(np.unique(N))} sizes and {len(np.unique(D))} lengths."
        )
    (law,) = _fitted(counts, N, D, y)
    drawn = np.random.default_rng(seed).multinomial(len(y), np.full(len(y), 1 / len(y)), size=4 * draws)
    drawn = drawn[_says_enough(drawn, N, D)][:draws].astype("float64")
    laws = [
        one for begin in range(0, len(drawn), _AT_ONCE) for one in _fitted(drawn[begin : begin + _AT_ONCE], N, D, y)
    ]
    return ScalingFit(law, laws, y / law.loss(N, D) - 1)


def _says_enough(counts, N, D):
    """Which draws (R, n) have five different runs, of three values of N and of D: bool (R,)."""
    there = counts > 0
    enough = there.sum(axis=1) >= NUMBERS
    for values in (N, D):
        same = np.unique(values) == values[:, None]  # (n, values)
        enough &= (there @ same).sum(axis=1) >= _FEWEST_VALUES
    return enough


def _fitted(counts, N, D, y):
    """The laws of runs that count so often (R, n): of a coarse grid of exponents the best, and from there downhill."""
    scale = np.exp(np.log(N).mean()), np.exp(np.log(D).mean())
    logs = np.log(N / scale[0]), np.log(D / scale[1])
    bounds = np.log(_EXPONENTS)
    coarse = np.linspace(*bounds, _COARSE)
    grid = np.stack(np.meshgrid(coarse, coarse, indexing="ij"), axis=-1).reshape(-1, 2)
    found = np.broadcast_to(grid, (len(counts), *grid.shape))
    for _ in range(_STEPS):
        best, numbers = _best_of(found, *_projected(counts, logs, y, found), counts)
        found = np.concatenate([best[:, None], best[:, None] + _downhill(counts, logs, y, best)], axis=1)
        found = np.clip(found, *bounds)
    best, numbers = _best_of(found, *_projected(counts, logs, y, found), counts)
    laws = []
    for (alpha, beta), (E, A, B) in zip(np.exp(best).tolist(), numbers.tolist(), strict=True):
        laws.append(ScalingLaw(E, A * float(scale[0]) ** alpha, B * float(scale[1]) ** beta, alpha, beta))
    return laws


def _downhill(counts, logs, y, exponents):
    """Steps of Gauss and Newton from logarithms of exponents (R, 2), damped by little and by much: (R, 3, 2)."""
    beside = np.concatenate([np.zeros((1, 2)), _BESIDE * np.eye(2)])
    _, errors = _projected(counts, logs, y, exponents[:, None] + beside)
    errors *= np.sqrt(counts)[:, None]
    slopes = (errors[:, 1:] - errors[:, :1]) / _BESIDE  # (R, 2, n)
    curved, down = slopes @ np.swapaxes(slopes, -1, -2), -(slopes @ errors[:, 0, :, None])
    damped = (np.trace(curved, axis1=-2, axis2=-1)[:, None] + 1e-30) * _DAMPING
    steps = np.linalg.solve(curved[:, None] + damped[..., None, None] * np.eye(2), down[:, None])[..., 0]
    return np.clip(steps, -_LONGEST, _LONGEST)


def _best_of(exponents, numbers, errors, counts):
    """Of pairs for each draw the one that is off by least: exponents (R, 2), and E, A and B (R, 3)."""
    best, draws = (errors**2 * counts[:, None]).sum(axis=-1).argmin(axis=1), np.arange(len(counts))
    return exponents[draws, best], numbers[draws, best]


def _projected(counts, logs, y, exponents):
    """For pairs of logarithms of exponents (R, G, 2) the best E, A and B (R, G, 3), and relative errors (R, G, n)."""
    alpha, beta = np.exp(np.moveaxis(exponents, -1, 0))[..., None]
    x, z = np.exp(-alpha * logs[0]), np.exp(-beta * logs[1])
    columns = np.stack([np.ones_like(x), x, z], axis=-1) / y[:, None]  # what these are added up to is to be 1
    weighted = columns * counts[:, None, :, None]
    squares, sums = np.swapaxes(weighted, -1, -2) @ columns, weighted.sum(axis=-2)
    masked = squares[:, :, None] * (_ACTIVE[:, :, None] * _ACTIVE[:, None]) + np.eye(3) * (1 - _ACTIVE)[:, None]
    solved = np.linalg.solve(masked, (sums[:, :, None] * _ACTIVE)[..., None])[..., 0]  # (R, G, 7, 3)
    explained = np.where((solved < 0).any(axis=-1), -np.inf, (solved * sums[:, :, None]).sum(axis=-1))
    numbers = np.take_along_axis(solved, explained.argmax(axis=-1)[..., None, None], axis=2)[:, :, 0]
    return numbers, (columns @ numbers[..., None])[..., 0] - 1
