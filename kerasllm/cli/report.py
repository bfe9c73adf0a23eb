"""What the commands print: stages as they begin, and tables of figures."""

import sys

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

console = Console(highlight=False)

_SCORES = (
    ("loss", "loss, nats per token"),
    ("perplexity", "perplexity per token"),
    ("word_perplexity", "perplexity per word"),
    ("bits_per_byte", "bits per byte"),
    ("gzip_bits_per_byte", "bits per byte of gzip -9"),
)
_TRANSLATION_SCORES = (("bleu", "BLEU"), ("chrf", "chrF2"), ("ter", "TER (less is better)"))


def stage(text):
    """Says what happens next."""
    console.print(f"[bold cyan]·[/] {escape(text)}", soft_wrap=True)


def fit_verbosity():
    """Keras' moving bar on a terminal, a line per epoch anywhere else."""
    return 1 if sys.stdout.isatty() else 2


def table(title, rows):
    """Prints a table of two columns.

    Args:
        title: str.
        rows: iterable of (what, figure), both str.
    """
    grid = Table(title=escape(title), title_justify="left", title_style="bold", show_header=False)
    grid.add_column(overflow="fold")
    grid.add_column(justify="right", overflow="fold")
    for what, figure in rows:
        grid.add_row(what, figure)
    console.print(grid)


def score_rows(figures):
    """Rows for `table` of the scores in a dict, those that are known, and what they were measured on."""
    if "sentences" in figures:
        for name, label in _TRANSLATION_SCORES:
            yield label, f"{figures[name]['score']:.2f}"
            yield "", figures[name]["signature"]
        yield "measured on", f"{figures['sentences']:,} sentences, {figures['num_beams']} beams"
        return
    if "accuracy" in figures:
        yield "loss, nats per hidden token", f"{figures['loss']:,.4f}"
        yield "hidden tokens named rightly", f"{figures['accuracy']:.2%}"
        yield "by naming the most frequent one", f"{figures['baseline_accuracy']:.2%}"
        yield "measured on", f"{figures['tokens']:,} hidden tokens"
        return
    for name, label in _SCORES:
        if figures.get(name) is not None:
            yield label, f"{figures[name]:,.4f}" if figures[name] < 1e6 else f"{figures[name]:.3e}"
    yield "measured on", f"{figures['tokens']:,} tokens, {figures['bytes']:,} bytes"


def run_rows(record):
    """Rows for `table` of what `kerasllm.cli.recipe.train` returns."""
    results = record["results"]
    yield "parameters", f"{record['model']['parameters']:,}"
    yield "trained on", f"{results['trained_tokens']:,} tokens in {results['seconds']:,.0f} s"
    if results["tokens_per_second"]:
        yield "training speed", f"{results['tokens_per_second']:,.0f} tokens/s"
    yield from score_rows(results)


def sample(prompt, text):
    """Prints what a model made of a prompt."""
    console.print(Panel(f"[bold]{escape(prompt)}[/]{escape(text)}", title="What it writes", title_align="left"))


def next_commands(*commands):
    """Prints what to try next, each command on a line of its own, as it can be copied."""
    console.print("\nNext:")
    for command in commands:
        console.print(f"  {command}", markup=False, soft_wrap=True)
