"""Loads Keras and its backend without the pages that TensorFlow writes while it starts."""

import contextlib
import os
import sys

from kerasllm.garbage import uncollected


def start_keras(join=None):
    """Imports Keras and makes its backend find its devices; before that, a function may join other processes.

    TensorFlow reports on drivers and instruction sets before any of its switches for log messages works, so what goes
    to standard error meanwhile is dropped. A user who sets `TF_CPP_MIN_LOG_LEVEL` sees all of it.
    """
    wanted = "TF_CPP_MIN_LOG_LEVEL" in os.environ
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with uncollected(stays=True), contextlib.nullcontext() if wanted else _standard_error_dropped():
        import keras

        if join is not None:
            join()
        keras.ops.zeros(())


@contextlib.contextmanager
def _standard_error_dropped():
    """Sends the process's standard error, that of its C++ code too, to nowhere."""
    sys.stderr.flush()
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
