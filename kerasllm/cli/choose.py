"""`kerasllm choose`: of several models the one to take, by what they do on the user's own sample."""

import json
from pathlib import Path

from kerasllm.cli.startup import start_keras


def run(arguments):
    if arguments.plot and Path(arguments.plot).suffix.lower() != ".png":
        raise ValueError(f"--plot takes the name of a .png file, not {arguments.plot}.")
    start_keras()
    from kerasllm import report, selection
    from kerasllm.planning.words import bytes_of

    found = selection.choose(
        arguments.candidates,
        arguments.task,
        arguments.data,
        columns=arguments.field,
        memory=bytes_of(arguments.memory) if arguments.memory else None,
        latency=arguments.latency_ms and arguments.latency_ms / 1000,
    )
    if arguments.plot:
        selection.selection_figure(found).savefig(arguments.plot, dpi=150)
    if arguments.json:
        print(json.dumps(found.to_dict()))
        return
    figures = (found.measure.name, "on", f"ms {found.measure.answer}", "first", "memory")
    title, header = f"For {arguments.task}, on {found.items:,} items", ("model", *figures, "licence", "languages", "")
    report.grid(title, header, map(_cells, found.candidates))
    report.stage(found.why)
    best = ", ".join(one.name for one in found.frontier())
    report.stage(f"No other is both better and smaller than: {best}")


def _cells(one):
    from kerasllm.planning.words import gigabytes

    return (
        one.name,
        "" if one.figure is None else f"{one.figure:.4g}",
        f"{one.items:,}" if one.items else "",
        "" if one.seconds is None else f"{1000 * one.seconds:,.1f}",
        "" if one.first_seconds is None else f"{1000 * one.first_seconds:,.0f}",
        "" if one.memory_bytes is None else gigabytes(one.memory_bytes),
        one.licence or "not stated",
        " ".join(one.languages) or "not stated",
        one.left_out or "the pick",
    )
