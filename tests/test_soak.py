"""A training process is killed at random moments, during saves too, and its run ends as one that was never killed.

`KERASLLM_KILLS=50 pytest -s -n0 -m soak tests/test_soak.py` makes as many kills as it is told, and prints each.
"""

import multiprocessing
import os
import random
import time

import pytest

from kerasllm.cli import main

KILLS = int(os.environ.get("KERASLLM_KILLS", 3))
SETTINGS = {
    "--layers": 1, "--d-model": 16, "--heads": 2, "--context": 16, "--batch-size": 4, "--tokenizer": "char",
    "--dropout": 0.2, "--ema": 0.9, "--steps": 60, "--save-every": 1, "--precision": "float32", "--seed": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def processes():
    """Where processes come from that have imported everything before they begin: a server that forks itself."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kerasllm.recipe"])
    return context


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    words = random.Random(0).choices(["the", "cat", "dog", "saw", "a", "tree", "and", "slept."], k=800)
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text(" ".join(words), encoding="utf-8")
    return path


def begin(processes, corpus, out):
    """Starts a process that begins a run, or goes on with it."""
    settings = [str(part) for pair in SETTINGS.items() for part in pair]
    new = ["train", "--data", str(corpus), "--out", str(out), *settings]
    process = processes.Process(target=main, args=[["train", "--resume", str(out)] if out.exists() else new])
    process.start()
    return process


def kill(process, out, draw):
    """Kills a process at a random moment; returns which, or None if it ended before."""
    moment = draw.choice(["anywhere", "training", "saving", "saving"])
    log = out / "log.csv"
    before = log.stat().st_mtime_ns if log.exists() else None

    def trains():
        return log.exists() and log.stat().st_mtime_ns != before

    def saves():
        return trains() and any((out / "checkpoints").glob(".step-*"))

    if moment == "anywhere":
        time.sleep(draw.uniform(0, 10))
    else:
        while process.is_alive() and not trains():
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 1.5))
        while process.is_alive() and moment == "saving" and not saves():
            pass
        time.sleep(draw.uniform(0, 0.01))
    was_alive = process.is_alive()
    process.kill()
    process.join()
    return moment if was_alive else None


def result_of(out):
    """The weights, and the columns of the log that do not tell the time."""
    lines = [line.split(",") for line in (out / "log.csv").read_text().splitlines()]
    columns = [i for i, name in enumerate(lines[0]) if name not in ("seconds", "tokens_per_second")]
    return (out / "model.safetensors").read_bytes(), [[line[i] for i in columns] for line in lines]


@pytest.mark.soak
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(processes, corpus, tmp_path):
    begin(processes, corpus, tmp_path / "whole").join()
    expected = result_of(tmp_path / "whole")
    draw, kills, number = random.Random(1), 0, 0
    while True:
        out = tmp_path / f"killed-{number}"
        process = begin(processes, corpus, out)
        moment = kill(process, out, draw) if kills < KILLS else process.join()
        if moment:
            kills += 1
            steps = sorted(path.name for path in (out / "checkpoints").glob("*step-*"))
            print(f"kill {kills} of {KILLS}, {moment}: {', '.join(steps) or 'nothing saved yet'}")
        elif (out / "manifest.json").is_file():
            assert result_of(out) == expected
            print(f"run {number} ended as the one that was never killed")
            number += 1
            if kills >= KILLS:
                break
        else:
            pytest.fail("a run ended by itself before it was finished")
