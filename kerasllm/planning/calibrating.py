"""`calibrate`: measures this machine once, in processes of their own."""

import dataclasses
import datetime
import json
import subprocess
import sys

import numpy as np

from kerasllm import backend
from kerasllm.models import TransformerConfig
from kerasllm.models.memory import TrainingMemory
from kerasllm.planning.calibration import Calibration, this_machine
from kerasllm.planning.counting import passes_of_step, seconds_without_passes
from kerasllm.planning.generation_times import GenerationTimes, GenerationWork
from kerasllm.planning.probing import ANSWER

_SMALL = {"vocab_size": 256, "d_model": 64, "num_heads": 2, "dff": 256, "max_length": 32}
_MIDDLE = {
    **{"vocab_size": 512, "num_layers": 4, "d_model": 256, "num_heads": 4, "dff": 1024, "max_length": 256},
    **{"norm": "rms", "activation": "relu_squared", "use_bias": False},
}
_WIDE = {**_MIDDLE, "vocab_size": 16384, "num_layers": 1}  # of which logits are the most
_LONG = {**_MIDDLE, "max_length": 2048}  # of which attention is
_GELU = {**_MIDDLE, "norm": "layer", "activation": "gelu_tanh", "use_bias": True, "positions": "learned"}
_BIG = {**_MIDDLE, "num_layers": 6, "d_model": 768, "num_heads": 12, "dff": 3072}
_FEW_LAYERS, _MANY_LAYERS, _ROWS = 1, 8, 16
_PRODUCTS = [(512, 128, 128), (2048, 256, 256), (4096, 256, 1024), (4096, 512, 2048), (4096, 1024, 4096)]


def calibrate(folder=None, say=None):
    """Measures what plans need to know of this machine, and keeps it in the user's cache folder.

    It takes two minutes or three, in which nothing else should run: products of matrices by size and dtype, passes over
    memory, and a few steps of small models, of which what a process takes by itself is learned, what an allocator
    wastes, and how long that lasts which is no product; and a few texts that such models write.

    Args:
        folder: path to keep it in; None means KERASLLM_CACHE or the user's cache folder.
        say: function of a str, which is told what is being measured, or None.

    Returns:
        A `Calibration`.

    Raises:
        RuntimeError: where Linux does not say what memory a process takes, or a measured process fails.

    Example:
        >>> kerasllm.planning.calibrate()  # doctest: +SKIP
    """
    say = say or (lambda text: None)
    if not backend.IS_TENSORFLOW or not backend.on_cpu():
        raise RuntimeError("What is calibrated is TensorFlow on a CPU; of other devices plans take the data sheet.")
    dtypes = ["float32", *(["bfloat16"] if backend.fast_bfloat16_device() else [])]
    say("What a training process takes by itself")
    few, many = (_measured([_run({**_SMALL, "num_layers": layers}, 2)])[0] for layers in (_FEW_LAYERS, _MANY_LAYERS))
    (middle,) = _measured([_run(_MIDDLE, _ROWS)])
    say("How fast it multiplies, and trains")
    (speeds,) = _measured([("speeds", {"dtypes": dtypes, "sizes": _PRODUCTS})])
    layer_bytes = (many.unexplained - few.unexplained) / (_MANY_LAYERS - _FEW_LAYERS)
    fixed = few.unexplained - layer_bytes * _FEW_LAYERS
    slack = (middle.bytes - fixed - layer_bytes * _MIDDLE["num_layers"]) / middle.counted
    layer_seconds = max((many.seconds - few.seconds) / (_MANY_LAYERS - _FEW_LAYERS), 0.0)
    known = Calibration(
        machine=this_machine(),
        measured=datetime.date.today().isoformat(),
        fixed_bytes=fixed,
        layer_bytes=layer_bytes,
        slack=max(slack, 1.0),
        step_seconds=max(few.seconds - layer_seconds * _FEW_LAYERS, 0.0),
        layer_seconds=layer_seconds,
        **speeds,
    )
    for dtype in dtypes:
        known.pass_seconds[dtype] = _seconds_of_passes(known, "float32" if dtype == "float32" else f"mixed_{dtype}")
    for dtype in dtypes:
        say(f"How fast it writes, in {dtype}")
        known.generation[dtype] = dataclasses.asdict(_generation_times(dtype))
    known.save(folder)
    return known


def _seconds_of_passes(known, precision):
    """Seconds for each of what steps pass over, so that as many runs take as long as they were seen to."""
    sizes = (_MIDDLE, _ROWS), (_LONG, 2), (_GELU, _ROWS), (_WIDE, _ROWS // 2)
    runs = _measured([_run(*size, precision) for size in sizes])
    passes = [passes_of_step(run.training) for run in runs]
    left = [run.seconds - seconds_without_passes(run.training, known) for run in runs]
    of_each = np.linalg.solve([list(amounts.values()) for amounts in passes], left)
    return {name: max(float(seconds), 0.0) for name, seconds in zip(passes[0], of_each, strict=True)}


def _generation_times(dtype):
    sizes = [(fields, rows, 32) for fields in (_MIDDLE, _BIG) for rows in (1, 8)] + [(_LONG, 8, 1900)]
    names = "config", "batch_size", "prompt", "dtype"
    found = _measured([("generation_run", dict(zip(names, (*size, dtype), strict=True))) for size in sizes])
    works = [GenerationWork.of(TransformerConfig(**fields), *size, dtype) for fields, *size in sizes]
    *short, long = [
        (work, answer["prompt_seconds"], answer["step_seconds"]) for work, answer in zip(works, found, strict=True)
    ]
    return GenerationTimes.fitted(short, long)


@dataclasses.dataclass(frozen=True)
class _Run:
    """A measured run: what was trained, its peak in bytes above start-up, and seconds of a step."""

    training: TrainingMemory
    bytes: int
    seconds: float

    @classmethod
    def of(cls, arguments, found):
        config = TransformerConfig(**arguments["config"])
        return cls(TrainingMemory(config, arguments["batch_size"], precision=arguments["precision"]), **found)

    @property
    def counted(self):
        return sum(self.training.by_part().values())

    @property
    def unexplained(self):
        return self.bytes - self.counted


def _run(fields, batch_size, precision="float32"):
    return "training_run", {"config": fields, "batch_size": batch_size, "precision": precision}


def _measured(jobs):
    """What a process of its own finds in jobs, pairs of a function of `probing.py` and its arguments."""
    command = [sys.executable, "-m", "kerasllm.planning.probing", json.dumps(jobs)]
    process = subprocess.run(command, capture_output=True, text=True)
    found = [json.loads(line.removeprefix(ANSWER)) for line in process.stdout.splitlines() if line.startswith(ANSWER)]
    if len(found) < len(jobs):
        last = (process.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RuntimeError(f"A measured process ended with {process.returncode}: {last}")
    return [
        _Run.of(arguments, answer) if name == "training_run" else answer
        for (name, arguments), answer in zip(jobs, found, strict=True)
    ]
