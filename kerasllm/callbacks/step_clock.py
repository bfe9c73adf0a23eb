"""Counts the training steps of `fit` and the time they took, for the callbacks of this room."""

import threading
import time
from typing import NamedTuple


class Reading(NamedTuple):
    """What a `StepClock` shows: all steps, and those of them whose time is known with the seconds they took."""

    steps: int = 0
    timed_steps: int = 0
    timed_seconds: float = 0.0

    def steps_per_second_since(self, earlier):
        """Speed between two readings, or None where no step was timed."""
        steps, seconds = self.timed_steps - earlier.timed_steps, self.timed_seconds - earlier.timed_seconds
        return steps / seconds if steps and seconds else None


class StepClock:
    """Times steps from the end of one execution to the end of the next, within an epoch.

    So the first execution of a run, which compiles, is counted and not timed, and neither are validation and whatever
    else happens between epochs. Keras tells callbacks the last step of an execution (`steps_per_execution` may hold
    several), and on JAX it tells them from threads, where one step may overtake another: a step that comes late adds
    nothing.
    """

    def __init__(self):
        self.reading = Reading()
        self._lock = threading.Lock()
        self._steps_per_epoch = None
        self._epoch_steps = 0
        self._last = None

    def begin_run(self, steps_per_epoch):
        """`steps_per_epoch` may be None where Keras does not know it."""
        self._steps_per_epoch = steps_per_epoch
        self._last = None

    def begin_epoch(self, epoch_steps=0):
        """`epoch_steps` of this epoch were done, and counted, in an earlier run."""
        self._epoch_steps = epoch_steps
        if self._last is not None:
            self._last = time.perf_counter()

    def advance(self, epoch_steps):
        """Takes the number of steps done in this epoch."""
        now = time.perf_counter()
        with self._lock:
            # The last execution of an epoch may hold fewer steps than Keras says.
            epoch_steps = min(epoch_steps, self._steps_per_epoch or epoch_steps)
            new = epoch_steps - self._epoch_steps
            if new > 0:
                steps, timed_steps, timed_seconds = self.reading
                if self._last is not None:
                    timed_steps += new
                    timed_seconds += now - self._last
                self.reading = Reading(steps + new, timed_steps, timed_seconds)
                self._epoch_steps, self._last = epoch_steps, now
