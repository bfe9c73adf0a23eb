"""Python's collector of garbage, which looks at all that there is again and again while much is made that stays:
a quarter of the time that importing Keras and TensorFlow takes."""

import contextlib
import gc


@contextlib.contextmanager
def uncollected(stays=False):
    """Within it, garbage in cycles stays where it is.

    Args:
        stays: bool. What there is at the end stays for good, so that it need never be looked at.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if stays:
            gc.freeze()
        if was_enabled:
            gc.enable()
