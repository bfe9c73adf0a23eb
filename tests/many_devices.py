"""Processes that have several devices: JAX sees a CPU as so many."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

# Half of the time of these tests is XLA's, which compiles for speed that they do not need.
QUICKLY_COMPILED = "--xla_llvm_disable_expensive_passes=true --xla_backend_optimization_level=0"


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def variables_for(devices):
    """Environment variables with which JAX sees a CPU as so many devices."""
    flags = f"--xla_force_host_platform_device_count={devices} {QUICKLY_COMPILED}"
    return {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def on_eight_devices(*arguments, processes=1):
    """The lines of JSON that a script prints on the JAX backend, in processes that have eight devices together."""
    pytest.importorskip("jax")
    port = free_port()
    script = Path(__file__).with_name("on_eight_devices.py")
    started = [
        subprocess.Popen(
            [sys.executable, script, str(number), str(processes), str(port), *arguments],
            **{
                "env": variables_for(8 // processes),
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                "text": True,
            },
        )
        for number in range(processes)
    ]
    lines = []
    for process in started:
        printed, complaints = process.communicate()
        assert not process.returncode, complaints[-3000:]
        lines += [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    return lines
