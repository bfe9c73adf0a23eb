"""Checkpoints: a run that was killed goes on where it was, as if nothing had happened."""

import concurrent.futures
import math
import time
import warnings
from pathlib import Path

import keras

from kerasllm import backend
from kerasllm.callbacks import checkpoint_folder
from kerasllm.callbacks.checkpoint_folder import Snapshot, checkpoints, path_of
from kerasllm.callbacks.interruption import Interruption

DEFAULT_MINUTES = 10


class Checkpoint(keras.callbacks.Callback):
    """Saves all that a training run needs to go on exactly as it would have gone on.

    It saves every so many steps or minutes, when the validation loss is the lowest so far, at the end, and on SIGTERM
    and Ctrl-C: the step in hand is finished and saved, and the program ends; a second signal ends it at once. A
    checkpoint appears whole or not at all. Training goes on while a thread writes it, and where it cannot be written,
    on a full disk for one, with a warning and the older ones as they were. Weights that are not finite are not saved,
    and it does not save between two steps that a `LossGuard` among `callbacks` finds wrong.

    The same program starts a run and goes on with it: `restore` returns 0 where there is nothing to restore. On one
    machine the weights are then equal to the last bit, if the data set is built with `start_step` and `fit` has its
    `steps_per_epoch`. Epochs that are over are left out, and the one that was interrupted is finished.

    Of several processes that train one model, each has this callback with the same folder, which all of them see, and
    `every_steps`. Each writes the part that its devices have, and any number of them reads it again, or one does. A
    signal to one of them stops all.

    A checkpoint of one of our models is a run folder too, if a tokenizer was given: `kerasllm.load` reads it. (With a
    moving average of weights it holds those that are being trained; `restore` brings back both.)

    Args:
        folder: where the checkpoints go; made if missing. Each is a folder `step-00000500`.
        every_steps: int or None, save when so many steps are done.
        every_minutes: float or None, save when so many minutes are over. 10 if both are None.
        keep: int, how many of the newest to keep. The one with the lowest validation loss is kept besides.
        tokenizer: the model's `Tokenizer`, or the pair (source, target), to be saved with it; or None.
        callbacks: callbacks of the same `fit` that are to go on where they were: `RunLog`, `RunPlot`, `LossGuard`.

    Raises:
        ValueError: for a number that is not above zero. When `fit` begins, if Keras does not know the steps of an
            epoch, or they are others than before.
        FileExistsError: when `fit` begins, if there are checkpoints already, and they were not restored.

    Example:

    >>> checkpoint = kerasllm.callbacks.Checkpoint("run/checkpoints", every_minutes=5)
    >>> model.compile(kerasllm.optimizers.AdamW(1e-3))
    >>> start_step = checkpoint.restore(model)
    >>> dataset = kerasllm.data.causal_lm_dataset(
    ...     text, tokenizer, seq_len=64, batch_size=8, epochs=10, start_step=start_step
    ... )
    >>> model.fit(dataset, epochs=10, steps_per_epoch=100, callbacks=[checkpoint])
    """

    def __init__(self, folder, every_steps=None, every_minutes=None, keep=2, tokenizer=None, callbacks=()):
        super().__init__()
        for name, value in {"every_steps": every_steps, "every_minutes": every_minutes, "keep": keep}.items():
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value} is not possible; give a number above 0.")
        self.folder = Path(folder)
        self.every_steps = every_steps
        self.every_minutes = DEFAULT_MINUTES if every_steps is None and every_minutes is None else every_minutes
        self.keep = keep
        self.tokenizer = tokenizer
        self.callbacks = list(callbacks)
        self.step = 0
        self._restored = None  # the training.json that the next fit begins with
        self._val_losses = {}  # by step, of what is kept
        self._interruption = Interruption()
        self._writer, self._writing = None, None

    @property
    def best(self):
        """The step of the checkpoint with the lowest validation loss, or None."""
        known = {step: loss for step, loss in dict(self._val_losses).items() if loss is not None}
        return min(known, key=known.get, default=None)

    def restore(self, model):
        """Brings a model back to the newest whole checkpoint.

        A damaged one is renamed, with a warning that says what is wrong with it, and the one before it is taken.

        Args:
            model: the model, built and compiled as it was.

        Returns:
            int, the steps that are done, which is the `start_step` of the data set; 0 where there is no checkpoint.

        Raises:
            ValueError: if the model is not compiled or built, or it or its optimizer is another one than was saved;
                if there are checkpoints, and none is whole.
        """
        if not model.built or not getattr(model, "optimizer", None):
            raise ValueError(
                f"{type(model).__name__} has no weights or no optimizer yet: build it and compile it first."
            )
        found = checkpoints(self.folder)
        for step, path in reversed(found.items()):
            try:
                progress = checkpoint_folder.check(path)
            except (ValueError, OSError) as error:
                if backend.process()[0] == 0:
                    _set_aside(path, error)
                continue
            checkpoint_folder.restore(model, path, progress)
            backend.wait_for_processes()
            self._go_on_from(progress)
            return step
        if found:
            raise ValueError(f"None of the {len(found)} checkpoints in {self.folder} is whole: begin anew elsewhere.")
        return 0

    def _go_on_from(self, progress):
        self.step, self._restored = progress["step"], progress
        self._val_losses = {}
        for step, path in checkpoints(self.folder).items():
            try:
                self._val_losses[step] = checkpoint_folder.read_json(path / checkpoint_folder.PROGRESS).get("val_loss")
            except (ValueError, OSError):
                continue  # found out when it is needed
        for callback, state in zip(self.callbacks, progress["callbacks"], strict=True):
            callback.set_state(state)

    def on_train_begin(self, logs=None):
        if self.every_minutes and backend.process()[1] > 1:
            raise ValueError(
                "Several processes, whose clocks differ, save by steps: give Checkpoint every_steps alone."
            )
        self._steps_per_epoch = self._checked_steps_per_epoch()
        self._steps_per_execution = self.model.steps_per_execution
        if not self.step and checkpoints(self.folder):
            raise FileExistsError(
                f"{self.folder} holds checkpoints of another run: restore the model from them first, or name another "
                "folder."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        if backend.process()[0] == 0:
            checkpoint_folder.remove_unfinished(self.folder)
        backend.wait_for_processes()
        if self._restored:
            self.model._initial_epoch = self._restored["epoch"]  # as keras.callbacks.BackupAndRestore does
        self._saved_step, self._saved_at = self.step, time.monotonic()
        self._val_loss, self._is_best, self._is_cut = None, False, False
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._interruption.hold()

    def _checked_steps_per_epoch(self):
        steps, epochs = self.params.get("steps"), self.params.get("epochs")
        if steps is None:
            raise ValueError("A checkpoint needs to know how long an epoch is: give fit steps_per_epoch.")
        if not self._restored:
            return steps
        before, done = self._restored["steps_per_epoch"], self._restored["epoch_steps"]
        is_the_rest = steps == before - done and epochs == self._restored["epoch"] + 1
        if steps != before and not is_the_rest:
            raise ValueError(
                f"The epochs of this run have {before} steps, and those of this fit {steps}: give fit "
                f"steps_per_epoch={before}, and the data set start_step={self.step}."
            )
        return before

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._epoch_steps, self._offset = epoch, 0, 0
        if self._restored:
            self.model._initial_epoch = None
            self._offset = self._epoch_steps = self._restored["epoch_steps"]
            if self._offset:
                for variable, value in zip(self.model.metrics_variables, self._restored["metrics"], strict=True):
                    variable.assign(value)
            self._restored = None
        self._epoch_start = self.step - self._offset

    def on_train_batch_begin(self, batch, logs=None):
        # Here, and not behind a step, all callbacks have done what they do at the end of an epoch, and on JAX the
        # variables may be read.
        self._epoch_steps = self._offset + batch
        self.step = self._epoch_start + self._epoch_steps
        if self._interruption.is_due(self.step):
            self._end()
        if self._is_due():
            self._save()
        self._epoch_steps = min(self._epoch_steps + self._steps_per_execution, self._steps_per_epoch)
        if self._offset and self._epoch_steps == self._steps_per_epoch:
            self._is_cut = self.model.stop_training = True  # ends this epoch, which had some of its steps before

    def _is_due(self):
        if any(getattr(callback, "is_alarmed", False) for callback in self.callbacks):
            return False
        if self._is_best:
            return True
        if self.every_steps and self.step // self.every_steps > self._saved_step // self.every_steps:
            return True
        return bool(self.every_minutes) and time.monotonic() - self._saved_at >= 60 * self.every_minutes

    def on_epoch_end(self, epoch, logs=None):
        if self._is_cut:
            self._is_cut = self.model.stop_training = False
        self.step = self._epoch_start + self._epoch_steps
        if self._writing and backend.process()[1] > 1:  # all are to find the same one the best
            self._writing.result()
        self._val_loss = (logs or {}).get("val_loss")
        if self._val_loss is not None and math.isfinite(self._val_loss):
            best = self._val_losses.get(self.best, math.inf)
            self._is_best = self._is_best or self._val_loss < best

    def on_train_end(self, logs=None):
        if not self._restored:  # else there was nothing left to train
            self._epoch, self._epoch_steps = self._epoch + 1, 0
            self._save()
            self._writing.result()
            backend.wait_for_processes()
        self._interruption.release()

    def _end(self):
        self._save()
        self._writing.result()
        backend.wait_for_processes()
        saved = max(checkpoints(self.folder), default=0)
        self._interruption.end(f"Stopped after step {self.step}; {path_of(self.folder, saved)} holds step {saved}.")

    def _save(self):
        """Copies the state and lets a thread write it, once that has written what it got before."""
        if self._writing:
            self._writing.result()
        val_loss = None if self._epoch_steps or self._val_loss is None else float(self._val_loss)
        progress = {
            "step": self.step,
            "epoch": self._epoch,
            "epoch_steps": self._epoch_steps,
            "steps_per_epoch": self._steps_per_epoch,
            "val_loss": val_loss,
            "callbacks": [callback.get_state(self.step) for callback in self.callbacks],
        }
        self._writing = self._writer.submit(self._write, Snapshot.take(self.model, progress))
        self._saved_step, self._saved_at, self._is_best = self.step, time.monotonic(), False

    def _write(self, snapshot):
        step = snapshot.progress["step"]
        try:
            if not snapshot.write(path_of(self.folder, step), self.tokenizer):
                return
        except (OSError, ValueError) as error:
            left = ", ".join(str(step) for step in checkpoints(self.folder)) or "none"
            reason = getattr(error, "strerror", None) or error
            warnings.warn(f"{reason} Training goes on; checkpoints of steps: {left}.", stacklevel=2)
            return
        self._val_losses[step] = snapshot.progress["val_loss"]
        if backend.process()[0]:
            return
        for step, path in list(checkpoints(self.folder).items())[: -self.keep]:
            if step != self.best:
                checkpoint_folder.remove(path)
                self._val_losses.pop(step, None)


def _set_aside(path, error):
    kept = path.with_name(f"{path.name}.damaged")
    checkpoint_folder.remove(kept)
    path.rename(kept)
    warnings.warn(f"Not taken: {error} It is now called {kept.name}.", stacklevel=3)
