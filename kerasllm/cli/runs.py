"""`kerasllm runs`: the runs in a folder in a table, and their curves in one plot."""

import json
from pathlib import Path


def run(arguments):
    if arguments.plot and Path(arguments.plot).suffix.lower() != ".png":
        raise ValueError(f"--plot takes the name of a .png file, not {arguments.plot}.")
    from kerasllm import report
    from kerasllm.callbacks.run_comparison import differing_settings, plot_runs, read_runs

    runs = read_runs(arguments.folder)
    found = [{**_figures(one), "settings": differ} for one, differ in zip(runs, differing_settings(runs), strict=True)]
    if arguments.json:
        print(json.dumps(found))
    else:
        header = ("run", "task", "parameters", "tokens", "tokens/s", "val_loss", "lowest")
        report.grid(f"Runs in {arguments.folder}", header, [_cells(figures) for figures in found])
        for figures in found:
            if given := [f"{name}={value}" for name, value in figures["settings"].items() if value not in (None, [])]:
                report.stage(f"{figures['run']}: {', '.join(given)}")
    if arguments.plot:
        plot_runs(runs, arguments.plot)


def _figures(one):
    record = one.record
    return {
        "run": one.name,
        "finished": one.is_finished,
        "task": record.get("settings", {}).get("task"),
        "parameters": record.get("model", {}).get("parameters"),
        "steps": _whole(one.last("step")),
        "tokens": _whole(one.last("tokens")),
        "seconds": one.last("seconds"),
        "tokens_per_second": record.get("results", {}).get("tokens_per_second") or one.last("tokens_per_second"),
        "val_loss": one.last("val_loss"),
        "lowest_val_loss": one.best("val_loss"),
        "results": {name: v for name, v in record.get("results", {}).items() if isinstance(v, int | float)},
    }


def _whole(number):
    return None if number is None else int(number)


def _cells(figures):
    name = figures["run"] if figures["finished"] else f"{figures['run']} (unfinished, step {figures['steps'] or 0:,})"
    counts = [_shown(figures[name], ",.0f") for name in ("parameters", "tokens", "tokens_per_second")]
    losses = [_shown(figures[name], ".4f") for name in ("val_loss", "lowest_val_loss")]
    return [name, figures["task"] or "", *counts, *losses]


def _shown(value, form):
    return "" if value is None else f"{value:{form}}"
