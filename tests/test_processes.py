"""Runs of several processes, which are cut off or die, and go on with as many others."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from many_devices import free_port, on_eight_devices, variables_for

import kerasllm


@pytest.mark.scale
def test_a_run_goes_on_with_other_devices_and_processes(tmp_path):
    fsdp, both, one = json.dumps({"fsdp": 8}), json.dumps({"tensor": 2, "fsdp": 4}), "null"
    (whole,) = on_eight_devices("resumed", tmp_path / "whole", fsdp)
    for number, (processes, meshes) in enumerate([(1, (fsdp, both)), (1, (both, one)), (2, (both, fsdp))]):
        lines = on_eight_devices("resumed", tmp_path / str(number), *meshes, processes=processes)
        assert len(lines) == processes
        for found in lines:
            assert found["start"] == 3
            assert found["loss"] == pytest.approx(whole["loss"], abs=1e-5)


@pytest.mark.scale
def test_processes_that_die_or_are_stopped_lose_nothing(tmp_path):
    """Runs of the command line over four devices: of four processes, of which one is killed or told to stop, then of
    two or one or four."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{n} foxes and {n * n % 89} owls see {n * 7 % 31} mice.\n" for n in range(2000)))
    kills = int(os.environ.get("KERASLLM_KILLS", "1"))
    sizes = {"num-layers": 1, "d-model": 32, "num-heads": 4, "dff": 64, "context": 32, "batch-size": 8}
    settings = {**sizes, "tokenizer": "char", "steps": 24 * (kills + 1), "save-every": 4, "data": text}
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert ended(trained(4, [*flags, "--out", whole])) == [0] * 4
    draw, arguments = random.Random(0), [*flags, "--out", cut]
    for number in range(kills):
        processes, seen = trained(4, arguments), newest(cut)
        while newest(cut) <= seen + 4 and all(process.poll() is None for process in processes):
            time.sleep(0.05)
        time.sleep(draw.random())
        one, sent = draw.choice(processes), draw.choice([signal.SIGKILL, signal.SIGTERM])
        one.send_signal(sent)
        began = time.monotonic()
        codes = ended(processes)
        assert time.monotonic() - began < 60
        if sent == signal.SIGTERM:
            assert codes == [143] * 4, number
        else:  # the others end by themselves, or JAX aborts them when it misses the first
            assert codes.count(-signal.SIGKILL) == 1 and set(codes) <= {-signal.SIGKILL, -signal.SIGABRT, 2}, codes
        arguments = ["--resume", cut]
    assert ended(trained(2, arguments)) == [0, 0]
    assert log_of(cut) == log_of(whole)
    weights, others = (kerasllm.load(folder)[0].get_weights() for folder in (whole, cut))
    assert all((a == b).all() for a, b in zip(weights, others, strict=True))


def trained(count, arguments):
    """`kerasllm train` in so many processes, which have four devices together."""
    pytest.importorskip("jax")
    common = [sys.executable, "-m", "kerasllm", "train", *map(str, arguments), "--coordinator"]
    common += [f"127.0.0.1:{free_port()}", "--processes", str(count), "--process"]
    nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": variables_for(4 // count)}
    return [subprocess.Popen([*common, str(number)], **nowhere) for number in range(count)]


def ended(processes):
    return [process.wait(timeout=600) for process in processes]


def newest(folder):
    """The last step that is saved."""
    return max((int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*")), default=0)


def log_of(folder):
    with open(folder / "log.csv", newline="") as file:
        return [(row["step"], row["loss"], row["val_loss"]) for row in csv.DictReader(file)]
