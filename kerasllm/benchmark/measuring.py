"""The inside of a measured process: prepares a program, then measures it each time a line comes in.

Answers are lines of JSON that begin with ANSWER, as libraries print what they like.
"""

import json
import os
import sys
import time

from kerasllm.benchmark import edge, first_answer, paligemma, peers, programs, real, served, tuning
from kerasllm.benchmark.corpus import peak_mb

SHORTEST_TURN = 0.5  # seconds


def main(function, settings):
    _start_framework(function)
    start_mb = peak_mb()
    work, units = find(function)(**json.loads(settings))
    answer({"ready": True})
    for _ in sys.stdin:
        rate = work() if units is None else _rate(work, units)
        answer({"rate": rate, "peak_mb": peak_mb() - start_mb})


def _rate(work, units):
    """Units a second. What takes milliseconds is repeated, as a clock and a scheduler are not that exact."""
    start, count, seconds = time.perf_counter(), 0, 0.0
    while seconds < SHORTEST_TURN:
        work()
        count, seconds = count + 1, time.perf_counter() - start
    return count * units / seconds


def answer(content):
    print("ANSWER", json.dumps(content), flush=True)


def find(function):
    for module in (programs, peers, real, served, edge, first_answer, paligemma):
        if hasattr(module, function):
            return getattr(module, function)
    return getattr(tuning, function)


def _start_framework(function):
    """What every program of a framework takes, so that it can be left out of its memory."""
    if function.endswith("_transformers"):
        import torch

        torch.ones((64, 64)) @ torch.ones((64, 64))
    else:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import keras

        keras.ops.matmul(keras.ops.ones((64, 64)), keras.ops.ones((64, 64)))


if __name__ == "__main__":
    main(*sys.argv[1:])
