"""Plans as plots: memory by part, and time against size."""

from kerasllm.models.memory import PARTS

_COLOURS = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#bbbbbb")


def memory_figure(plans):
    """Bars of memory by part, one for each plan, with what the device has as a line.

    Args:
        plans: dict from a name to a `Plan`.

    Returns:
        A matplotlib `Figure`.

    Example:
        >>> config = kerasllm.models.TransformerConfig.preset("gpt2")
        >>> figure = kerasllm.planning.memory_figure({"gpt2": kerasllm.planning.plan(config, 8)})
    """
    figure, axes = _axes(1.2 + 0.5 * len(plans))
    begin = [0.0] * len(plans)
    for part, colour in zip(PARTS, _COLOURS, strict=True):
        widths = [plan.memory_bytes[part] / 1e9 for plan in plans.values()]
        axes.barh(list(plans), widths, left=begin, color=colour, label=part, height=0.6)
        begin = [left + width for left, width in zip(begin, widths, strict=True)]
    limits = {plan.device.memory_bytes for plan in plans.values()} - {None}
    if len(limits) == 1 and (limit := limits.pop() / 1e9) < 3 * max(begin):
        axes.axvline(limit, color="black", linestyle="--", linewidth=1)
        axes.annotate("what there is", (limit, 1), xycoords=("data", "axes fraction"), ha="right", va="bottom", size=8)
    axes.invert_yaxis()
    axes.set_xlabel("GB above start-up, at the peak")
    axes.legend(ncols=3, fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.02))
    return figure


def time_figure(plans):
    """Seconds of a step against the number of weights, on logarithmic axes.

    Args:
        plans: iterable of `Plan`s whose seconds are known.

    Returns:
        A matplotlib `Figure`.
    """
    plans = sorted((plan for plan in plans if plan.seconds_per_step is not None), key=lambda plan: plan.parameters)
    if not plans:
        raise ValueError("Of none of these plans it is known how long a step takes: `calibrate` measures this machine.")
    figure, axes = _axes(3.5)
    axes.loglog([plan.parameters for plan in plans], [plan.seconds_per_step for plan in plans], "o-", color=_COLOURS[0])
    axes.set_xlabel("weights")
    axes.set_ylabel("seconds a step")
    axes.grid(alpha=0.3)
    return figure


def _axes(height):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, height), layout="constrained")
    return figure, figure.subplots()
