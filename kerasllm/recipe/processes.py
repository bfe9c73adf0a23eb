"""A run of several processes, each of which has a part of the model: the first one writes, the others read that."""

import contextlib
import tempfile
from pathlib import Path

from kerasllm import backend
from kerasllm.files import new_folder


def is_first():
    """Whether this process writes what a run has once: all but the weights, of which each writes its part."""
    return backend.process()[0] == 0


@contextlib.contextmanager
def run_folder(out):
    """`new_folder(out)` of the first process, which the others see."""
    with new_folder(out) if is_first() else contextlib.nullcontext("") as draft:
        yield Path(backend.told_by_first(str(draft)))
    backend.wait_for_processes()  # until it has its name


@contextlib.contextmanager
def own_folder(out):
    """Where a process writes its log and plots: those of the others are nobody's."""
    if is_first():
        yield Path(out)
        return
    with tempfile.TemporaryDirectory(prefix="kerasllm-") as folder:
        yield Path(folder)
