"""A loop in two tiers, as virtual machines have them: one that is compiled soon, and one that runs faster.

XLA compiles runs of layers in seconds, and a deep model's whole loop in several times as long. So the runs answer
first; a loop that has run for a while is compiled whole beside it, for the texts that come after. Both give the same,
bit by bit.
"""

import contextlib
import contextvars
import math
import time
from concurrent.futures import ThreadPoolExecutor

import keras

from kerasllm import backend

_patience = contextvars.ContextVar("patience", default=30.0)  # seconds that a loop runs before: about what it takes
LARGEST_STATE = 1 / 8  # of the weights: a loop that is whole copies the state as it begins and as it ends

# One thread, which Python waits for as it ends: XLA cannot be stopped.
_compiler = ThreadPoolExecutor(1, "compiler")


class TieredLoop:
    """`prefill` and `decode` of `loop.py` for a deep model.

    Args:
        prefill: function, compiled.
        decode: function, to be compiled.
        variables: Keras variables that it reads.
        runs: dict that keeps the compiled runs of layers, for all loops of the same weights.
    """

    def __init__(self, prefill, decode, variables, runs):
        self._start = prefill
        self._largest_state = LARGEST_STATE * _size(variables)
        self._whole = backend.compile_function(decode, variables)
        self._seconds, self._compiled = {}, {}

        def traced(*args):
            with backend.sharing(runs):
                return decode(*args)

        self._in_runs = backend.compile_function(traced, variables, xla=False, by_shape=True)

    def prefill(self, tokens, done, rule_state, padding, inputs, settings, *args):
        """As `loop.prefill`; the state is in buffers, which runs of layers write to, until the whole loop is there."""
        *drawn, state, rule_state = self._start(tokens, done, rule_state, padding, inputs, settings, *args)
        compiled = self._compiled.get(_shapes(tokens, inputs, settings))
        is_ready = compiled is not None and compiled.done() and compiled.exception() is None
        return *drawn, state if is_ready else backend.buffers(state), rule_state

    def decode(self, index, tokens, done, state, rule_state, padding, inputs, limit, settings):
        """As `loop.decode`."""
        if not backend.are_buffers(state):
            return self._whole(index, tokens, done, state, rule_state, padding, inputs, limit, settings)
        begun = time.perf_counter()
        *drawn, new_rule_state = self._in_runs(index, tokens, done, state, rule_state, padding, inputs, limit, settings)
        shapes = _shapes(tokens, inputs, settings)
        self._seconds[shapes] = self._seconds.get(shapes, 0) + time.perf_counter() - begun
        is_due = self._seconds[shapes] >= _patience.get() and shapes not in self._compiled
        if is_due and _size(state) <= self._largest_state:
            given = index, tokens, done, backend.read_buffers(state), rule_state, padding, inputs, index, settings
            # A call that draws nothing. It is traced here, as layers are not to be traced by two threads at once.
            self._compiled[shapes] = _compiler.submit(_compile, self._whole.traced(*given))
        return *drawn, state, new_rule_state


@contextlib.contextmanager
def impatient():
    """Within it, a loop is compiled whole once it has run; at the end that is done."""
    token = _patience.set(0.0)
    try:
        yield
    finally:
        _patience.reset(token)
        _compiler.submit(_compile, tuple).result()


def _compile(call):
    call()  # What it returns is not kept.


def _size(tensors):
    return sum(math.prod(tensor.shape) for tensor in keras.tree.flatten(tensors))


def _shapes(*tensors):
    return tuple(tuple(tensor.shape) for tensor in keras.tree.flatten(tensors))
