"""How much memory loading a checkpoint takes: of the process itself, as mapped pages of files can be dropped."""

import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kerasllm.benchmark.runner import package_environment

LAYERS = 16


def load_memory(num_bytes=10**9):
    """Writes a synthetic checkpoint of Llama's architecture and loads it in a new process, and prints peak memory.

    Args:
        num_bytes: int, about the size of the weights, which are float32; twice that much of memory is needed.

    Returns:
        A dict: checkpoint_mb, peak_mb (most anonymous memory of the loading process, less that at its start, when
        everything was imported), ratio (of the second to the first).

    Raises:
        RuntimeError: if loading fails.

    Example:

    >>> kerasllm.benchmark.load_memory(num_bytes=10**7)
    """
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder) / "checkpoint"
        _write_checkpoint(folder, num_bytes)
        size = (folder / "model.safetensors").stat().st_size / 2**20
        peak = _peak_mb(folder)
    figures = {"checkpoint_mb": size, "peak_mb": peak, "ratio": peak / size}
    print(
        f"Loading a checkpoint of {size:,.0f} MB takes {peak:,.0f} MB of memory at most: {peak / size:.3f} of its size."
    )
    return figures


def _write_checkpoint(folder, num_bytes):
    from kerasllm import huggingface
    from kerasllm.models import CausalLM, TransformerConfig
    from kerasllm.tokenizers import Tokenizer
    from kerasllm.tokenizers.training import make_byte

    # A block has 12 times the square of the width, the two tables 32 times.
    d_model = 32 * math.ceil((num_bytes / 4 / (12 * LAYERS + 32)) ** 0.5 / 32)
    sizes = {"num_layers": LAYERS, "d_model": d_model, "num_heads": d_model // 32, "dff": 8 * d_model // 3}
    config = TransformerConfig.preset("llama", **sizes, vocab_size=16 * d_model)
    huggingface.save(CausalLM(config), Tokenizer(make_byte(300, ())), folder)


def _peak_mb(folder):
    """The most anonymous memory that loading adds, looked at from outside."""
    command = [sys.executable, "-m", "kerasllm.benchmark.loading", str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=package_environment()) as process:
        process.stdout.readline()  # ready
        start = peak = _anonymous_mb(process.pid)
        process.stdin.write("load\n")
        process.stdin.flush()
        while process.poll() is None:
            peak = max(peak, _anonymous_mb(process.pid))
            time.sleep(0.002)
    if process.returncode:
        raise RuntimeError(f"The loading process ended with status {process.returncode}.")
    return peak - start


def _anonymous_mb(pid):
    """What a process holds besides pages of files, in MB; 0 when it has ended."""
    with open(f"/proc/{pid}/status") as file:
        lines = [line for line in file if line.startswith("RssAnon")]
    return int(lines[0].split()[1]) / 2**10 if lines else 0.0


def main(folder):
    import keras

    from kerasllm import huggingface

    keras.ops.matmul(keras.ops.ones((64, 64)), keras.ops.ones((64, 64)))
    print("ready", flush=True)
    sys.stdin.readline()
    huggingface.load(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
