"""What the benchmarks show: a table, a bar chart and JSON."""

import json
import platform

from rich.console import Console
from rich.table import Table

from kerasllm.benchmark.suites import SUITES


def show(name, results):
    """Prints the results of a suite as a table.

    Args:
        name: str, the suite's.
        results: what `compare` returns.
    """
    suite = SUITES[name]
    rounds = max((len(row.get("rates", ())) for row in results), default=0)
    table = Table(title=f"{suite.title}: {suite.unit} a second, median of {rounds} rounds")
    for column in ("case", "program"):
        table.add_column(column, no_wrap=True)
    for column in (suite.unit + "/s", "lowest", "highest", "first / it", "of the limit", "peak MB"):
        table.add_column(column, justify="right")
    for index, row in enumerate(results):
        name = row["case"] if not index or results[index - 1]["case"] != row["case"] else ""
        if "error" in row:
            table.add_row(name, row["program"], row["error"].splitlines()[-1])
            continue
        figures = [row["rate"], min(row["rates"]), max(row["rates"])]
        share = f"{row['rate'] / row['limit']:.0%}" if row.get("limit") else ""
        table.add_row(
            name, row["program"], *map(_number, figures), f"{row['ratio']:.2f}", share, f"{row['peak_mb']:,.0f}"
        )
    Console().print(table)


def save(name, results, path):
    """Writes the results of a suite into a new file, with the versions of what was measured."""
    with open(path, "x", encoding="utf-8") as file:
        json.dump({"suite": name, "machine": platform.platform(), "results": results}, file, indent=2)


def draw(name, results, path):
    """Draws the results of a suite as bars, with the machine's limit as a line, into a PNG."""
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
            axis.legend(loc="lower right", frameon=False)
    figure.suptitle(SUITES[name].title, fontsize="large")
    axes[-1].set_xlabel(f"{SUITES[name].unit} a second")
    figure.savefig(path, dpi=120)


def _number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
