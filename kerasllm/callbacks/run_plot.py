"""A picture of the run: the loss as it falls, and below it the learning rate or the speed."""

import io
from pathlib import Path

import numpy as np

from kerasllm.callbacks.run_recorder import RunRecorder
from kerasllm.files import replacing

_TRAINING, _VALIDATION, _QUIET = "#2f6db3", "#d1662b", "#8a8f98"


class RunPlot(RunRecorder):
    """Draws the run as a PNG at the end of each epoch.

    The upper panel shows the training loss, thin as it is and thick as it trends, with the validation loss of each
    epoch, in nats per token and, on the right, as perplexity. Where a model learns from rewards, their means of each
    epoch take its place. The lower panel shows the learning rate, or the speed where the rate is constant and the speed
    known.

    Args:
        path: The PNG file; its folder is made if missing.
        tokens_per_step: Tokens in a training batch, to show the speed. None: taken from a `Throughput` that stands
            before this callback, if there is one.
        every: Steps between two points of the training loss.

    Raises:
        FileExistsError: When `fit` begins, if the file exists. It stays untouched.
        ValueError: `every` or `tokens_per_step` is below 1, or `path` does not end in .png.

    Example:

    >>> model.fit(train, validation_data=validation, epochs=5, callbacks=[kerasllm.callbacks.RunPlot("curve.png")])
    """

    def __init__(self, path, tokens_per_step=None, every=10):
        super().__init__(tokens_per_step, every)
        self.path = Path(path)
        if self.path.suffix.lower() != ".png":
            raise ValueError(f"path={str(path)!r} is not possible; give a file name that ends in .png.")

    def prepare(self):
        if self.path.exists() and not (self._rows or self._restored):
            raise FileExistsError(f"{self.path} exists and is not overwritten; plot to another file or move it away.")
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def record_epoch(self, row, logs):
        picture = io.BytesIO()
        draw_run(self._rows).savefig(picture, format="png", dpi=150, facecolor="white")
        with replacing(self.path) as draft:
            draft.write_bytes(picture.getvalue())


def draw_run(rows):
    """Draws rows, as `RunRecorder` makes them, on a new `matplotlib.figure.Figure`.

    The figure has a canvas of its own: the backend that pyplot uses, and its open figures, are left alone.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.2), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    _draw_loss(upper, rows)
    _draw_rate_or_speed(lower, rows)
    lower.set_xlabel("training step")
    lower.set_xlim(left=0)
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_QUIET)
        axes.tick_params(color=_QUIET, labelsize=9)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y", color="#e8eaed", linewidth=0.8)
        axes.set_axisbelow(True)
    figure.align_ylabels()
    return figure


def _draw_loss(axes, rows):
    name = "reward" if any("reward" in row for row in rows) else "loss"
    steps, loss = _series(rows, name)
    if len(steps):
        trend = _moving_average(loss)
        dot = "o" if len(steps) == 1 else None
        axes.plot(steps, loss, color=_TRAINING, alpha=0.4, linewidth=0.8)
        axes.plot(steps, trend, color=_TRAINING, linewidth=2, marker=dot, label=f"training   {trend[-1]:.4f}")
    steps, loss = _series(rows, f"val_{name}")
    if len(steps):
        label = f"validation {loss[-1]:.4f}"
        axes.plot(steps, loss, color=_VALIDATION, linewidth=1.5, marker="o", markersize=5, label=label)
    has_perplexity = any(row.get("perplexity", 0) is not None for row in rows or [{}])
    axes.set_ylabel("loss (nats per token)" if has_perplexity else name)
    if axes.lines:
        axes.legend(frameon=False, prop={"family": "monospace", "size": 10}, labelcolor="#33373d", loc="upper right")
    if has_perplexity:
        _draw_perplexity_scale(axes)


def _draw_perplexity_scale(axes):
    """Marks round perplexities on the right. Capped, as a perplexity of e ** 700 is no number to show."""
    low, high = np.exp(np.minimum(axes.get_ylim(), 50))
    decades = 10.0 ** np.arange(np.floor(np.log10(max(low, 1))), np.log10(high) + 1)
    marks = np.outer(decades, [1, 2, 5]).ravel()
    right = axes.secondary_yaxis("right", functions=(lambda x: x, lambda x: x))
    right.set_yticks(np.log(marks), [f"{mark:,.0f}" for mark in marks])
    right.set_ylabel("perplexity", color=_QUIET)
    right.tick_params(color=_QUIET, labelcolor=_QUIET, labelsize=9)
    right.spines["right"].set_visible(False)


def _draw_rate_or_speed(axes, rows):
    steps, rate = _series(rows, "learning_rate")
    label, format_spec = "learning rate", "{x:.2g}"
    if len(set(rate)) < 2:
        timed_steps, speed = _series(rows, "tokens_per_second")
        if len(timed_steps):
            steps, rate, label, format_spec = timed_steps, speed, "tokens/s", "{x:,.0f}"
    axes.plot(steps, rate, color=_QUIET, linewidth=1.2)
    axes.set_ylim(0, 1.15 * max([*rate, 1e-12]))
    axes.set_ylabel(label)
    axes.yaxis.set_major_formatter(format_spec)
    axes.locator_params(axis="y", nbins=3)


def _series(rows, name):
    """Steps and finite values; the row that ends an epoch takes the place of the one before it at the same step."""
    points = {row["step"]: row[name] for row in rows if row.get(name) is not None and np.isfinite(row[name])}
    return np.array(list(points.items()), dtype="float64").reshape(-1, 2).T


def _moving_average(values):
    """Mean over a fortieth of all points to either side of each one.

    Near the beginning, where the loss falls steeply, to neither side more than there is on the left, so that the
    curve starts where the run did; at the end only the right side shrinks, so that it does not end in noise.
    """
    index, half = np.arange(len(values)), len(values) // 40
    left = np.minimum(half, index)
    right = np.minimum(left, index[::-1])
    total = np.concatenate([[0], np.cumsum(values)])
    return (total[index + right + 1] - total[index - left]) / (left + right + 1)
