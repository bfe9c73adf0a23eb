"""What happens inside a model while it trains, layer by layer, at a cost that stays small."""

import json
import math
import re
import time
from pathlib import Path

import keras
import numpy as np
from keras import ops

from kerasllm import backend
from kerasllm.files import replacing
from kerasllm.layers import taps
from kerasllm.training import TokenModel

_ACTIVATIONS = ("embedding", "block_*/output", "final_norm")


class LayerWatch(keras.callbacks.Callback):
    """Measures gradients, updates and activations every so often, in all and by layer.

    Each row has the step and, on one fixed batch, without dropout, `loss`; `gradient_norm/all` and those of layers,
    such as `gradient_norm/block_0`; `activation_rms/block_0`, the root mean square of what a block hands on; and
    `update_ratio/all` and so on, the norm of what the next step changes of the weights over their own, about 0.001
    where the learning rate is fine.

    Rows are lines of JSON in a file, and go to trackers. A measurement takes about as long as a training step, and is
    put off where it would take more than `most_share` of the time.

    Args:
        batch: one batch of a data set of the run, as `next(iter(validation))` gives it.
        path: .jsonl file to append to, or None.
        every: int, steps between two measurements.
        trackers: list of `Tracker`, which stand before this callback.
        most_share: float, the share of the training time that it may take, the first one, which compiles, left out.

    Raises:
        ValueError: for a number that is not above zero.
        TypeError: when `fit` begins, if the model or its loss is not one of kerasllm's.

    Example:

    >>> watch = kerasllm.callbacks.LayerWatch(next(iter(validation)), "watch.jsonl", every=50)
    >>> model.fit(train, epochs=3, callbacks=[watch])
    >>> watch.rows[-1]["gradient_norm/all"], watch.rows[-1]["activation_rms/block_0"]
    """

    async_safe = True  # see StepClock

    def __init__(self, batch, path=None, every=100, trackers=(), most_share=0.02):
        super().__init__()
        for name, value in {"every": every, "most_share": most_share}.items():
            if not value > 0:
                raise ValueError(f"{name}={value} is not possible; give a number above 0.")
        self.every, self.trackers, self.most_share = every, list(trackers), most_share
        self.path = None if path is None else Path(path)
        self.rows = []
        self.seconds = 0.0  # that measurements took, but for the first
        self._given, self._batch, self._measure = batch, None, None
        self._step, self._due, self._row, self._before, self._wait_until = 0, None, None, None, 0.0

    def get_state(self, step):
        return {"step": step}

    def set_state(self, state):
        self._step = state["step"]
        if self.path and self.path.exists():  # without what was measured after the checkpoint
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            with replacing(self.path) as draft:
                draft.write_text("".join(line for line in lines if json.loads(line)["step"] < self._step))

    def on_train_begin(self, logs=None):
        if not isinstance(self.model, TokenModel) or not self.model._has_our_loss:
            raise TypeError("LayerWatch is for models and losses of kerasllm, which say what they are a mean over.")
        self._batch, _ = self.model._unpacked(self._given, training=False)
        variables = self.model.trainable_variables
        self._measure = backend.compile_function(_measuring(self.model), self.model.variables, xla=False)
        self._compare = backend.compile_function(_comparing(variables), variables, xla=False)
        self._groups = [_group(variable.path) for variable in variables]

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch_start = self._step

    def on_train_batch_begin(self, batch, logs=None):
        # Here, as in `RunRecorder`, variables may be read on every backend.
        if self._row is not None:
            self._complete()
        step = self._epoch_start + batch
        if self._due is None or step >= self._due:
            self._due = (step // self.every + 1) * self.every
            if time.perf_counter() >= self._wait_until:
                self._begin(step)

    def on_train_batch_end(self, batch, logs=None):
        self._step = max(self._step, self._epoch_start + batch + 1)

    def on_train_end(self, logs=None):
        if self._row is not None:
            self._complete()

    def _begin(self, step):
        """Measures all but the update, before a step."""
        began = time.perf_counter()
        loss, squares, activations = keras.tree.map_structure(ops.convert_to_numpy, self._measure(self._batch))
        self._row = {"step": step, "loss": float(loss), **_norms("gradient_norm", self._groups, squares)}
        for name, square in activations.items():
            self._row[f"activation_rms/{_group(name)}"] = math.sqrt(square)
        self._before = [ops.copy(variable.value) for variable in self.model.trainable_variables]
        self._spend(began, counts=bool(self.rows))

    def _complete(self):
        """Measures the update, after it, and hands the row on."""
        began = time.perf_counter()
        changes, squares = keras.tree.map_structure(ops.convert_to_numpy, self._compare(self._before))
        changed, whole = (_norms("update_ratio", self._groups, found) for found in (changes, squares))
        row = {**self._row, **{name: value / max(whole[name], 1e-12) for name, value in changed.items()}}
        self._row = self._before = None
        self.rows.append(row)
        if self.path:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(
                    json.dumps({name: value if math.isfinite(value) else None for name, value in row.items()}) + "\n"
                )
        for tracker in self.trackers:
            tracker.scalars(row["step"], {f"watch/{name}": value for name, value in row.items() if name != "step"})
        self._spend(began, counts=len(self.rows) > 1)

    def _spend(self, began, counts):
        """Notes how long something took, and puts the next measurement off where that would be too often."""
        if counts:  # The first one compiles.
            seconds = time.perf_counter() - began
            self.seconds += seconds
            self._wait_until = max(self._wait_until, began) + seconds / self.most_share


def _measuring(model):
    """A function (batch) -> loss, squared gradient norms of variables, mean squares of activations by name."""
    variables = model.trainable_variables

    def loss_and_squares(batch):
        with taps.recording(*_ACTIVATIONS, model=model) as found:
            sums = model._sums(*batch, training=False)
        squares = {
            name: ops.mean(ops.square(ops.cast(kept[0], "float32")))
            for name, kept in found.items()
            if kept and not isinstance(kept[0], np.ndarray)
        }
        return sums.total / ops.maximum(sums.count, 1e-9), squares

    def measure(batch):
        (loss, squares), gradients = backend.value_and_gradients(loss_and_squares, variables, [], batch)
        return loss, [0.0 if g is None else _square(backend.densify(g)) for g in gradients], squares

    return measure


def _comparing(variables):
    """A function (values of variables before) -> squared norms of what changed, and of what there is now."""

    def compare(before):
        now = [variable.value for variable in variables]
        changes = [_square(ops.subtract(a, b)) for a, b in zip(now, before, strict=True)]
        return changes, [_square(value) for value in now]

    return compare


def _square(tensor):
    return ops.sum(ops.square(ops.cast(tensor, "float32")))


def _norms(name, groups, squares):
    """Norms in all and by group, of squares by variable: a dict."""
    by_group = {}
    for group, square in zip(groups, squares, strict=True):
        by_group[group] = by_group.get(group, 0.0) + float(square)
    by_group["all"] = sum(by_group.values())
    return {f"{name}/{group}": math.sqrt(square) for group, square in by_group.items()}


def _group(path):
    """The layer that a variable or an activation belongs to: a block, or what stands beside them."""
    block = re.search(r"((?:encoder|decoder)[^/]*/)?block_\d+", path)
    parts = [part for part in path.split("/")[1:] if part != "transformer"]
    return block[0] if block else parts[0]
