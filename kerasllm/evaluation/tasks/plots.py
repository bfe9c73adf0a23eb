"""Pictures of scores: tasks side by side, where in a long text something is found, and tasks while a model trains."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kerasllm.evaluation.tasks.scores import TaskScores
from kerasllm.files import replacing


def plot_tasks(models: Mapping[str, Mapping[str, TaskScores]], path: str | os.PathLike) -> None:
    """Draws the accuracies of models in tasks, with standard errors, and a map of each task of two groups.

    Args:
        models: dict from names of models to what `task_scores` gives of them, of the same tasks.
        path: .png file.

    Example:
        >>> plot_tasks({"before": task_scores(model, tokenizer, ["cloze", "needle"])}, "tasks.png")
    """
    tasks = next(iter(models.values()))
    maps = [
        (label, scores[name]) for name, s in tasks.items() if len(s.groups) == 2 for label, scores in models.items()
    ]
    figure = _figure((6.4 + 4.2 * len(maps), max(3.2, 1.4 + 0.35 * len(tasks) * len(models))))
    axes, *others = np.atleast_1d(figure.subplots(1, 1 + len(maps), width_ratios=[1.5] + [1] * len(maps)))
    for number, (label, of_model) in enumerate(models.items()):
        figures = [scores.estimates()["acc"] for scores in of_model.values()]
        places = np.arange(len(tasks)) + 0.25 * (number - (len(models) - 1) / 2)
        errors = np.nan_to_num([figure.error for figure in figures])
        axes.errorbar([f.value for f in figures], places, xerr=errors, fmt="o", markersize=5, label=label)
    for place, scores in enumerate(tasks.values()):
        if scores.chance:
            axes.plot([scores.chance] * 2, [place - 0.4, place + 0.4], color="0.5", linewidth=1, linestyle=":")
    axes.set_yticks(range(len(tasks)), list(tasks))
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("accuracy, with its standard error (dotted: by guessing)")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    if len(models) > 1:
        axes.legend(frameon=False, fontsize=9)
    for other, (label, scores) in zip(others, maps, strict=True):
        _draw_map(other, scores, f"{scores.task}, {label}" if len(models) > 1 else scores.task)
    _save(figure, path)


def plot_steps(steps: Mapping[int, Mapping[str, TaskScores]], path: str | os.PathLike) -> None:
    """Draws the accuracies in tasks over the training steps of a run, with standard errors.

    Args:
        steps: dict from steps to what `task_scores` gives of the checkpoint there.
        path: .png file.
    """
    figure = _figure((7, 4))
    axes = figure.subplots()
    at = sorted(steps)
    for number, task in enumerate(steps[at[0]]):
        figures = [steps[step][task].estimates()["acc"] for step in at]
        values = np.array([figure.value for figure in figures])
        errors = np.nan_to_num([figure.error for figure in figures])
        axes.plot(at, values, "o-", color=f"C{number}", linewidth=1.5, markersize=4, label=task)
        axes.fill_between(at, values - errors, values + errors, color=f"C{number}", alpha=0.15, linewidth=0)
    axes.set_xlabel("training step")
    axes.set_ylabel("accuracy")
    axes.set_ylim(-0.02, 1.02)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    _save(figure, path)


def _draw_map(axes, scores, title):
    found = scores.by_group()
    rows, columns = (list(dict.fromkeys(group[part] for group in found)) for part in (0, 1))
    values = np.full((len(rows), len(columns)), np.nan)
    for (row, column), figure in found.items():
        values[rows.index(row), columns.index(column)] = figure.value
    axes.imshow(values, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto", alpha=0.8)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(columns)), columns, fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.set_xlabel(scores.groups[1])
    axes.set_title(title, fontsize=10)


def _figure(size):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure, path):
    with replacing(Path(path)) as draft:
        figure.savefig(draft, format="png", dpi=150, facecolor="white")
