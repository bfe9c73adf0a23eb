"""What the log and the picture of a run have in common: the rows they are made of."""

import math
import threading
import time

import keras

from kerasllm.callbacks.step_clock import Reading, StepClock


class RunRecorder(keras.callbacks.Callback):
    """Turns what Keras logs into rows, every few steps and at the end of each epoch, and hands them to a subclass.

    A row is a dict of step, epoch, seconds, loss, and where known perplexity, tokens, learning_rate,
    tokens_per_second; at the end of an epoch also val_loss and val_perplexity, reward and val_reward. `RunLog` says
    what they mean.

    Subclasses define `prepare()`, before training; `record(row)`; and `record_epoch(row, logs)`, after the last row of
    an epoch.

    Keras logs the mean loss since the epoch began. The loss of the steps between two rows follows from two such
    means, without asking the device for more. (Where batches hold different numbers of tokens this is close, not
    exact: each mean is over tokens, and the difference counts steps.)
    """

    async_safe = True  # see StepClock

    def __init__(self, tokens_per_step, every):
        super().__init__()
        for name, value in {"tokens_per_step": tokens_per_step, "every": every}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is not possible; give 1 or more.")
        self.tokens_per_step = tokens_per_step
        self.every = every
        self._clock = StepClock()
        self._lock = threading.Lock()
        self._seconds_before = 0.0
        self._started = None
        self._rows = []
        self._last_row = {}
        self._restored = None  # the state that the next fit begins with

    @property
    def steps(self):
        return self._clock.reading.steps

    @property
    def seconds(self):
        """Since `fit` began; over all its runs."""
        return self._seconds_before + (time.perf_counter() - self._started if self._started is not None else 0.0)

    @property
    def tokens(self):
        return self.steps * self.tokens_per_step if self.tokens_per_step else None

    @property
    def tokens_per_second(self):
        """Over all timed steps, or None."""
        return self._tokens_per_second_since(Reading())

    def get_state(self, step):
        """What `Checkpoint` saves when so many steps are done: a dict of plain JSON types."""
        deadline = time.monotonic() + 10
        while self.steps < step and time.monotonic() < deadline:  # told from threads, see StepClock
            time.sleep(0.001)
        return {
            "clock": self._clock.reading,
            "seconds": self.seconds,
            "epoch_steps": self.steps - self._epoch_start.steps,
            "steps_per_epoch": self._steps_per_epoch,
            "row_done": self._row_done,
            "row_mean": self._row_mean,
            "row_reading": self._row_reading,
            "rows": list(self._rows),
        }

    def set_state(self, state):
        """Goes on from what `get_state` returned; `fit` then begins in the middle of that epoch."""
        self._restored = state
        self._clock.reading = Reading(*state["clock"])
        self._seconds_before = state["seconds"]
        self._rows = state["rows"]
        self._last_row = {**self._rows[-1]} if self._rows else {}

    def on_train_begin(self, logs=None):
        if self._started is not None:
            self._seconds_before = self.seconds
        self._started = time.perf_counter()
        # Kept, because on JAX every look at self.model writes the training state back into the model.
        self._steps_per_execution = self.model.steps_per_execution
        self._has_perplexity = getattr(self.model.loss, "reports_perplexity", True)
        self._steps_per_epoch = self._restored["steps_per_epoch"] if self._restored else self.params.get("steps")
        self.prepare()
        self._clock.begin_run(self._steps_per_epoch)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch + 1
        self._learning_rate = None
        self._begin_rows()
        self._offset = 0
        if self._restored:
            self._offset, self._row_done, self._row_mean = (
                self._restored[name] for name in ("epoch_steps", "row_done", "row_mean")
            )
            self._row_reading = Reading(*self._restored["row_reading"])
            self._epoch_start = self._epoch_start._replace(steps=self.steps - self._offset)
            self._restored = None
        self._clock.begin_epoch(self._offset)
        self._waiting, self._next_row = {}, self._row_after(self._offset)

    def _begin_rows(self):
        self._epoch_start = self._row_reading = self._clock.reading
        self._row_done, self._row_mean = 0, 0.0

    def on_train_batch_begin(self, batch, logs=None):
        # Only here may a variable be read on every backend: on JAX the train step owns them from now on. Whatever
        # sets the rate for this epoch has done so by now.
        if self._learning_rate is None:
            self._learning_rate = _learning_rate(self.model.optimizer, self.steps)

    def on_train_batch_end(self, batch, logs=None):
        done = self._offset + batch + 1
        with self._lock:
            self._clock.advance(done)
            if self._gets_row(done):
                self._waiting[done] = logs
            # On JAX one execution may overtake another on its way here; the rows keep their order.
            while self._next_row in self._waiting:
                self._last_row = self._make_row(self._next_row, self._waiting.pop(self._next_row))
                self._add(self._last_row)
                self._next_row = self._row_after(self._next_row)

    def _gets_row(self, done):
        """Whether the execution that ends at step `done` of this epoch is the first of all, or passes an `every`th."""
        after = self._epoch_start.steps + done
        before = after - self._steps_per_execution
        return before <= 0 or after // self.every > before // self.every

    def _row_after(self, done):
        done += self._steps_per_execution
        while not self._gets_row(done):
            done += self._steps_per_execution
        return done

    def on_epoch_end(self, epoch, logs=None):
        done = self.steps - self._epoch_start.steps
        if done > self._row_done:
            self._last_row = self._make_row(done, logs)
        row = {**self._last_row, "step": self.steps, "epoch": self._epoch, "seconds": self.seconds}
        for name in ("val_loss", "val_perplexity", "reward", "val_reward"):
            if name in logs:
                row[name] = logs[name]
        if "val_loss" in row:
            row.setdefault("val_perplexity", self._perplexity(row["val_loss"]))
        self._add(row)
        self.record_epoch(row, logs)
        self._begin_rows()

    def _add(self, row):
        self._rows.append(row)
        self.record(row)

    def prepare(self):
        """Called before the first step."""

    def record(self, row):
        """Called with each row."""

    def record_epoch(self, row, logs):
        """Called at the end of an epoch with its row, which was recorded, and all that Keras logged."""

    def _make_row(self, done, logs):
        """Returns the row that ends at step `done` of this epoch."""
        done = min(done, self._steps_per_epoch or done)  # the last execution may hold fewer steps than Keras says
        mean, step = logs.get("loss", math.nan), self._epoch_start.steps + done
        loss = (mean * done - self._row_mean * self._row_done) / (done - self._row_done)
        speed = self._tokens_per_second_since(self._row_reading)
        self._row_done, self._row_mean, self._row_reading = done, mean, self._clock.reading
        return {
            "step": step,
            "epoch": self._epoch,
            "tokens": step * self.tokens_per_step if self.tokens_per_step else None,
            "seconds": self.seconds,
            "loss": loss,
            "perplexity": self._perplexity(loss),
            "learning_rate": self._learning_rate(step - 1),
            "tokens_per_second": logs.get("tokens_per_second") if speed is None else speed,
        }

    def _perplexity(self, loss):
        if not self._has_perplexity:  # as of a mean over sequences
            return None
        return math.exp(loss) if loss < 709 else math.inf

    def _tokens_per_second_since(self, earlier):
        steps_per_second = self._clock.reading.steps_per_second_since(earlier)
        return steps_per_second * self.tokens_per_step if steps_per_second and self.tokens_per_step else None


def _learning_rate(optimizer, steps):
    """Returns the learning rate as a function of the step, `steps` being the number of the present one."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
    rate = optimizer._learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        offset = int(optimizer.iterations) - steps
        return lambda step: float(rate(step + offset))
    rate = float(optimizer.learning_rate)
    return lambda step: rate
