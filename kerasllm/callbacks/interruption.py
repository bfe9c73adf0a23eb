"""SIGTERM and Ctrl-C, held back until the training step in hand is done."""

import os
import signal
import sys
import threading

from kerasllm import backend

_NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


class Interruption:
    """Takes the first signal down, and lets the second one end the program as ever.

    Only the main thread may handle signals: elsewhere nothing is held back. Of several processes that train together,
    all end after the same step: JAX tells the others, and takes SIGTERM itself, from Google's clouds their own notice
    too.
    """

    def __init__(self):
        self.signal = None
        self._before = {}
        self._fit = None

    def hold(self):
        """From now on a signal sets `signal`, as long as the function `fit` that calls this has not ended."""
        self.release()
        if threading.current_thread() is not threading.main_thread():
            return
        if backend.process()[1] > 1:
            self._before = {signal.SIGINT: signal.signal(signal.SIGINT, _as_sigterm)}
        else:
            self._fit = next((frame for frame in _stack(sys._getframe()) if frame.f_code.co_name == "fit"), None)
            self._before = {number: signal.signal(number, self._note) for number in _NAMES}

    def is_due(self, step):
        """Whether to end before this step."""
        if backend.process()[1] > 1 and backend.is_to_stop(step):
            self.signal = signal.SIGTERM
        return self.signal is not None

    def release(self):
        """Puts back the handlers that were there before, and forgets what was noted."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before, self._fit, self.signal = {}, None, None

    def end(self, message):
        """Ends the program, as the signal that was noted asks for."""
        received = self.signal
        self.release()
        print(message, file=sys.stderr)
        raise KeyboardInterrupt if received == signal.SIGINT else SystemExit(128 + received)

    def _note(self, number, frame):
        fit = self._fit
        self.release()
        if fit is not None and all(other is not fit for other in _stack(frame)):  # an error has ended `fit`
            signal.raise_signal(number)
            return
        self.signal = number
        # Not `print`: the signal may have come in the middle of one.
        text = f"\n{_NAMES[number]}: saving after this step; once more to end at once, without.\n"
        os.write(2, text.encode())


def _as_sigterm(number, frame):
    os.kill(os.getpid(), signal.SIGTERM)


def _stack(frame):
    while frame is not None:
        yield frame
        frame = frame.f_back
