"""The log of a run: `log.csv`, a row every few steps, and `log.json`, its summary."""

import csv
import errno
import io
import json
import math
import os
import time
from pathlib import Path

from kerasllm.callbacks.run_recorder import RunRecorder
from kerasllm.files import replacing

COLUMNS = (
    "step", "epoch", "tokens", "seconds", "loss", "perplexity", "learning_rate", "tokens_per_second",
    "val_loss", "val_perplexity",
)  # fmt: skip


class RunLog(RunRecorder):
    """Writes `log.csv` and `log.json` into a folder while `fit` runs.

    `log.csv` has a row after the first step, then every `every` steps, and one at the end of each epoch, which also
    holds the validation figures. Its columns: `step` and `epoch` (both counted from 1), `tokens` trained on so far,
    `seconds` since `fit` began, `loss` (mean over the steps since the row before, nats per token) with its
    `perplexity`, `learning_rate` of the step, `tokens_per_second` since the row before, `val_loss`, `val_perplexity`.
    What is unknown is empty. Each row is written whole and at once, so a crash leaves whole lines.

    `log.json` is rewritten at the end of each epoch: totals, and for each epoch every figure that Keras logs
    (`loss` there is the mean of the epoch). `finished` says whether `fit` came to its end.

    A second `fit` with the same callback goes on in the same files, and so does a run that `Checkpoint` restores.

    Args:
        folder: Where the two files go; made if missing.
        tokens_per_step: Tokens in a training batch, for the columns `tokens` and `tokens_per_second`. None: the speed
            is taken from a `Throughput` that stands before this callback, if there is one.
        every: Steps between two rows.

    Raises:
        FileExistsError: When `fit` begins, if the folder holds a log already. It stays untouched.
        OSError: A row cannot be written, for instance on a full disk. The rows before it stay whole.
        ValueError: `every` or `tokens_per_step` is below 1.

    Example:

    >>> model.fit(dataset, callbacks=[kerasllm.callbacks.RunLog("runs/first", tokens_per_step=16 * 256)])
    """

    def __init__(self, folder, tokens_per_step=None, every=10):
        super().__init__(tokens_per_step, every)
        self.folder = Path(folder)
        self._epochs = []
        self._events = []
        self._started_at = None

    def add_event(self, event):
        """Notes something that happened, a dict of plain JSON types, under `events` in `log.json`."""
        self._events.append(event)
        self._write_summary(finished=False)

    def get_state(self, step):
        return {
            **super().get_state(step),
            "epochs": list(self._epochs),
            "events": list(self._events),
            "started": self._started_at,
        }

    def set_state(self, state):
        super().set_state(state)
        self._epochs, self._events, self._started_at = (state[name] for name in ("epochs", "events", "started"))

    def prepare(self):
        if self._restored:
            self._begin_file()  # anew, without what was logged after the checkpoint
        elif self._started_at is None:
            for name in ("log.csv", "log.json"):
                if (self.folder / name).exists():
                    raise FileExistsError(
                        f"{self.folder / name} exists and is not overwritten; log to another folder or move it away."
                    )
            self._started_at = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            self._begin_file()

    def _begin_file(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / "log.csv") as draft:
            draft.write_bytes(_csv(COLUMNS) + b"".join(map(_line, self._rows)))
        self._write_summary(finished=False)

    def record(self, row):
        path, line = self.folder / "log.csv", _line(row)
        with open(path, "ab", buffering=0) as file:
            size = file.tell()
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                file.truncate(size)
                raise _cannot_write(path, error) from error

    def record_epoch(self, row, logs):
        self._epochs.append({"epoch": row["epoch"], "step": row["step"], "seconds": row["seconds"], **logs})
        self._write_summary(finished=False)

    def on_train_end(self, logs=None):
        self._write_summary(finished=True)

    def _write_summary(self, finished):
        summary = {
            "finished": finished,
            "started": self._started_at,
            "steps": self.steps,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
            "tokens_per_second": self.tokens_per_second,
            "epochs": self._epochs,
            "events": self._events,
        }
        path = self.folder / "log.json"
        try:
            with replacing(path) as draft:
                draft.write_text(json.dumps(_finite(summary), indent=2, default=str) + "\n", encoding="utf-8")
        except OSError as error:
            raise _cannot_write(path, error) from error


def _line(row):
    return _csv([_cell(row.get(column)) for column in COLUMNS])


def _csv(cells):
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue().encode()


def _cell(value):
    return f"{value:.6g}" if isinstance(value, float) else value


def _finite(value):
    """JSON has no infinity and no NaN: null stands for them."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cannot_write(path, error):
    return OSError(
        error.errno, f"{error.strerror}; what was written before is whole, free some space and train again", str(path)
    )
