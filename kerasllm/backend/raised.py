"""Errors of Python functions that a graph of TensorFlow calls, brought out as they were raised.

TensorFlow makes a page of text of such an error, which has neither its kind nor its cause.
"""

import contextlib

_found = []  # pairs (error, its cause)
_waiting = []  # one for each `as_raised` that is entered, in any thread


def told(function):
    """The same function, whose errors `as_raised` knows of, whichever thread calls it."""

    def call(*arguments):
        try:
            return function(*arguments)
        except Exception as error:
            if _waiting:
                _found.append((error, error.__cause__))
            raise

    return call


@contextlib.contextmanager
def as_raised():
    """Within it, what a `told` function raises comes out as it was raised, and with its cause."""
    _waiting.append(None)
    try:
        yield
    except Exception as shown:
        for error, cause in _found:
            # Keras takes the cause away from what passes through its `fit`.
            if shown is error or f"{type(error).__name__}: {error}" in str(shown):
                raise error from cause
        raise
    finally:
        _waiting.pop()
        if not _waiting:
            _found.clear()
