"""The progress bar of everything that takes a while outside of `fit`, whose bar is Keras'."""

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn


def progress_bar(show=True, transient=False):
    """A bar on standard error for each thing that is counted: how much of it is done, how fast, and for how long.

    Args:
        show: bool.
        transient: bool, whether it disappears when the work is done; then there is none where it could not move.

    Returns:
        A `rich.progress.Progress`, a context manager, whose `add_task` takes a description, a total or None, and
        `unit`, the name of what is counted.

    Example:

    >>> with progress_bar() as bar:
    ...     task = bar.add_task("scoring", total=None, unit="tokens")
    ...     bar.update(task, completed=512)
    """
    console = Console(stderr=True, force_jupyter=False)  # in notebooks rich asks for ipywidgets
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        _Count(),
        TimeElapsedColumn(),
        console=console,
        transient=transient,
        disable=not show or (transient and not console.is_terminal),
    )


class _Count(ProgressColumn):
    """What is done of a task, and how much of it in a second."""

    def render(self, task):
        unit, speed = task.fields["unit"], task.completed / max(task.elapsed or 0, 1e-9)
        return f"{int(task.completed):,} {unit}, {speed:,.0f} {unit}/s"
