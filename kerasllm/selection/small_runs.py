"""Runs of models of many sizes on the same tokens, one after the other, in one process."""

import dataclasses
import gc
import math
from pathlib import Path

import keras

from kerasllm import callbacks, recipe, report, training
from kerasllm.files import seal, write_json
from kerasllm.planning import ScalingRun, scaling_shapes
from kerasllm.settings import RECORD
from kerasllm.tasks import TASKS
from kerasllm.tasks.text import DEFAULT_BATCH_SIZE

# The steps of a run, as shares, whose mean loss says how it does beside another of the same compute.
_WATCHED = (0.4, 0.5)


class SmallRuns:
    """Trains models of many sizes as `kerasllm train` would, on tokens that are made once.

    Args:
        settings: a `kerasllm.settings.TrainSettings` of the task causal, whose `out` is the folder of the study, and
            whose model says how those of all sizes are made. Its steps and its learning rate are not used.
        folder: path of a folder that exists.

    Attributes:
        shapes: list of `kerasllm.planning.ModelShape`, the smallest first.
        text_tokens: int, tokens of the text that is trained on.
    """

    def __init__(self, settings, folder):
        self.settings, self.folder = settings, Path(folder)
        self._task = TASKS[settings.task](settings)
        config = self._task.config()
        self._tokenizer = recipe.tokenizer_of(settings, self._task)
        self._tokenizer.save(self.folder / "tokenizer")
        config = self._task.fitted(config, self._tokenizer)
        self.shapes = scaling_shapes(config, settings.batch_size or DEFAULT_BATCH_SIZE)
        self._training, _ = self._task.datasets(config, self._tokenizer, self.folder / "tokens")
        self._steps_per_pass = len(self._training())
        self.text_tokens = self._steps_per_pass * self.shapes[0].tokens_per_step
        self._policy, _ = training.precision(settings.precision)

    def train(self, shape, steps, learning_rate, level=0, purpose="size", most=math.inf):
        """Trains a model and measures it on what was held out.

        Args:
            shape: `ModelShape`.
            steps: int.
            learning_rate: float, at its peak.
            level: int, for the record.
            purpose: str, for the record.
            most: float, the loss in the middle of the run above which it is stopped there.

        Returns:
            The `ScalingRun`, and its training loss in the middle of the run, a float.
        """
        settings = self._settings_of(shape, steps, learning_rate)
        folder = self.folder / "runs" / f"{level}-{purpose}-{shape.config.d_model}-{learning_rate:.2g}"
        folder.mkdir(parents=True)
        keras.utils.set_random_seed(settings.seed)
        model = self._task.model(shape.config, self._policy)
        model.compile(recipe.optimizer_of(settings, steps), self._task.loss(), micro_batches=settings.micro_batches)
        log, watch = callbacks.RunLog(folder, shape.tokens_per_step), HalfwayLoss(steps, most)
        epochs = math.ceil(steps / self._steps_per_pass)
        model.fit(
            self._training(epochs=epochs), steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[log, watch]
        )
        found = None if watch.is_behind else self._task.score(model, self._tokenizer)
        speed = log.tokens_per_second or log.tokens / log.seconds
        run = ScalingRun(
            d_model=shape.config.d_model,
            parameters=shape.parameters,
            tokens=log.tokens,
            flops=log.steps * shape.flops_per_step,
            loss=found and found["loss"],
            seconds=log.tokens / speed,
            learning_rate=learning_rate,
            level=level,
            purpose="stopped" if watch.is_behind else purpose,
        )
        results = {**(found or {}), **dataclasses.asdict(run)}  # whose tokens are those trained on
        model_of_run = {**shape.config.to_dict(), "parameters": shape.parameters, "precision": self._policy}
        write_json(folder / RECORD, {"settings": settings.to_dict(), "model": model_of_run, "results": results})
        seal(folder)
        del model
        gc.collect()
        return run, watch.loss

    def settings_of(self, choice):
        """The `TrainSettings` of a `ScalingChoice`, but for `out`, with the tokenizer of the small runs."""
        settings = self._settings_of(choice.shape, choice.steps, float(f"{choice.learning_rate:.3g}"))
        return dataclasses.replace(settings, tokenizer=str(self.folder / "tokenizer"))

    def _settings_of(self, shape, steps, learning_rate):
        sizes = ("num_layers", "d_model", "num_heads", "num_kv_heads", "head_dim", "dff")
        model = {**self.settings.model, **{name: getattr(shape.config, name) for name in sizes}}
        return dataclasses.replace(self.settings, model=model, steps=steps, learning_rate=learning_rate)


class HalfwayLoss(keras.callbacks.Callback):
    """The mean training loss of the steps before the middle of a run, which is stopped there if it is behind.

    Args:
        steps: int, of the run.
        most: float, the loss from which on it is.

    Attributes:
        loss: float, or NaN before the middle.
        is_behind: bool, whether the run was stopped.
    """

    def __init__(self, steps, most=math.inf):
        super().__init__()
        self._begin, self._end = (max(round(share * steps), number) for number, share in enumerate(_WATCHED, 1))
        self._most = most
        self._before = self.loss = math.nan
        self.is_behind = False

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 == self._begin:
            self._before = float(logs["loss"])
        elif batch + 1 == self._end:  # Keras logs the mean of all steps so far
            self.loss = (float(logs["loss"]) * self._end - self._before * self._begin) / (self._end - self._begin)
            if not self.loss < self._most:  # nor is a number that is none
                self.is_behind = self.model.stop_training = True


def say(run):
    """Prints a run when it is done."""
    what = "stopped, as it is behind" if run.loss is None else f"loss {run.loss:.4f}"
    report.stage(
        f"{run.parameters / 1e6:,.2f}M weights ({run.d_model} wide), {run.tokens / 1e6:,.2f}M tokens at "
        f"{run.learning_rate:.2g}: {what}, {run.seconds:,.0f} s"
    )
