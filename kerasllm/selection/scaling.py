"""`scale`: small runs, chosen while they come in, and what they say of larger ones.

Runs of the same compute are a level (isoFLOP): of each level sizes are tried from the middle outwards until the best of
them has a worse one on either side, so that no time goes into sizes that are far from it. The compute of the levels is
such that all fits into the time that is given.
"""

import dataclasses
import math
import time
from pathlib import Path

import yaml

from kerasllm import report
from kerasllm.files import check_new_folder, replacing, write_json
from kerasllm.planning import MOST_PASSES, LearningRateRule, ScalingStudy, scaling_figure
from kerasllm.planning.scaling_law import FEWEST_RUNS
from kerasllm.selection.small_runs import SmallRuns, say

STUDY, FIGURE, SETTINGS = "scaling.json", "scaling.png", "best.yaml"
LEVELS = 3
_FEWEST_STEPS = 60  # fewer are all warm-up and decay
_RATE, _RATE_WIDTH = 4e-3, 64  # the middle of the learning rates that are tried first, and of which width
_TRIED_RATES = (1.0, 0.5, 2.0)
_STRIDE = 2  # sizes between two that are tried: about twice the weights
_FEWEST_OF_LEVEL, _RUNS_OF_LEVEL, _MOST_RUNS_OF_LEVEL = 3, 3.5, 6  # runs: at least, reckoned with, at most
_SPREAD = 6  # between the compute of the first level and of the last, to begin with
_BEHIND = 1.1  # a training loss by this factor above that of the level's best, in the middle of the run
_TIMED_STEPS = 12
_TOKENS_PER_WEIGHT = 20  # of the narrower of the two models that look for a learning rate, or about


def scale(settings, minutes, flops=None, seconds=None):
    """Trains small models for so many minutes, and says what a larger budget is best spent on.

    The folder `settings.out` gets the study as JSON and a plot, the tokenizer and the settings for `kerasllm train` of
    the model that is best for the budget, and what each small run logged, which `kerasllm runs` compares.

    Args:
        settings: a `kerasllm.settings.TrainSettings` of the task causal. What it says of the model, but for its size,
            of text, batch, optimizer and precision holds for all runs; steps and learning rate are found.
        minutes: float, for the small runs.
        flops, seconds: floats, the budget of the larger run, of which one may be given: compute, or the time on this
            machine. By default eight times the compute of the largest small run.

    Returns:
        A pair of `kerasllm.planning.ScalingStudy` and `ScalingChoice`, the model for the budget.

    Raises:
        FileExistsError: if the folder exists.
        ValueError: if the settings are of another task, or the time is not enough for 6 small runs.

    Example:
        >>> settings = kerasllm.settings.TrainSettings(data="python_docs", out="study", max_length=128, batch_size=16)
        >>> study, choice = kerasllm.selection.scale(settings, minutes=30)
        >>> print(study.fit.law, choice.shape.parameters, choice.tokens, choice.loss)
    """
    end = time.monotonic() + 60 * minutes
    if settings.task != "causal" or settings.teacher or settings.dp_epsilon:
        raise ValueError("Laws of scaling are of the task causal, without a teacher or differential privacy.")
    if settings.epochs or settings.steps:
        raise ValueError("The steps of each run are found: leave out steps and epochs.")
    out = Path(settings.out)
    check_new_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    runs = SmallRuns(settings, out)
    study = _Search(runs, end).run()
    default = None if seconds else 8 * study.largest_flops
    choice = study.choose(flops=flops or default, seconds=seconds)
    best = dataclasses.replace(runs.settings_of(choice), out="best")
    (out / SETTINGS).write_text(yaml.safe_dump(best.to_dict(), sort_keys=False), encoding="utf-8")
    save_study(study, choice, out)
    return study, choice


def save_study(study, choice, folder):
    """Writes a study and the choice as JSON and as a plot into a folder."""
    foreseen = {name: getattr(choice, name) for name in ("steps", "tokens", "flops", "learning_rate", "seconds")}
    foreseen |= {"loss": choice.loss, "interval": [choice.low, choice.high], "passes": choice.passes}
    config = choice.shape.config
    foreseen |= {"parameters": choice.shape.parameters, "d_model": config.d_model, "num_layers": config.num_layers}
    write_json(Path(folder) / STUDY, {**study.to_dict(), "choice": foreseen})
    with replacing(Path(folder) / FIGURE) as draft:
        scaling_figure(study, choice).savefig(draft, format="png", dpi=150, facecolor="white")


class _Search:
    """The small runs of a study, each chosen by those before it.

    Args:
        runs: `SmallRuns`.
        end: float, when `time.monotonic` says that the time is up.
    """

    def __init__(self, runs, end):
        self.runs, self._end = runs, end
        self._found, self._rule = [], None
        self._overhead = 0.0  # seconds of a run besides its steps: to compile, to measure

    @property
    def _study(self):
        return ScalingStudy(self._found, self.runs.shapes, self.runs.text_tokens, self._rule)

    def run(self):
        """Returns the `ScalingStudy`."""
        flops = self._first_level()
        losses, first = self._rates(flops), None
        for level in range(LEVELS):
            self._sizes(level, flops, losses, first)
            if not losses or level == LEVELS - 1:
                break
            grown = self._next_level(flops, level + 1)
            first = self._moved(min(losses, key=losses.get), grown / flops)
            losses, flops = {}, grown
        sized = sum(run.purpose == "size" for run in self._found)
        if sized < FEWEST_RUNS:
            raise ValueError(
                f"The time was enough for {sized} runs of several sizes, and a law takes {FEWEST_RUNS}: give more "
                "minutes, and the machine nothing else to do."
            )
        return self._study

    def _first_level(self):
        """The compute of the first level, by the time that a few steps take."""
        shape = self.runs.shapes[2]
        begin = time.monotonic()
        run, _ = self.runs.train(shape, _TIMED_STEPS, self._start_rate(shape), purpose="timing")
        self._overhead = time.monotonic() - begin - run.seconds
        of_rates = 2 * len(_TRIED_RATES)
        sized = sum(_SPREAD ** (-level / (LEVELS - 1)) for level in range(LEVELS)) * _RUNS_OF_LEVEL
        left = self._end - time.monotonic() - (of_rates + LEVELS * _RUNS_OF_LEVEL) * self._overhead
        last = max(left, 0) * run.flops / run.seconds / (sized + of_rates / _SPREAD)
        return last / _SPREAD

    def _next_level(self, flops, level):
        """The compute of a level, by the time that is left for it and those after it."""
        levels = LEVELS - level
        size = [run for run in self._found if run.purpose == "size"]
        rate = sum(run.flops for run in size) / sum(run.seconds for run in size)
        left = (self._end - time.monotonic()) / _RUNS_OF_LEVEL - levels * self._overhead
        low, high = 1.0, 100.0
        for _ in range(40):  # by halves: the ratio of levels with which the time is used up
            ratio = math.sqrt(low * high)
            fits = sum(flops * ratio ** (1 + n) for n in range(levels)) / rate < left
            low, high = (ratio, high) if fits else (low, ratio)
        return flops * max(low, 1.5)

    def _allowed(self, flops):
        """The places of sizes that such a compute is neither too little nor too much for."""
        most = MOST_PASSES * self.runs.text_tokens
        steps = [(shape.steps_within(flops), shape.tokens_per_step) for shape in self.runs.shapes]
        found = [at for at, (count, tokens) in enumerate(steps) if count >= _FEWEST_STEPS and count * tokens <= most]
        if len(found) < 2:
            raise ValueError(
                f"In this time there is no choice of sizes: with {flops:.2g} FLOPs a run, at least {_FEWEST_STEPS} "
                f"steps of a batch and at most {MOST_PASSES} passes over the text, {len(found)} can be trained. Give "
                "more minutes, smaller batches, or more text."
            )
        return found

    def _rates(self, flops):
        """Looks for the learning rate at two widths; returns their losses, by their places among the sizes."""
        allowed = self._allowed(flops)
        low = min(allowed[:-1], key=lambda at: abs(math.log(self._tokens_per_weight(at, flops) / _TOKENS_PER_WEIGHT)))
        high = min(low + 2 * _STRIDE, allowed[-1])
        report.stage(f"Looking for the learning rate, with runs of {flops:.2g} FLOPs")
        best = {}
        for at in (low, high):
            tried = {}
            rates = [self._start_rate(self.runs.shapes[at]) * factor for factor in _TRIED_RATES]
            while rates:
                rate = rates.pop(0)
                tried[rate] = self._train(at, flops, rate, 0, "rate")[0]
                if not rates and len(tried) == len(_TRIED_RATES):  # one more where the best is at an end
                    lowest = min(tried, key=lambda one: _loss(tried[one]))
                    rates = {min(tried): [lowest / 2], max(tried): [lowest * 2]}.get(lowest, [])
            best[at] = min(tried.values(), key=_loss)
        self._rule = LearningRateRule.fitted([run for run in self._found if run.purpose == "rate"])
        report.stage(
            f"Learning rate: {self._rule.rate:.2g} at a width of {self._rule.width:.0f}, and elsewhere times the ratio "
            f"of widths to the power of {self._rule.power:.2f}"
        )
        best = {at: run for at, run in best.items() if run.loss is not None}
        chosen = [*best.values()]
        self._found = [dataclasses.replace(run, purpose="size") if run in chosen else run for run in self._found]
        return {at: run.loss for at, run in best.items()}

    @staticmethod
    def _start_rate(shape):
        return _RATE * (_RATE_WIDTH / shape.config.d_model) ** 0.5

    def _sizes(self, level, flops, losses, first):
        """Tries sizes at one compute, from the middle outwards.

        Args:
            level: int.
            flops: float, of a run.
            losses: dict from places of sizes to their losses, to which those of the runs are added.
            first: int or None, the place to begin at, or about; None where there are losses.
        """
        report.stage(f"Sizes, with runs of {flops:.2g} FLOPs")
        allowed, middle = self._allowed(flops), math.inf
        at = _next_size(losses, allowed) if losses else min(allowed, key=lambda one: abs(one - (first or 0)))
        while at is not None and len(losses) < _MOST_RUNS_OF_LEVEL and self._has_time(at, flops):
            rate = self._rule.at(self.runs.shapes[at].config.d_model)
            run, watched = self._train(at, flops, rate, level, "size", _BEHIND * middle)
            losses[at] = _loss(run)
            middle = watched if losses[at] == min(losses.values()) < math.inf else middle
            at = _next_size(losses, allowed, fills=level == LEVELS - 1)

    def _has_time(self, at, flops):
        shape = self.runs.shapes[at]
        needed = shape.steps_within(flops) * self._study.seconds_per_step(shape) + self._overhead
        return time.monotonic() + needed <= self._end

    def _train(self, at, flops, rate, level, purpose, most=math.inf):
        shape, begin = self.runs.shapes[at], time.monotonic()
        run, middle = self.runs.train(shape, shape.steps_within(flops), rate, level, purpose, most)
        self._overhead = (self._overhead + time.monotonic() - begin - run.seconds) / 2
        self._found.append(run)
        say(run)
        return run, middle

    def _tokens_per_weight(self, at, flops):
        shape = self.runs.shapes[at]
        return shape.steps_within(flops) * shape.tokens_per_step / shape.parameters

    def _moved(self, at, ratio):
        """The place of the size that is best where compute is higher by a ratio, if it grows as its root."""
        wanted = self.runs.shapes[at].parameters * math.sqrt(ratio)
        return min(range(len(self.runs.shapes)), key=lambda one: abs(self.runs.shapes[one].parameters / wanted - 1))


def _loss(run):
    return math.inf if run.loss is None else run.loss


def _next_size(losses, allowed, fills=False):
    """The place to try next, of those allowed, by the losses so far: beside the best, until that has both neighbours.

    Args:
        losses: dict from places to losses.
        allowed: list of places.
        fills: bool. Go on with those that are nearest to the best, where nothing has to be tried.

    Returns:
        A place, or None.
    """
    best = min(losses, key=losses.get)
    for sign in (-1, 1) if len(losses) % 2 else (1, -1):
        if any(sign * (at - best) > 0 for at in losses):
            continue
        if found := [at for at in allowed if 0 < sign * (at - best) <= _STRIDE]:
            return max(found, key=lambda at: abs(at - best))
    left = [at for at in allowed if at not in losses]
    return min(left, key=lambda at: abs(at - best), default=None) if fills or len(losses) < _FEWEST_OF_LEVEL else None
