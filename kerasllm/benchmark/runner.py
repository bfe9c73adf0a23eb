"""Runs programs side by side: each in its own process, one at a time, round after round.

All processes are started and warmed up first. Then every round gives each program one turn, in changing order, so that
a machine that slows down slows all of them. Medians over the rounds are compared.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

# The turns of each task: (case, label, program, settings). Within a case the first is what the others are held against.
_DTYPES = ("float32", "mixed_bfloat16")
TASKS = {
    "train": [
        (dtype, label, program, {"dtype": dtype, **settings})
        for dtype in _DTYPES
        for label, program, settings in [
            ("kerasllm", "train_kerasllm", {}),
            ("KerasHub, graph", "train_keras_hub", {"jit_compile": False}),
            ("KerasHub, XLA", "train_keras_hub", {"jit_compile": True}),
        ]
    ],
    "generate": [
        (f"batch {batch_size}", label, program, {"batch_size": batch_size})
        for batch_size in (1, 8)
        for label, program in [
            ("kerasllm", "generate_kerasllm"),
            ("its SavedModel", "generate_served"),
            ("KerasHub, XLA", "generate_keras_hub"),
        ]
    ],
}


def compare(task, rounds=5, settings=None):
    """Measures a task and prints a table of tokens per second.

    Args:
        task: "train" or "generate" (see `programs.py` for the sizes).
        rounds: Turns of each program.
        settings: dict of further keyword arguments for every program, such as {"steps": 4} for a quick look.

    Returns:
        list of dict: case, program, tokens_per_second (median), ratio (kerasllm's median over this one's), rounds.

    Raises:
        ValueError: An unknown task, or no rounds.
        RuntimeError: A program failed; the message ends with what it wrote.

    Example:

    >>> results = kerasllm.benchmark.compare("generate", rounds=3)
    """
    if task not in TASKS:
        raise ValueError(f"There is no task {task!r}; choose one of {', '.join(TASKS)}.")
    if rounds < 1:
        raise ValueError(f"rounds={rounds} is not possible; give 1 or more.")
    results = []
    for case in dict.fromkeys(case for case, *_ in TASKS[task]):
        turns = [turn for turn in TASKS[task] if turn[0] == case]
        results += _run_case(
            case, [(label, name, {**own, **(settings or {})}) for _, label, name, own in turns], rounds
        )
    _print(task, results)
    return results


def _run_case(case, turns, rounds):
    workers = {}
    try:
        for label, program, settings in turns:  # one after the other: a warm-up would slow its neighbours
            workers[label] = Worker(program, settings)
        speeds = {label: [] for label in workers}
        for index in range(rounds):
            for label in list(workers)[:: 1 if index % 2 == 0 else -1]:
                speeds[label].append(workers[label].measure())
    finally:
        for worker in workers.values():
            worker.close()
    medians = {label: statistics.median(values) for label, values in speeds.items()}
    ours = medians[turns[0][0]]
    return [
        {
            "case": case,
            "program": label,
            "tokens_per_second": medians[label],
            "ratio": ours / medians[label],
            "rounds": speeds[label],
        }
        for label in workers
    ]


class Worker:
    """A process that has prepared a program and measures it whenever it is asked."""

    def __init__(self, program, settings):
        self._label = f"{program}({settings})"
        # Importing the package by name needs its folder on the path, also where it is not installed.
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-m", "kerasllm.benchmark.programs", program, json.dumps(settings)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, text=True)
        self._answer()  # ready

    def measure(self):
        print("measure", file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self):
        written = []
        for line in self._process.stdout:
            if line.startswith("ANSWER "):
                return json.loads(line.removeprefix("ANSWER "))
            written.append(line)
        raise RuntimeError(f"{self._label} ended with status {self._process.wait()}. {''.join(written[-20:])}".rstrip())

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _print(task, results):
    table = Table(title=f"{task}: tokens per second, median of {len(results[0]['rounds'])} rounds")
    for column in ("case", "program"):
        table.add_column(column, no_wrap=True)
    for column in ("tokens/s", "lowest", "highest", "kerasllm / it"):
        table.add_column(column, justify="right")
    for row in results:
        figures = [row["tokens_per_second"], min(row["rounds"]), max(row["rounds"])]
        ratio = "" if row["program"] == "kerasllm" else f"{row['ratio']:.2f} x"
        table.add_row(row["case"], row["program"], *(f"{figure:,.0f}" for figure in figures), ratio)
    Console().print(table)
