"""`choose`: the model to take, of several, by what they do on a user's own sample.

Candidates that do not fit into the memory, or answer too slowly, are not measured. Of the others the worse half is left
out again and again while the sample grows (successive halving, https://arxiv.org/abs/1502.07943), so that bad ones cost
little: of eight each sees a sixteenth of the sample, and the last two a quarter of it.
"""

import dataclasses
import math

import kerasllm
from kerasllm import report
from kerasllm.planning import device_of, generation_plan
from kerasllm.selection.cards import known_of
from kerasllm.selection.measures import MEASURES, items_of

FEWEST_ITEMS = 8  # that a figure is of
AS_GOOD = 0.02  # a figure that is worse by so small a share is as good
_FLOAT = 4  # bytes
_LAST_PART = 4  # the last two are measured on a quarter of the sample


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model, and what was found of it.

    Attributes:
        name: str, as it was asked for.
        licence: str, and `languages`: tuple of str, as its card says; empty where it does not.
        parameters: int or None, its weights.
        memory_bytes: float or None, of its weights, and of the cache of one row of full length where it generates.
        figure: float or None, how well it does, on `items` of the sample.
        seconds: float or None, until an answer, or a token of one where it generates.
        first_seconds: float or None, until the first token.
        left_out: str, why it was not measured any more; "" of the pick.
    """

    name: str
    licence: str = ""
    languages: tuple = ()
    parameters: int | None = None
    memory_bytes: float | None = None
    figure: float | None = None
    items: int = 0
    seconds: float | None = None
    first_seconds: float | None = None
    left_out: str = ""


@dataclasses.dataclass(frozen=True)
class Selection:
    """What `choose` found.

    Attributes:
        task: str.
        candidates: list of `Candidate`, the best first.
        pick: `Candidate`.
        why: str, a sentence.
        items: int, of the sample.
    """

    task: str
    candidates: list
    pick: Candidate
    why: str
    items: int

    @property
    def measure(self):
        return MEASURES[self.task]

    def frontier(self):
        """Those of the measured candidates that no other beats in memory and in the figure: list of `Candidate`."""
        measured = [one for one in self.candidates if one.figure is not None and one.memory_bytes is not None]
        return [one for one in measured if not any(self._beats(other, one) for other in measured)]

    def _beats(self, other, one):
        sign = 1 if self.measure.lower_is_better else -1
        theirs, ours = (sign * other.figure, other.memory_bytes), (sign * one.figure, one.memory_bytes)
        return theirs != ours and all(a <= b for a, b in zip(theirs, ours, strict=True))

    def to_dict(self):
        """Plain JSON types."""
        return {
            **dataclasses.asdict(self),
            "figure": self.measure.name,
            "frontier": [one.name for one in self.frontier()],
        }


def choose(candidates, task, data, *, columns=(), memory=None, latency=None):
    """Measures models on a sample, the worse ones on little of it, and says which to take.

    Args:
        candidates: list of what `kerasllm.load` takes: run folders, folders and repositories in Hugging Face's format,
            .gguf files. Names of presets, which have no weights, are told the memory of, and not measured.
        task: str: "generate" is measured in bits per byte of text, "translate" in BLEU of pairs, "classify" in accuracy
            of texts with labels, "embed" in how often the second of a pair is nearest to the first.
        data: str or list of them, the sample, as for `kerasllm evaluate`.
        columns: names of columns or fields of the sample, likewise.
        memory: float or None, bytes that there are for weights and, to generate, the cache of one row.
        latency: float or None, the most seconds until an answer: a token to generate, a sentence to translate, a text
            to classify or embed. Where it is given, all that fit are timed before they are measured.

    Returns:
        A `Selection`.

    Raises:
        FileNotFoundError: if the sample, or a candidate, is nowhere.
        ValueError: for an unknown task, a candidate that is named twice, a sample that is too small, or where no
            candidate can be measured.

    Example:
        >>> found = kerasllm.selection.choose(["small-run", "large-run"], "generate", "sample.txt", memory=8e9)
        >>> print(found.pick.name, found.why)
    """
    if task not in MEASURES:
        raise ValueError(f"`task` is one of {', '.join(MEASURES)}, not {task!r}.")
    names = list(map(str, candidates))
    if not names or len(set(names)) < len(names):
        raise ValueError(f"Candidates are different models, at least one: got {names}.")
    items = items_of(task, [data] if isinstance(data, str) else data, columns)
    if len(items) < FEWEST_ITEMS:
        raise ValueError(f"The sample has {len(items)} items, and a figure is of at least {FEWEST_ITEMS}.")
    race = _Race(MEASURES[task], items, memory, latency)
    for name in names:
        race.enter(name)
    pick = race.run()
    order = sorted(race.found.values(), key=lambda one: (one.name != pick.name, -one.items, race.rank(one)))
    selection = Selection(task, order, pick, "", len(items))
    return dataclasses.replace(selection, why=_why(selection, memory, latency))


class _Race:
    """Candidates that are measured side by side.

    Args:
        measure: a subclass of `measures.Measure`.
        items: list, the sample.
        memory, latency: as for `choose`.
    """

    def __init__(self, measure, items, memory, latency):
        self._measure, self._items, self._memory, self._latency = measure, items, memory, latency
        self.found, self._kept, self._sums = {}, {}, {}
        self._room = (device_of("this").memory_bytes or math.inf) / 2  # for models that are kept between parts

    def rank(self, candidate):
        """A number that is lower for a better candidate."""
        if candidate.figure is None:
            return math.inf
        return candidate.figure if self._measure.lower_is_better else -candidate.figure

    def enter(self, name):
        """Takes a candidate in, if it fits."""
        known = known_of(name)
        weights = None if known.parameters is None else _FLOAT * known.parameters
        one = Candidate(name, known.licence, known.languages, known.parameters, weights)
        if known.is_preset:
            one = dataclasses.replace(one, left_out="a preset has no weights")
        elif self._memory and weights and weights > self._memory:
            one = dataclasses.replace(one, left_out="it does not fit into the memory")
        self.found[name], self._sums[name] = one, self._measure()

    def run(self):
        """Measures until one is left; returns it."""
        left = [name for name in self.found if not self.found[name].left_out]
        if self._latency is not None:
            left = [name for name in left if self._measured(name, 0)]
        rounds = max(math.ceil(math.log2(max(len(left), 1))), 1)
        for number in range(rounds):
            if number and len(left) == 1:
                break
            share = 1 if len(left) == 1 else _LAST_PART * 2 ** (rounds - 1 - number)
            end = max(len(self._items) // share, FEWEST_ITEMS)
            report.stage(f"{len(left)} candidates on {end:,} of {len(self._items):,} items")
            left = [name for name in left if self._measured(name, end)]
            left.sort(key=lambda name: self.rank(self.found[name]))
            for name in left[math.ceil(len(left) / 2) :]:
                self._leave_out(name, f"behind after {self.found[name].items:,} items")
            left = left[: math.ceil(len(left) / 2)]
        if not left:
            why = "; ".join(f"{one.name}: {one.left_out}" for one in self.found.values())
            raise ValueError(f"No candidate can be taken. {why}.")
        if self.found[left[0]].seconds is None:
            self._time(left[0])
        return self.found[left[0]]

    def _measured(self, name, end):
        """Measures a candidate up to a place of the sample, or only times it; returns whether it is still there."""
        one = self.found[name]
        try:
            if end == 0:
                self._time(name)
            elif end > one.items:
                figure = self._sums[name].add(*self._opened(name), self._items[one.items : end])
                self.found[name] = dataclasses.replace(self.found[name], figure=figure, items=end)
        except (ValueError, TypeError, OSError) as error:
            self._leave_out(name, " ".join(str(error).split()))
        return not self.found[name].left_out

    def _time(self, name):
        seconds, first = self._measure.seconds(*self._opened(name), self._items)
        self.found[name] = dataclasses.replace(self.found[name], seconds=seconds, first_seconds=first)
        if self._latency is not None and seconds > self._latency:
            self._leave_out(name, f"an answer takes {1000 * seconds:,.0f} ms")

    def _opened(self, name):
        """The model and the tokenizer of a candidate, which are kept where there is room for them."""
        if name in self._kept:
            return self._kept[name]
        opened = model, _ = kerasllm.load(name)
        self._measure.check(model)
        size = weights = _FLOAT * model.count_params()
        if self._measure.task == "causal":
            size += generation_plan(model.config).cache_bytes
        self.found[name] = dataclasses.replace(self.found[name], parameters=model.count_params(), memory_bytes=size)
        if self._memory and size > self._memory:
            raise ValueError("it does not fit into the memory")
        if weights <= self._room:
            self._kept[name], self._room = opened, self._room - weights
        return opened

    def _leave_out(self, name, why):
        self.found[name] = dataclasses.replace(self.found[name], left_out=why)
        self._sums.pop(name)  # which may hold on to the model
        if name in self._kept:
            self._room += _FLOAT * self._kept.pop(name)[0].count_params()


def _why(selection, memory, latency):
    """A sentence about the pick, and one about a smaller one that is as good."""
    pick, measure = selection.pick, selection.measure
    best = "lowest" if measure.lower_is_better else "highest"
    limits = [f"{memory / 1e9:,.3g} GB"] if memory else []
    limits += [f"{1000 * latency:,.0f} ms"] if latency else []
    of_those = f" of those that keep within {' and '.join(limits)}" if limits else ""
    says = [f"{pick.name} has the {best} {measure.name}{of_those}: {pick.figure:.4g} on {pick.items:,} items."]
    for one in sorted(selection.frontier(), key=lambda one: one.memory_bytes):
        worse = abs(one.figure / pick.figure - 1) if pick.figure else math.inf
        if one.memory_bytes < pick.memory_bytes and worse <= AS_GOOD and not one.left_out.startswith("an answer"):
            share = one.memory_bytes / pick.memory_bytes
            says.append(
                f"{one.name} is {worse:.1%} off it, on {one.items:,} items, and takes {share:.0%} of the memory."
            )
            break
    return " ".join(says)


def selection_figure(selection):
    """A plot of how well candidates do against the memory that they take, and of those that no other beats in both.

    Args:
        selection: `Selection`.

    Returns:
        A matplotlib `Figure`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    measured = [one for one in selection.candidates if one.figure is not None and one.memory_bytes]
    front = sorted(selection.frontier(), key=lambda one: one.memory_bytes)
    axes.plot([one.memory_bytes / 1e6 for one in front], [one.figure for one in front], "-", color="#bbbbbb", zorder=1)
    for one in measured:
        is_pick = one.name == selection.pick.name
        color = "#ee6677" if is_pick else "#4477aa" if one in front else "#999999"
        axes.plot([one.memory_bytes / 1e6], [one.figure], "*" if is_pick else "o", color=color, ms=14 if is_pick else 6)
        label = one.name.rstrip("/").rpartition("/")[2]
        axes.annotate(label, (one.memory_bytes / 1e6, one.figure), (5, 4), textcoords="offset points", size=8)
    axes.set_xscale("log")
    axes.set_xlabel("MB of weights and cache")
    axes.set_ylabel(selection.measure.name + (" (lower is better)" if selection.measure.lower_is_better else ""))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e8eaed", linewidth=0.8)
    return figure
