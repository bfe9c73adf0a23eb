"""The figures and texts of a run where others keep theirs: TensorBoard, MLflow, Weights & Biases."""

import time
import warnings
from pathlib import Path

from kerasllm.callbacks.run_recorder import RunRecorder
from kerasllm.extras import optional

_NOT_FIGURES = ("step", "epoch")


class Tracker(RunRecorder):
    """Sends what `RunLog` writes to an experiment tracker, by the tracker's own library.

    `LayerWatch` and `TextSamples` send what they find too where they are given it. A run that `Checkpoint` restores
    goes on in the same place. Where the library fails while a run is under way, a warning says so, and it goes on.

    Args:
        library: "tensorboard", which writes into the folder; "mlflow" or "wandb", which keep things where their own
            settings say (MLFLOW_TRACKING_URI, WANDB_MODE and so on).
        folder: path of the run; its name is the run's.
        settings: dict of plain values that the tracker shows beside the run, or None.
        tokens_per_step, every: as for `RunLog`.

    Raises:
        ValueError: for another library.
        ImportError: where it is not installed.
        OSError: when `fit` begins, if the library cannot begin a run, for instance as a server does not answer.

    Example:

    >>> tracker = kerasllm.callbacks.Tracker("tensorboard", "my-run")
    >>> model.fit(dataset, callbacks=[tracker])   # tensorboard --logdir my-run
    """

    def __init__(self, library, folder, settings=None, tokens_per_step=None, every=10):
        super().__init__(tokens_per_step, every)
        check_tracker(library)
        self.library, self.folder, self.settings = library, Path(folder), dict(settings or {})
        self._place, self._run_id, self._has_warned = None, None, False

    def get_state(self, step):
        return {**super().get_state(step), "rows": self._rows[-1:], "run_id": self._run_id}

    def set_state(self, state):
        super().set_state(state)
        self._run_id = state["run_id"]

    def prepare(self):
        if self._place is None:
            try:
                self._place = TRACKERS[self.library](self.folder, self.settings, self._run_id)
            except Exception as error:  # each library has its own, for servers that do not answer and the like
                raise OSError(f"{self.library} could not begin a run: {' '.join(str(error).split())}") from error
            self._run_id = self._place.run_id

    def record(self, row):
        self.scalars(row["step"], {name: value for name, value in row.items() if name not in _NOT_FIGURES})

    def scalars(self, step, values):
        """Sends figures of a step: dict from names to floats; None is left out."""
        self._send("scalars", step, {name: float(value) for name, value in values.items() if value is not None})

    def texts(self, step, texts):
        """Sends texts of a step: dict from names to str."""
        self._send("texts", step, texts)

    def _send(self, method, *what):
        try:
            getattr(self._place, method)(*what)
        except Exception as error:  # each library has its own, and none is worth the run
            if not self._has_warned:
                reason = " ".join(str(error).split())
                warnings.warn(f"{self.library} did not take what it was sent; training goes on: {reason}", stacklevel=2)
            self._has_warned = True

    def on_train_end(self, logs=None):
        self._send("close")
        self._place = None


def check_tracker(library):
    """Refuses a tracker that is unknown or not installed, as `Tracker` does."""
    if library not in TRACKERS:
        raise ValueError(f"A run is tracked by {', '.join(TRACKERS)}, got {library!r}.")
    optional(TRACKERS[library].modules, "Runs are tracked")


class _TensorBoard:
    modules = "tensorboard tensorboard.summary.writer.event_file_writer"

    def __init__(self, folder, settings, run_id):
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.run_id = None
        self._writer = EventFileWriter(str(folder / "tensorboard"))
        if run_id is None and settings:
            self.texts(0, {"settings": "\n".join(f"    {name}: {value}" for name, value in settings.items())})

    def scalars(self, step, values):
        from tensorboard.plugins.scalar.summary_v2 import scalar_pb

        for name, value in values.items():
            self._add(step, scalar_pb(name, value))

    def texts(self, step, texts):
        from tensorboard.plugins.text.summary_v2 import text_pb

        for name, text in texts.items():
            self._add(step, text_pb(name, text))

    def _add(self, step, summary):
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(step=step, wall_time=time.time(), summary=summary))

    def close(self):
        self._writer.close()


class _MLflow:
    modules = "mlflow"

    def __init__(self, folder, settings, run_id):
        import mlflow

        self._mlflow = mlflow
        run = mlflow.start_run(run_id=run_id, run_name=None if run_id else folder.name)
        self.run_id = run.info.run_id
        if run_id is None:
            mlflow.log_params(settings)

    def scalars(self, step, values):
        self._mlflow.log_metrics(values, step=step)

    def texts(self, step, texts):
        for name, text in texts.items():
            self._mlflow.log_text(text, f"{name}/{step:08}.txt")

    def close(self):
        self._mlflow.end_run()


class _WeightsAndBiases:
    modules = "wandb"

    def __init__(self, folder, settings, run_id):
        import wandb

        self._wandb = wandb
        given = {"id": run_id, "resume": "must"} if run_id else {}
        self._run = wandb.init(project="kerasllm", name=folder.name, config=settings, **given)
        self.run_id = self._run.id

    def scalars(self, step, values):
        self._run.log({"step": step, **values})

    def texts(self, step, texts):
        rows = [[step, name, text] for name, text in texts.items()]
        self._run.log({"step": step, "texts": self._wandb.Table(columns=["step", "name", "text"], data=rows)})

    def close(self):
        self._run.finish()


# Each has `run_id`, by which the run is found again, `scalars`, `texts` and `close`.
TRACKERS = {"tensorboard": _TensorBoard, "mlflow": _MLflow, "wandb": _WeightsAndBiases}
