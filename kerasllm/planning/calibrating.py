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
from kerasllm.planning.training_plan import overhead_of

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
_SIZES = (_MIDDLE, _ROWS), (_LONG, 2), (_GELU, _ROWS), (_WIDE, _ROWS // 2)  # models, and rows of a batch
_PRODUCTS = [(512, 128, 128), (2048, 256, 256), (4096, 256, 1024), (4096, 512, 2048), (4096, 1024, 4096)]


def calibrate(folder=None, say=None):
    """Measures what plans need to know of this machine, and keeps it in the user's cache folder.

    It takes some minutes, in which nothing else should run: products of matrices by size and dtype, passes over memory,
    and a few steps of small models, of which what a process takes by itself is learned, what an allocator wastes, and
    how long that lasts which is no product; and a few texts that such models write.

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
    few, many = (_alone({**_SMALL, "num_layers": layers}, 2) for layers in (_FEW_LAYERS, _MANY_LAYERS))
    layer_bytes = (many.unexplained - few.unexplained) / (_MANY_LAYERS - _FEW_LAYERS)
    layer_seconds = max((many.seconds - few.seconds) / (_MANY_LAYERS - _FEW_LAYERS), 0.0)
    say("How fast it multiplies, and trains")
    (speeds,) = _measured([("speeds", {"dtypes": dtypes, "sizes": _PRODUCTS})])
    runs = [_alone(*size) for size in _SIZES]
    known = Calibration(
        machine=this_machine(),
        measured=datetime.date.today().isoformat(),
        layer_bytes=layer_bytes,
        step_seconds=max(few.seconds - layer_seconds * _FEW_LAYERS, 0.0),
        layer_seconds=layer_seconds,
        **_overhead([*runs, _alone(_MIDDLE, 3 * _ROWS)], layer_bytes),
        **speeds,
    )
    for dtype in dtypes:
        if dtype != "float32":
            runs = _measured([_run(*size, f"mixed_{dtype}") for size in _SIZES])
        known.pass_seconds[dtype] = _seconds_of_passes(runs, known)
    for dtype in dtypes:
        say(f"How fast it writes, in {dtype}")
        known.generation[dtype] = dataclasses.asdict(_generation_times(dtype))
    known.save(folder)
    return known


def _overhead(runs, layer_bytes):
    """Bytes of each other thing in `overhead_of`, so that runs take as much as they were seen to."""
    amounts = [overhead_of(run.training) for run in runs]
    left = [
        run.unexplained - layer_bytes * amount.pop("layer_bytes") for run, amount in zip(runs, amounts, strict=True)
    ]
    return _of_each(amounts, left)


def _seconds_of_passes(runs, known):
    """Seconds of each thing in `passes_of_step`, so that runs take as long as they were seen to."""
    left = [run.seconds - seconds_without_passes(run.training, known) for run in runs]
    return _of_each([passes_of_step(run.training) for run in runs], left)


def _of_each(amounts, totals):
    """What each of some amounts takes, a dict, if their sums take so much: by least squares, and not below 0.

    Args:
        amounts: list of dicts of numbers.
        totals: list of float.
    """
    names, rows = list(amounts[0]), np.array([list(row.values()) for row in amounts], "float64")
    taken = {name: 0.0 for name in names}
    while names:
        columns = rows[:, [list(amounts[0]).index(name) for name in names]]
        found = np.linalg.lstsq(columns / (sizes := np.abs(columns).max(0)), np.array(totals), rcond=None)[0] / sizes
        if found.min() >= 0:
            return {**taken, **{name: float(value) for name, value in zip(names, found, strict=True)}}
        names.pop(int(found.argmin()))
    return taken


def _generation_times(dtype):
    sizes = [(fields, rows, 128) for fields in (_MIDDLE, _BIG) for rows in (1, 8)]
    sizes += [(_LONG, rows, 1900) for rows in (1, 8)]
    names = "config", "batch_size", "prompt", "dtype"
    found = _measured([("generation_run", dict(zip(names, (*size, dtype), strict=True))) for size in sizes])
    works = [GenerationWork.of(TransformerConfig(**fields), *size, dtype) for fields, *size in sizes]
    runs = [(work, answer["prompt_seconds"], answer["step_seconds"]) for work, answer in zip(works, found, strict=True)]
    return GenerationTimes.fitted(runs[:4], runs[4:])


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


def _alone(fields, batch_size):
    """A `_Run` of a process of its own, of which the memory means something."""
    return _measured([_run(fields, batch_size)])[0]


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
