"""What checkpoints cost: time taken from training while one is written, and time until a killed run trains again."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras

from kerasllm.benchmark.programs import random_ids
from kerasllm.benchmark.runner import package_environment
from kerasllm.benchmark.suites import MODEL
from kerasllm.callbacks import Checkpoint
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.optimizers import AdamW

BATCH, CONTEXT = 16, 256


def checkpoint_cost(rounds=5, steps=3):
    """Trains with a checkpoint every so often, starts and resumes in new processes, and prints what it costs.

    Args:
        rounds: int, how many starts of either kind to time, and four times as many checkpoints.
        steps: int, training steps that must be enough to write a checkpoint; as many follow to compare with.

    Returns:
        A dict: save_seconds (that training takes longer for a checkpoint; a median), share (of training time at one
        checkpoint a minute), quarter_seconds (what every fourth checkpoint takes or more), fresh_seconds and
        resume_seconds (from the start of a process to the end of its first step; medians), ratio (of the second to the
        first).

    Example:

    >>> kerasllm.benchmark.checkpointing.checkpoint_cost(rounds=3)
    """
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        clock, every = _Clock(), 2 * steps
        of_epoch = every * (4 * rounds + 1) + 1
        _train(folder / "saved", clock, of_epoch, every_steps=every)
        _, save_seconds, quarter = statistics.quantiles(clock.costs(every), n=4)
        starts = [[_time_to_first_step(folder / name, of_epoch) for name in ("new", "saved")] for _ in range(rounds)]
    fresh, resumed = (statistics.median(times) for times in zip(*starts, strict=True))
    figures = {
        "save_seconds": save_seconds,
        "share": save_seconds / 60,
        "quarter_seconds": quarter,
        "fresh_seconds": fresh,
        "resume_seconds": resumed,
        "ratio": resumed / fresh,
    }
    print(f"A checkpoint costs {save_seconds:.2f} s of training, and every fourth {quarter:.2f} s or more.")
    print(f"At one a minute this is {save_seconds / 60:.2%} of the time, or {quarter / 60:.2%}.")
    print(f"To the first step: {fresh:.1f} s from nothing, {resumed:.1f} s resumed, {figures['ratio']:.2f} times that.")
    return figures


class _Clock(keras.callbacks.Callback):
    """When each step began; it stands before `Checkpoint`, which saves as a step begins."""

    def __init__(self):
        super().__init__()
        self.times = []

    def on_train_batch_begin(self, batch, logs=None):
        self.times.append(time.perf_counter())

    def costs(self, every):
        """How much longer the first half of the steps between two checkpoints takes than the second, for each."""
        marks = self.times[every :: every // 2]
        return [2 * marks[i + 1] - marks[i] - marks[i + 2] for i in range(0, len(marks) - 2, 2)]


class _Tell(keras.callbacks.Callback):
    """Says that the first step is done, and waits for the end of the process."""

    WORD = "trained"

    def on_train_batch_end(self, batch, logs=None):
        print(self.WORD, flush=True)
        sys.stdin.readline()


def _train(folder, callback, steps_per_epoch, every_steps=None):
    """Trains the 6 x 384 model, from where the checkpoints in the folder say if there are any."""
    import tensorflow as tf

    model = CausalLM(TransformerConfig.preset("gpt2", **MODEL, max_length=CONTEXT, dropout=0.0))
    model.compile(AdamW(1e-3))
    checkpoint = Checkpoint(folder, every_steps=every_steps)
    is_resumed = checkpoint.restore(model) > 0
    ids = random_ids(BATCH, CONTEXT + 1, MODEL["vocab_size"])
    dataset = tf.data.Dataset.from_tensors((ids[:, :-1], ids[:, 1:])).repeat()
    length = {"epochs": 2 if is_resumed else 1, "steps_per_epoch": steps_per_epoch}
    model.fit(dataset, **length, shuffle=False, callbacks=[callback, checkpoint], verbose=0)


def _time_to_first_step(folder, steps_per_epoch):
    command = [sys.executable, "-m", "kerasllm.benchmark.checkpointing", str(folder), str(steps_per_epoch)]
    pipe, begin = subprocess.PIPE, time.perf_counter()
    quiet = {"stderr": subprocess.DEVNULL, "env": package_environment()}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, **quiet) as process:
        said = process.stdout.readline()
        seconds = time.perf_counter() - begin
        process.kill()
    if said.strip() != _Tell.WORD:
        raise RuntimeError(f"The process ended before its first step, with status {process.returncode}.")
    return seconds


if __name__ == "__main__":
    _train(sys.argv[1], _Tell(), int(sys.argv[2]))
