"""Run folders side by side: what they were told, what came of it, and their curves."""

import csv
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kerasllm.files import MANIFEST, read_json, replacing

_RECORD, _LOG = "run.json", "log.csv"
# Settings that say where things are and what is seen of a run, and change nothing in it.
_IDLE = ("out", "data", "valid", "test", "save_every", "keep_checkpoints", "log_to", "watch_layers", "sample")


class Run(NamedTuple):
    """What the folder of a run tells.

    Attributes:
        name: str, its place in the folder that was looked through.
        record: dict, the content of its run.json.
        rows: list of dicts of floats, those of its log.csv; what is unknown is not there.
        is_finished: bool.
    """

    name: str
    record: dict[str, Any]
    rows: list[dict[str, float]]
    is_finished: bool

    def last(self, column: str) -> float | None:
        """The last known value of a column of the log."""
        return next((row[column] for row in reversed(self.rows) if column in row), None)

    def best(self, column: str) -> float | None:
        """The lowest value of a column of the log."""
        return min((row[column] for row in self.rows if column in row and math.isfinite(row[column])), default=None)


def read_runs(folder: str | os.PathLike) -> list[Run]:
    """The runs of `kerasllm train` and `tune` in a folder and its sub-folders, finished or not, ordered by name.

    Args:
        folder: path.

    Raises:
        FileNotFoundError: if there is no such folder, or no run in it.

    Example:
        >>> [run.best("val_loss") for run in kerasllm.callbacks.read_runs("runs")]
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    found = []
    for path in sorted(folder.rglob(_RECORD)):
        home = path.parent
        if any(part.startswith(".") for part in home.relative_to(folder).parts):
            continue
        name = home.relative_to(folder).as_posix() if home != folder else folder.name
        found.append(Run(name, read_json(path), _rows(home / _LOG), (home / MANIFEST).is_file()))
    if not found:
        raise FileNotFoundError(f"{folder} holds no run: kerasllm train makes one.")
    return found


def differing_settings(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The settings of each run that are not the same in all, but for those that change nothing in it: list of dicts."""
    every = [_flat(run.record.get("settings", {})) for run in runs]
    names = list(dict.fromkeys(name for settings in every for name in settings))
    names = [name for name in names if len({str(settings.get(name)) for settings in every}) > 1]
    return [{name: settings.get(name) for name in names if name not in _IDLE} for settings in every]


def plot_runs(runs: Sequence[Run], path: str | os.PathLike) -> None:
    """Draws the losses of runs over the tokens they were trained on, or the steps where those are not known.

    Args:
        runs: list of `Run`.
        path: .png file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    has_tokens = all(any("tokens" in row for row in run.rows) for run in runs if run.rows)
    column = "tokens" if has_tokens else "step"
    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, run in enumerate(runs):
        color = f"C{number % 10}"
        axes.plot(*_curve(run, column, "loss"), color=color, alpha=0.3, linewidth=0.8)
        best = run.best("val_loss")
        label = run.name if best is None else f"{run.name}  {best:.4f}"
        axes.plot(*_curve(run, column, "val_loss"), "o-", color=color, markersize=3, linewidth=1.6, label=label)
    axes.set_xlabel({"tokens": "tokens trained on", "step": "training step"}[column])
    axes.set_ylabel("loss (thin: training; dots: validation)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e8eaed", linewidth=0.8)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    with replacing(Path(path)) as draft:
        figure.savefig(draft, format="png", dpi=150, facecolor="white")


def _curve(run, column, name):
    points = [(row[column], row[name]) for row in run.rows if column in row and name in row]
    return list(zip(*points, strict=True)) or ([], [])


def _rows(path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(file)]


def _flat(settings) -> dict[str, Any]:
    return dict(_pairs("", settings))


def _pairs(before, settings) -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _pairs(f"{before}{name}.", value)
        else:
            yield f"{before}{name}", value
