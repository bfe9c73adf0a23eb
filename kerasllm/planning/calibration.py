"""What was measured of this machine, kept in the user's cache folder: `calibrating.py` measures it."""

import dataclasses
import json
import os
import platform
from pathlib import Path

import keras

from kerasllm.files import write_json
from kerasllm.planning.interpolation import between

FILE = "calibration.json"
VERSION = 2


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How fast this machine is, and what a training process takes beside what is counted.

    The defaults are those of memory alone, as TensorFlow 2.21 was measured on Linux.

    Args:
        machine: dict, of what it was measured: see `this_machine`.
        measured: str, the date; "" where it was not.
        fixed_bytes: float, that the first training step takes above what a process has once it has started.
        layer_bytes: float, that the graph of each layer takes.
        slack: float, bytes besides for each byte of tensors: an allocator's pieces are not all of the right size.
        logit_slack: float, bytes besides for each byte of logits.
        long_bytes: float, that attention of long contexts takes, whatever its size.
        bandwidth: float or None, bytes per second that pass over large tensors reach.
        matmul: dict from dtype to list of pairs (FLOPs of a product, FLOP/s), by size.
        attention: dict from dtype to FLOP/s of many small products, such as those of heads.
        pass_seconds: dict from dtype to a dict of seconds for each of what `counting.passes_of_step` counts.
        step_seconds, layer_seconds: float, of a step and of each of its layers, however small they are.
        generation: dict from dtype to the fields of a `GenerationTimes`.
    """

    machine: dict = dataclasses.field(default_factory=dict)
    measured: str = ""
    fixed_bytes: float = 91e6
    layer_bytes: float = 17e6
    slack: float = 0.12
    logit_slack: float = 0.8
    long_bytes: float = 97e6
    bandwidth: float | None = None
    matmul: dict = dataclasses.field(default_factory=dict)
    attention: dict = dataclasses.field(default_factory=dict)
    pass_seconds: dict = dataclasses.field(default_factory=dict)
    step_seconds: float = 0.0
    layer_seconds: float = 0.0
    generation: dict = dataclasses.field(default_factory=dict)

    @classmethod
    def kept(cls, folder=None):
        """What was measured of this machine, or the defaults where nothing was, or with other versions."""
        path = cache_folder(folder) / FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            is_ours = content.pop("version") == VERSION and content["machine"] == this_machine()
            return cls(**content) if is_ours else cls()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def save(self, folder=None):
        """Writes it into the user's cache folder; returns the path."""
        folder = cache_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, {"version": VERSION, **dataclasses.asdict(self)})
        return folder / FILE

    def knows_time_of(self, dtype):
        """Whether seconds can be said of a step that multiplies in this dtype."""
        return dtype in self.matmul and dtype in self.pass_seconds

    def matmul_rate(self, flops, dtype):
        """FLOP/s of a product of so many FLOPs: between those measured along a line over the logarithm."""
        return between(self.matmul[dtype], flops)


def cache_folder(folder=None):
    """Where what was measured is kept: `folder`, KERASLLM_CACHE, or kerasllm in the user's own."""
    if folder or os.environ.get("KERASLLM_CACHE"):
        return Path(folder or os.environ["KERASLLM_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kerasllm"


def this_machine():
    """What a calibration holds for: the processor, its cores, and the versions that compute."""
    backend = keras.backend.backend()
    version = __import__(backend).__version__
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "backend": f"{backend} {version}",
        "keras": keras.__version__,
    }


def _processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = [line for line in file if line.startswith(("model name", "stepping"))]
    except OSError:
        lines = []
    return " ".join(dict.fromkeys(line.partition(":")[2].strip() for line in lines)) or platform.processor()
