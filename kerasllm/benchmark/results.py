"""What the benchmarks show: a table, a bar chart and JSON."""

import importlib.metadata
import json
import platform

from rich.console import Console
from rich.table import Table

_PACKAGES = ("kerasllm", "keras", "tensorflow", "keras-hub", "torch", "transformers", "peft")


def show(suite, results):
    """Prints results as a table: rates, the ratio of the case's first to each, the share of the limit, peak memory.

    Args:
        suite: `Suite`.
        results: what `compare` returns of it.
    """
    rounds = max((len(row.get("rates", ())) for row in results), default=0)
    table = Table(title=f"{suite.title}: {suite.unit} a second, median of {rounds} rounds")
    for column in ("case", "program"):
        table.add_column(column, overflow="fold")
    for column in ("rate", "ratio", "of limit", "MB"):
        table.add_column(column, justify="right", no_wrap=True)
    shown = None
    for row in results:
        case, shown = "" if row["case"] == shown else row["case"], row["case"]
        if "error" in row:
            table.add_row(case, row["program"], row["error"].splitlines()[-1])
            continue
        ratio = f"{row['ratio']:.2f}" if row["ratio"] else ""
        share = f"{row['rate'] / row['limit']:.0%}" if row.get("limit") else ""
        table.add_row(case, row["program"], _number(row["rate"]), ratio, share, f"{row['peak_mb']:,.0f}")
    Console().print(table)


def save(suite, results, path):
    """Writes results into a new file, with the machine and the versions of what was measured."""
    content = {"suite": suite.title, "machine": platform.platform(), "versions": _versions(), "results": results}
    with open(path, "x", encoding="utf-8") as file:
        json.dump(content, file, indent=2)


def draw(suite, results, path):
    """Draws results as bars, with the machine's limit as a line, into a PNG."""
    from matplotlib.figure import Figure

    cases = list(dict.fromkeys(row["case"] for row in results))
    figure = Figure(figsize=(8, 1.2 + 0.35 * len(results) + 0.5 * len(cases)), layout="constrained")
    axes = figure.subplots(len(cases), 1, squeeze=False)[:, 0]
    for axis, case in zip(axes, cases, strict=True):
        rows = [row for row in results if row["case"] == case and "rate" in row][::-1]
        rates = [row["rate"] for row in rows]
        colours = ["tab:blue" if row["program"].startswith("kerasllm") else "tab:grey" for row in rows]
        bars = axis.barh([row["program"] for row in rows], rates, color=colours)
        axis.bar_label(bars, [_number(rate) for rate in rates], padding=4)
        axis.margins(x=0.15)
        axis.set_title(case, loc="left", fontsize="medium")
        axis.spines[["top", "right"]].set_visible(False)
        if rows and rows[0].get("limit"):
            axis.axvline(rows[0]["limit"], color="tab:red", linestyle="--", label="matmul peak")
            axis.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    figure.suptitle(suite.title, fontsize="large")
    axes[-1].set_xlabel(f"{suite.unit} a second")
    figure.savefig(path, dpi=120)


def _versions():
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
