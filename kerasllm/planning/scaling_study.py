"""What small runs say of larger ones: the law of their losses, the learning rate by width, the time of a step."""

import dataclasses
import functools
import math
from typing import Any

import numpy as np

from kerasllm.planning.scaling_law import fit_scaling_law

# More passes over a text than these say ever less (https://arxiv.org/abs/2305.16264): the law is of text that is new.
MOST_PASSES = 4
# Rates fall with the width at most as those of hidden layers do under muP (https://arxiv.org/abs/2203.03466).
_POWERS = (-1.0, 0.0)


@dataclasses.dataclass(frozen=True)
class ScalingRun:
    """A small run, as far as it says something of others.

    Attributes:
        d_model: int, the width of its model.
        parameters, tokens: ints, its weights and what it was trained on.
        flops: float, all that its training computed.
        loss: float, on what was held out, nats per token; None where it was stopped.
        seconds: float, of its training.
        learning_rate: float, at its peak.
        level: int, runs of the same compute have the same one.
        purpose: str, "size", "rate" of those that look for a learning rate, "stopped", or "larger" of what is compared.
    """

    d_model: int
    parameters: int
    tokens: int
    flops: float
    loss: float | None
    seconds: float
    learning_rate: float
    level: int = 0
    purpose: str = "size"


@dataclasses.dataclass(frozen=True)
class LearningRateRule:
    """The peak of the learning rate by width: `rate` at `width`, and elsewhere times a power of the ratio of widths.

    Example:
        >>> kerasllm.planning.LearningRateRule(width=64, rate=4e-3, power=-0.5).at(256)
        0.002
    """

    width: float
    rate: float
    power: float

    def at(self, width):
        """float, the learning rate of a model of this width."""
        return self.rate * (width / self.width) ** self.power

    @classmethod
    def fitted(cls, runs):
        """The rule that runs of two widths or more, each with several rates, tell: of each width the lowest point of a
        parabola over the logarithm of the rate, and through these a power between -1 and 0.

        Args:
            runs: list of `ScalingRun`.
        """
        best = {}
        for width in sorted({run.d_model for run in runs}):
            found = [(run.learning_rate, run.loss) for run in runs if run.d_model == width]
            best[width] = _lowest(*map(np.array, zip(*found, strict=True)))
        x, y = np.log(list(best)), np.log(list(best.values()))
        power = float(np.clip(np.polyfit(x, y, 1)[0], *_POWERS)) if len(best) > 1 else -0.5
        return cls(math.exp(x.mean()), math.exp(y.mean()), power)


def _lowest(rates, losses):
    x = np.log(rates)
    at = x[losses.argmin()]
    if len(x) >= 3:
        near = np.argsort(np.abs(x - at))[:3]
        curved, slope, _ = np.polyfit(x[near], losses[near], 2)
        at = np.clip(-slope / (2 * curved), x.min(), x.max()) if curved > 0 else at
    return float(np.exp(at))


@dataclasses.dataclass(frozen=True)
class ScalingChoice:
    """The model for a budget, and what is foreseen of it.

    Attributes:
        shape: `ModelShape`.
        steps: int.
        learning_rate: float.
        loss, low, high: floats, the loss on what is held out and the bounds between which a run's lies with 95 %.
        seconds: float, on the machine of the small runs.
        passes: float, over the text.
    """

    shape: Any
    steps: int
    learning_rate: float
    loss: float
    low: float
    high: float
    seconds: float
    passes: float

    @property
    def tokens(self):
        return self.steps * self.shape.tokens_per_step

    @property
    def flops(self):
        return self.steps * self.shape.flops_per_step


@dataclasses.dataclass(frozen=True)
class ScalingStudy:
    """Small runs, and what they say of larger ones.

    Args:
        runs: list of `ScalingRun`.
        shapes: list of `ModelShape`, the sizes to choose from: `scaling_shapes` makes them.
        text_tokens: int, tokens of the text that is trained on.
        rule: `LearningRateRule`.
    """

    runs: list
    shapes: list
    text_tokens: int
    rule: LearningRateRule

    @functools.cached_property
    def fit(self):
        """The `ScalingFit` of the runs of all sizes."""
        runs = [run for run in self.runs if run.purpose == "size"]
        return fit_scaling_law(*([getattr(run, name) for run in runs] for name in ("parameters", "tokens", "loss")))

    @property
    def largest_flops(self):
        """float, of the small run with the most."""
        return max(run.flops for run in self.runs if run.purpose == "size")

    def seconds_per_step(self, shape):
        """float, by what steps of the runs took: so much whatever they compute, and so much for what they compute."""
        steps = [(run.tokens / shape.tokens_per_step, run) for run in self.runs if run.purpose != "larger"]
        x = np.array([run.flops / count for count, run in steps])
        y = np.array([run.seconds / count for count, run in steps])
        return float(step_time(x, y)(shape.flops_per_step))

    def choose(self, flops=None, seconds=None):
        """The size and the length with the lowest loss that a budget is enough for.

        No text is passed over more than four times: of more the law says nothing. Where that is the limit, the model is
        larger than it would be with more text.

        Args:
            flops, seconds: floats, either the compute or the time on this machine.

        Returns:
            A `ScalingChoice`.

        Raises:
            ValueError: where both or none is given, or it is enough for no model.
        """
        if (flops is None) == (seconds is None):
            raise ValueError("A budget is either flops= or seconds=: give one.")
        best = None
        for shape in self.shapes:
            steps = shape.steps_within(flops) if flops else int(seconds / self.seconds_per_step(shape))
            if steps < 1 or steps * shape.tokens_per_step > MOST_PASSES * self.text_tokens:
                continue
            choice = self._choice(shape, steps)
            if best is None or choice.loss < best.loss:
                best = choice
        if best is None:
            raise ValueError(
                f"That is enough for no model of {self.shapes[0].parameters:,} to {self.shapes[-1].parameters:,} "
                f"weights and at most {MOST_PASSES} passes over {self.text_tokens:,} tokens: give more or less, or "
                "more text."
            )
        return dataclasses.replace(best, **self._bounds(best))

    def _choice(self, shape, steps):
        tokens, rate = steps * shape.tokens_per_step, self.rule.at(shape.config.d_model)
        loss = float(self.fit.law.loss(shape.parameters, tokens))
        seconds = steps * self.seconds_per_step(shape)
        return ScalingChoice(shape, steps, rate, loss, loss, loss, seconds, tokens / self.text_tokens)

    def _bounds(self, choice):
        return dict(zip(("low", "high"), self.fit.interval(choice.shape.parameters, choice.tokens), strict=True))

    def to_dict(self):
        """Plain JSON types: runs, law with intervals, and the rule of the learning rate."""
        return {
            "runs": [dataclasses.asdict(run) for run in self.runs],
            "law": dataclasses.asdict(self.fit.law),
            "intervals": {name: list(bounds) for name, bounds in self.fit.intervals().items()},
            "noise": self.fit.noise,
            "learning_rate": dataclasses.asdict(self.rule),
            "text_tokens": self.text_tokens,
        }


def step_time(flops, seconds):
    """Seconds of a step as a function of its FLOPs, a line through what was seen, float64 (n,) each; never falling."""
    columns = np.stack([np.ones_like(flops), flops], axis=-1)
    begin, slope = np.linalg.lstsq(columns / seconds[:, None], np.ones_like(seconds), rcond=None)[0]
    if begin < 0 or slope <= 0:  # of one size, or of a machine that was busy
        begin, slope = 0.0, float(np.median(seconds / flops))
    return lambda x: begin + slope * x
