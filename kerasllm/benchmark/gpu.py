"""What a training step takes on one GPU: kerasllm on JAX and on torch beside a GPT in plain torch, compiled there.

Each program has a process of its own, `gpu_steps.py`, one after the other, as each needs the whole GPU.
"""

import json
import os
import shutil
import subprocess
import sys
import time

from kerasllm.benchmark.runner import package_environment

MINUTES = 8
GPT_2 = {"preset": "gpt2", "vocab_size": 50304, "dropout": 0.0}
LLAMA = {"preset": "llama-7b", "num_layers": 24, "d_model": 2048, "num_heads": 16, "dff": 5504}  # 1.3B
TOY = {"preset": "gpt2", "vocab_size": 64, "num_layers": 1, "d_model": 32, "num_heads": 2, "dff": 64, "dropout": 0.0}
# The sizes of a model, its context, the rows of a batch, and whether plain torch has it too.
CASES = {
    "GPT-2 124M": (GPT_2, 1024, 64, True),
    "GPT-2 124M, context 8,192": (GPT_2, 8192, 8, True),
    "Llama 1.3B": (LLAMA, 2048, 8, False),
}
TOY_CASES = {"toy": (TOY, 32, 2, True)}
PROGRAMS = {
    "kerasllm on JAX": ("kerasllm", "jax"),
    "kerasllm on torch": ("kerasllm", "torch"),
    "plain torch": ("plain_torch", "torch"),
}


def gpu_steps(toy=None, minutes=MINUTES):
    """Trains on random tokens in bfloat16, and prints what each program reaches.

    Args:
        toy: bool or None. A small model, as a CPU can train it; None where there is no GPU.
        minutes: float, after which what has not begun is left out.

    Returns:
        list of dict, one for each program of a case: case, program, tokens_per_second, mfu (the share of the speed of a
        large bare product in bfloat16) and peak_mb; or its last words under "error".

    Example:

    >>> kerasllm.benchmark.gpu.gpu_steps(toy=True)
    """
    toy = shutil.which("nvidia-smi") is None if toy is None else toy
    end, rows = time.monotonic() + 60 * minutes, []
    for case, (sizes, context, batch_size, has_plain) in (TOY_CASES if toy else CASES).items():
        for program, (function, backend) in PROGRAMS.items():
            if function == "plain_torch" and not has_plain:
                continue
            settings = {"sizes": sizes, "context": context, "batch_size": batch_size, "steps": 2 if toy else 10}
            row = {"case": case, "program": program, **_measured(function, backend, settings, end - time.monotonic())}
            rows.append(row)
            print(_told(row), flush=True)
    return rows


def _measured(function, backend, settings, seconds):
    if seconds <= 0:
        return {"error": "there was no time left"}
    environment = {**package_environment(), "KERAS_BACKEND": backend, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    environment["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    command = [sys.executable, "-m", "kerasllm.benchmark.gpu_steps", function, json.dumps(settings)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"error": f"it had not ended after {seconds:.0f} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]}
    return json.loads(done.stdout.rpartition("ANSWER ")[2])


def _told(row):
    name = f"{row['case']}, {row['program']}"
    if "error" in row:
        return f"{name}: {row['error']}"
    speed = f"{row['tokens_per_second']:,.0f} tokens/s, {row['mfu']:.1%} of a bare product"
    return f"{name}: {speed}, {row['peak_mb']:,.0f} MB"
