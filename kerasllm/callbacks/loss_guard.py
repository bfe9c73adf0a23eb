"""Numbers that go wrong while a model trains: reported with the step and its text, and not let go on for long."""

import itertools
import math
import statistics
import warnings
from collections import deque

import keras

_WINDOW, _RECENT = 200, 20  # good losses that tell how much they change, and what is usual; fewer tell nothing
_LEAST_DEVIATION = 0.01  # nats: a model that knows its text by heart is hardly ever wrong, and then by much
_SHOWN = 10  # documents that a message names


class LossGuard(keras.callbacks.Callback):
    """Reports steps whose numbers went wrong, and ends training that does not recover.

    Wrong is a loss or a gradient that is not finite: kerasllm's optimizers make no update then, and this counts such
    steps. Wrong is also a loss that stands out: by more than `deviations` robust standard deviations above the median
    of the last 20 losses that did not. (The deviation is told from how much a loss differs from the one before it, by
    the median over 200 steps, so that losses may fall; it is at least 0.01 nats.)

    Each such step is a warning, and an event in the log if there is one. After `patience` of them in a row an error
    ends training. A `Checkpoint` that has this among its `callbacks` then holds the weights from before them.

    Args:
        deviations: float, see above.
        patience: int, wrong steps in a row that are borne.
        log: a `RunLog` of the same `fit`, or None.
        documents_at: function (step) -> the numbers of the documents in a batch, steps counted from 0, as the attribute
            `documents_at` of the data sets that `kerasllm.data` makes; or None.

    Attributes:
        skipped: int, steps that were not finite.

    Raises:
        ValueError: if a number is not above zero.
        FloatingPointError: in `fit`, when too many steps in a row went wrong.

    Example:

    >>> guard = kerasllm.callbacks.LossGuard(documents_at=dataset.documents_at)
    >>> model.fit(dataset, callbacks=[guard])
    """

    def __init__(self, deviations=10.0, patience=20, log=None, documents_at=None):
        super().__init__()
        for name, value in {"deviations": deviations, "patience": patience}.items():
            if not value > 0:
                raise ValueError(f"{name}={value} is not possible; give a number above 0.")
        self.deviations = deviations
        self.patience = patience
        self.log = log
        self.documents_at = documents_at
        self.skipped = 0
        self._step = 0
        self._in_a_row = 0
        self._good = deque(maxlen=_WINDOW)
        self._begin_epoch()
        self._is_restored = False

    @property
    def is_alarmed(self):
        """Whether the last step went wrong."""
        return self._in_a_row > 0

    def get_state(self, step):
        """What `Checkpoint` saves: a dict of plain JSON types."""
        return {
            "skipped": self.skipped,
            "step": self._step,
            "in_a_row": self._in_a_row,
            "good": list(self._good),
            "seen": self._seen,
            "counted": self._counted,
            "mean": self._mean,
        }

    def set_state(self, state):
        """Goes on from what `get_state` returned."""
        self.skipped, self._step, self._in_a_row = state["skipped"], state["step"], state["in_a_row"]
        self._good.extend(state["good"])
        self._seen, self._counted, self._mean = state["seen"], state["counted"], state["mean"]
        self._is_restored = True

    def on_epoch_begin(self, epoch, logs=None):
        if not self._is_restored:
            self._begin_epoch()
        self._is_restored = False
        self._offset = self._seen
        self._iterations = None

    def _begin_epoch(self):
        """Steps of this epoch, those that made an update, and the mean of their losses."""
        self._seen, self._counted, self._mean = 0, 0, 0.0

    def on_train_batch_begin(self, batch, logs=None):
        if self._iterations is None:
            self._iterations = self._read_iterations()

    def on_train_batch_end(self, batch, logs=None):
        iterations = self._read_iterations()
        steps, updates = self._offset + batch + 1 - self._seen, iterations - self._iterations
        self._seen, self._iterations = self._seen + steps, iterations
        self._step += steps
        self.skipped += steps - updates
        loss = self._loss_of(updates, logs["loss"])
        if updates < steps:
            self._report("a loss or a gradient was not finite, and no update made", loss)
        elif not math.isfinite(loss):
            self._report("the loss was not finite", loss)
        elif self._stands_out(loss):
            self._report(f"the loss was {loss:.4g}, where {self._usual():.4g} is usual", loss)
        else:
            self._in_a_row = 0
            self._good.append(loss)

    def _loss_of(self, updates, mean):
        """The mean loss of the last updates, from the means of the epoch, which is what Keras logs."""
        if not updates:
            return math.nan
        counted, before = (self._counted, self._mean) if math.isfinite(self._mean) else (0, 0.0)
        self._counted, self._mean = counted + updates, mean
        return (mean * self._counted - before * counted) / updates

    def _read_iterations(self):
        optimizer = self.model.optimizer
        return int(getattr(optimizer, "inner_optimizer", optimizer).iterations)

    def _stands_out(self, loss):
        if len(self._good) < _RECENT:
            return False
        changes = [abs(after - before) for before, after in itertools.pairwise(self._good)]
        # The standard deviation, if losses are normal: a change is the difference of two, and half are within 0.6745.
        deviation = statistics.median(changes) / 0.6745 / math.sqrt(2)
        return loss - self._usual() > self.deviations * max(deviation, _LEAST_DEVIATION)

    def _usual(self):
        return statistics.median(list(self._good)[-_RECENT:])

    def _report(self, what, loss):
        self._in_a_row += 1
        documents = self.documents_at(self._step - 1) if self.documents_at else []
        shown = ", ".join(map(str, documents[:_SHOWN])) + (", …" if len(documents) > _SHOWN else "")
        where = f"Step {self._step}" + (f" (documents {shown})" if documents else "")
        if self.log is not None:
            event = {"step": self._step, "what": what, "loss": loss, "documents": documents}
            self.log.add_event(event)
        if self._in_a_row >= self.patience:
            raise FloatingPointError(
                f"{where}: {what}, and {self._in_a_row} steps in a row went wrong. Training has ended: lower the "
                "learning rate or look at this text, and go on from a checkpoint."
            )
        warnings.warn(f"{where}: {what}.", stacklevel=2)
