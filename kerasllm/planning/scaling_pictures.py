"""Small runs, the law of their losses, and what it says of larger runs, as a plot."""

import numpy as np

_BAND, _CURVE, _POINTS = "#4477aa", "#22558a", 40


def scaling_figure(study, choice=None):
    """Two plots: loss against weights at each compute, with the law's curves; and the lowest loss against compute, with
    the bounds between which a run's lies with 95 %.

    Args:
        study: `ScalingStudy`; of its runs those with the purpose "larger" are what is compared with the law.
        choice: `ScalingChoice` or None, which is marked.

    Returns:
        A matplotlib `Figure`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    by_size, by_compute = figure.subplots(1, 2)
    _draw_levels(study, by_size)
    _draw_frontier(study, choice, by_compute)
    for axes in (by_size, by_compute):
        axes.set_xscale("log")
        axes.set_ylabel("loss on what was held out, nats per token")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e8eaed", linewidth=0.8)
        axes.legend(frameon=False, fontsize=8)
    return figure


def _draw_levels(study, axes):
    sized = [run for run in study.runs if run.purpose == "size"]
    for level in sorted({run.level for run in sized}):
        runs = [run for run in sized if run.level == level]
        flops, color = float(np.mean([run.flops for run in runs])), f"C{level}"
        x = np.array([run.parameters for run in runs])
        axes.plot(x, [run.loss for run in runs], "o", color=color, label=f"{flops:.1e} FLOPs")
        shapes = [shape for shape in study.shapes if x.min() / 2 < shape.parameters < 2 * x.max()]
        sizes = np.array([shape.parameters for shape in shapes], "float64")
        tokens = np.array([flops / shape.flops_per_step * shape.tokens_per_step for shape in shapes])
        axes.plot(sizes, study.fit.law.loss(sizes, tokens), "-", color=color, linewidth=1)
    axes.set_xlabel("weights")
    axes.set_title("runs of the same compute, and the law", fontsize=10)


def _draw_frontier(study, choice, axes):
    sized = [run for run in study.runs if run.purpose == "size"]
    larger = [run for run in study.runs if run.purpose == "larger"]
    ends = [*(run.flops for run in (*sized, *larger)), *([choice.flops] if choice else [])]
    best = []
    for flops in np.geomspace(min(ends), 1.5 * max(ends), _POINTS):
        try:
            best.append(study.choose(flops=float(flops)))
        except ValueError:  # too little text for so much compute, or the other way round
            continue
    x = [one.flops for one in best]
    axes.fill_between(x, [one.low for one in best], [one.high for one in best], color=_BAND, alpha=0.2, linewidth=0)
    axes.plot(x, [one.loss for one in best], "-", color=_CURVE, label="the best size, by the law, and 95 %")
    axes.plot([run.flops for run in sized], [run.loss for run in sized], "o", color="#888", ms=4, label="small runs")
    if choice:
        axes.plot([choice.flops], [choice.loss], "*", color="#ee6677", ms=13, label=f"foreseen: {choice.loss:.3f}")
    if larger:
        axes.plot([run.flops for run in larger], [run.loss for run in larger], "D", color="black", ms=5, label="seen")
    axes.set_xlabel("FLOPs of training")
    axes.set_title("what more compute brings", fontsize=10)
