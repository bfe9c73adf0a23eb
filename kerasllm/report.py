"""What runs and commands print: stages as they begin, and tables of figures."""

import sys

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

console = Console(highlight=False)


def stage(text):
    """Says what happens next."""
    console.print(f"[bold cyan]·[/] {escape(text)}", soft_wrap=True)


def fit_verbosity():
    """Keras' moving bar on a terminal, a line per epoch anywhere else; nothing where the console is quiet."""
    return 0 if console.quiet else 1 if sys.stdout.isatty() else 2


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


def grid(title, header, rows):
    """Prints a table of several columns.

    Args:
        title: str.
        header: names of the columns, str; the first is that of what the rows are about.
        rows: iterable of as many str each.
    """
    found = Table(title=escape(title), title_justify="left", title_style="bold")
    for number, name in enumerate(header):
        found.add_column(name, overflow="fold", justify="right" if number else "left")
    for row in rows:
        found.add_row(*map(escape, row))
    console.print(found)


def sample(prompt, text):
    """Prints what a model made of a prompt."""
    console.print(Panel(f"[bold]{escape(prompt)}[/]{escape(text)}", title="What it writes", title_align="left"))


def next_commands(*commands):
    """Prints what to try next, each command on a line of its own, as it can be copied."""
    console.print("\nNext:")
    for command in commands:
        console.print(f"  {command}", markup=False, soft_wrap=True)
