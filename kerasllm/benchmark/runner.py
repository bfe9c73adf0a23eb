"""Runs programs side by side: each in its own process, one at a time, round after round.

All processes of a case are started and warmed up first. Then every round gives each program one turn, in changing
order, so that a machine that slows down slows all of them. They are compared round by round.
"""

import contextlib
import importlib.util
import json
import operator
import os
import statistics
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from kerasllm.benchmark.suites import SUITES


def compare(suite, rounds=5):
    """Measures the programs of a suite side by side.

    Args:
        suite: str, a name in `suites.SUITES`, or a `Suite`.
        rounds: int, turns of each program.

    Returns:
        list of dict, one for each program: case, program, rate (median, in the suite's unit per second), rates (of
        each round), ratio (that of the case's first program over this one: the median of the rounds' ratios, which
        holds on a machine whose speed drifts), peak_mb (most memory above the framework's own start-up), and limit (the
        rate that the machine allows at most) where the case has one. A program that ended early has its last words
        under "error" in place of figures.

    Raises:
        ValueError: for an unknown suite, or no rounds.

    Example:

    >>> results = kerasllm.benchmark.compare("generate", rounds=3)
    """
    if isinstance(suite, str):
        if suite not in SUITES:
            raise ValueError(f"There is no suite {suite!r}; choose one of {', '.join(SUITES)}.")
        suite = SUITES[suite]
    if rounds < 1:
        raise ValueError(f"rounds={rounds} is not possible; give 1 or more.")
    console = Console(stderr=True)
    results = []
    for case in suite.cases:
        with console.status(f"{suite.title}: {case.name}"):
            results += _run_case(case, rounds)
    return results


def _run_case(case, rounds):
    programs = [p for p in [*case.programs, case.limit] if p and all(map(_is_installed, p.needs))]
    errors, answers = {}, {program.label: [] for program in programs}
    take_turns = _turns_together if case.together else _turns_alone
    for label, answer in take_turns(programs, rounds, errors):
        answers[label].append(answer)
    rows = [_row(case, program.label, answers[program.label], errors) for program in programs]
    for row in rows[1:]:
        row["ratio"] = None
        if "rates" in rows[0] and "rates" in row:
            row["ratio"] = statistics.median(map(operator.truediv, rows[0]["rates"], row["rates"]))
    if case.limit:
        limit = rows.pop()
        for row in rows:
            row["limit"] = limit["rate"] / case.cost if "rate" in limit else None
    return rows


def _order(programs, index):
    return programs[:: 1 if index % 2 == 0 else -1]


def _turns_together(programs, rounds, errors):
    """Pairs (label, answer), from processes that all live to the end; of those that end early, their last words."""
    workers = {}
    try:
        for program in programs:  # one after the other: a warm-up would slow its neighbours
            with _noted(errors, program.label):
                workers[program.label] = Worker(program)
        for index in range(rounds):
            for program in _order(programs, index):
                if program.label not in errors:
                    with _noted(errors, program.label):
                        yield program.label, workers[program.label].measure()
    finally:
        for worker in workers.values():
            worker.close()


def _turns_alone(programs, rounds, errors):
    """The same from a new process for each turn."""
    for index in range(rounds):
        for program in _order(programs, index):
            if program.label not in errors:
                with _noted(errors, program.label):
                    worker = Worker(program)
                    try:
                        yield program.label, worker.measure()
                    finally:
                        worker.close()


@contextlib.contextmanager
def _noted(errors, label):
    """Lets the others go on when a program ends early, for want of memory perhaps."""
    try:
        yield
    except RuntimeError as error:
        errors[label] = str(error)


def _row(case, label, answers, errors):
    row = {"case": case.name, "program": label}
    if label in errors:
        return {**row, "error": errors[label]}
    rates = [answer["rate"] for answer in answers]
    return {**row, "rate": statistics.median(rates), "rates": rates, "peak_mb": answers[-1]["peak_mb"], "ratio": 1.0}


def _is_installed(module):
    return importlib.util.find_spec(module) is not None


def package_environment():
    """Environment variables of a process that imports the package by name, also where it is not installed."""
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": path}


class Worker:
    """A process that has prepared a program and measures it whenever it is asked.

    Args:
        program: `Program`.

    Raises:
        RuntimeError: if the process ends before it answers; the message ends with what it wrote.
    """

    def __init__(self, program):
        self._name = f"{program.function}({program.settings})"
        command = [sys.executable, "-m", "kerasllm.benchmark.measuring", program.function, json.dumps(program.settings)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, env=package_environment(), text=True
        )
        self._answer()  # ready

    def measure(self):
        """A dict: rate, in units per second, and peak_mb so far."""
        with contextlib.suppress(BrokenPipeError):  # it has ended, and what it wrote says why
            print("measure", file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self):
        output = []
        for line in self._process.stdout:
            if line.startswith("ANSWER "):
                return json.loads(line.removeprefix("ANSWER "))
            output.append(line)
        status = self._process.wait()
        raise RuntimeError(f"{self._name} ended with status {status}. {''.join(output[-20:])}".rstrip())

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
