"""What keeps bad batches out of a model: ids that it has no embedding for, rows longer than its context, text.

A compiled step cannot raise: XLA leaves out every check. So it makes no update with a bad batch, and keeps what is bad
in a variable, which is looked at between steps.
"""

import time

import keras
import numpy as np
from keras import ops

from kerasllm import backend
from kerasllm.vocabulary import complaint, farthest

_SECONDS = 0.1  # between two looks: on a GPU, each waits for the step that is under way


class Screen(keras.metrics.Metric):
    """Finds what a model cannot take in the batches of its steps. A metric, as Keras then takes care of its variable.

    Args:
        max_length: int or None, the longest rows that the model takes.
    """

    def __init__(self, max_length=None, name="screen"):
        super().__init__(name=name)
        self.max_length = max_length
        self._looked_at = {}  # by number: the name of ids, the size of their vocabulary, and the label that is ignored
        self._last_look = 0.0
        # The first bad thing since the last reset: its number or 0, the id, its place in the batch, the length of rows;
        # of rows that are too long the number is negative.
        self._found = self.add_variable(shape=(4,), initializer="zeros", dtype="int32", name="found")

    def update_state(self, ids, labels=None, ignore_class=None, label_name="label"):
        """Looks at a batch.

        Args:
            ids: dict from name to the pair (ids int (B, T), size of their vocabulary).
            labels: the same pair for labels, or None.
            ignore_class: see `losses.TokenCrossentropy`.
            label_name: str, what `vocabulary.complaint` calls labels.

        Returns:
            bool scalar, whether something was bad, in this batch or before.
        """
        found = ops.convert_to_tensor(self._found)

        def note(is_bad, number, *what):
            what = ops.stack([ops.cast(n, "int32") for n in (number, *what)])
            return ops.where((found[0] == 0) & is_bad, what, found)

        for number, (name, (values, size)) in enumerate([*ids.items(), *([(label_name, labels)] if labels else [])], 1):
            self._looked_at[number] = name, size, ignore_class
            T = ops.shape(values)[1]
            if isinstance(T, int):
                check_length(T, self.max_length)
            elif self.max_length is not None and name != label_name:
                found = note(self.max_length < T, -number, T, 0, T)
            is_bad, value, place = farthest(values, size)
            found = note(is_bad, number, value, place, T)
        self._found.assign(found)
        return found[0] > 0

    def look(self, found=None, at_once=True):
        """Refuses what was found. To be called between steps.

        Args:
            found: what the variable holds, where it cannot be read itself.
            at_once: bool. False lets some time pass between two looks.
        """
        if not at_once and time.monotonic() - self._last_look < _SECONDS:
            return
        for number, value, place, T in backend.values_on_devices(self._found) if found is None else [np.array(found)]:
            if number < 0:
                check_length(int(value), self.max_length)
            elif number:
                name, size, ignore_class = self._looked_at[int(number)]
                raise ValueError(complaint(name, int(value), divmod(int(place), int(T)), size, ignore_class))
        self._last_look = time.monotonic()

    def variable_in(self, variables, values):
        """The value of its variable among those of many."""
        return next(value for variable, value in zip(variables, values, strict=True) if variable is self._found)

    def reset_state(self):
        super().reset_state()
        self._last_look = 0.0

    def result(self):
        return {}


def check_length(length, context):
    """Refuses rows that are longer than a context."""
    if context is not None and length > context:
        raise ValueError(
            f"Rows of {length} tokens are longer than the model's context of {context}: make them shorter, as with "
            f"seq_len={context}, or the model's config with max_length={length}."
        )
