"""What a suite of `kerasllm bench` is made of."""

from typing import NamedTuple


class Program(NamedTuple):
    """What runs in a process of its own.

    Attributes:
        label: str, its name in tables.
        function: str, one of `programs.py` or `peers.py`.
        settings: dict of keyword arguments.
        needs: tuple of str, modules without which it is left out.
    """

    label: str
    function: str
    settings: dict
    needs: tuple = ()


class Case(NamedTuple):
    """Programs that do the same work.

    Attributes:
        name: str.
        programs: list of `Program`.
        limit: `Program` that measures what the machine can do at most, or None.
        cost: float, how much of what `limit` counts goes into a unit of the case.
        together: bool. False where memory would not hold all programs: each turn then begins in a new process.
    """

    name: str
    programs: list
    limit: Program | None = None
    cost: float = 1.0
    together: bool = True


class Suite(NamedTuple):
    """Cases that are shown in one table.

    Attributes:
        title: str.
        unit: str, what is counted each second.
        cases: list of `Case`.
    """

    title: str
    unit: str
    cases: list
