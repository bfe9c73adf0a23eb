"""The training recipe, from settings and text to a run folder; what is the task's own, its file in `tasks/` says.

    read the text -> train the tokenizer -> write token files -> fit -> measure on held-out text -> save

The run folder appears when the token files are complete, and the log, the plot and checkpoints grow in it while `fit`
runs. The weights and results come last, and the manifest after them: a run that was killed is readable, known to be
unfinished, and `resume` goes on with it.
"""

import datetime
import functools
import importlib.metadata
import math
import platform
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf
import yaml

import kerasllm
from kerasllm import backend, callbacks, privacy, report, runs, training
from kerasllm.callbacks import checkpoint_folder
from kerasllm.callbacks.checkpoint_folder import checkpoints
from kerasllm.energy import energy_used
from kerasllm.files import MANIFEST, read_json, seal, write_json
from kerasllm.huggingface.choosing import family_of
from kerasllm.planning.before_training import check_memory, plan_of_run, sentences
from kerasllm.recipe.fitting import fit, optimizer_of, trained_parameters
from kerasllm.recipe.processes import is_first, own_folder, run_folder
from kerasllm.settings import CHECKPOINTS, RECORD, SETTINGS, TrainSettings, read_yaml
from kerasllm.tasks import TASKS
from kerasllm.tasks.text import KINDS
from kerasllm.tokenizers import Tokenizer

__all__ = ["optimizer_of", "resume", "rows", "tokenizer_of", "train"]


def __dir__():  # what completion shows
    return __all__


DEFAULT_STEPS = 1000
ROUNDS = 20  # points of the validation curve
PACKAGES = ("tensorflow", "keras", "numpy", "tokenizers", "safetensors")


def train(settings, force=False):
    """Trains a model as the settings say and writes its run folder.

    Args:
        settings: a `kerasllm.settings.TrainSettings`.
        force: bool. Begin also where memory is foreseen to run out.

    Returns:
        The content of the folder's `run.json`: settings, versions, data, model and results.

    Raises:
        FileExistsError: if the run folder exists.
        ValueError: if the settings do not fit together, or the text is too short for them, or memory.
    """
    task = TASKS[settings.task](settings)
    config = task.config()  # Before any text is read: a wrong width must not cost minutes.
    for name in settings.trackers():
        callbacks.check_tracker(name)
    out = Path(settings.out)
    with run_folder(out) as draft:
        with backend.first_process_first():
            if is_first():
                tokenizer = tokenizer_of(settings, task)
                tokenizer.save(draft)
            else:
                tokenizer = Tokenizer.load(draft)
            config = task.fitted(config, tokenizer)
            foreseen = plan_of_run(settings, task, config)
            check_memory(foreseen, force)  # before all of the text is tokenized
            promise = _promise(settings, draft)
            batches = _batches(settings, task, config, tokenizer, draft, promise)
        measures = task.measure()
        sizes = (f"{amount_of(measured)} for {name}" for name, measured in measures.items())
        report.stage(", ".join(sizes))
        policy, why = training.precision(settings.precision)
        report.stage(f"Computing in {policy}: {why}")
        for sentence in sentences(foreseen, batches.steps):
            report.stage(sentence)
        model = _model(settings, task, config, policy)
        _say_what_cannot_be_converted(model)
        record = _record(settings, model, tokenizer, measures)
        if is_first():
            write_json(draft / RECORD, record)
            (draft / SETTINGS).write_text(yaml.safe_dump(settings.to_dict(), sort_keys=False), encoding="utf-8")
    return _finish(model, settings, task, tokenizer, batches, record, promise)


def amount_of(measured):
    """How much data there is, by what a task measures of it."""
    return f"{measured['bytes']:,} bytes of text" if "bytes" in measured else f"{measured['tokens']:,} tokens"


def resume(folder):
    """Goes on with a run that `train` began and that did not end, from its newest whole checkpoint.

    Its own settings hold, and the same text is read again: the model ends as if nothing had happened.

    Args:
        folder: path of the run folder.

    Returns:
        As `train`.

    Raises:
        FileNotFoundError: if it is no run folder that `train` began, or the text is gone.
        ValueError: if the run is finished, or its settings or the text are not what they were; if it has checkpoints
            and none of them is whole.
    """
    settings, record = _unfinished(Path(folder))
    task = TASKS[settings.task](settings)
    if task.measure() != record["data"]:
        raise ValueError(
            f"The text that {folder} is trained on has changed: {', '.join(settings.data)}. Bring it back."
        )
    tokenizer = Tokenizer.load(folder)
    config = task.fitted(task.config(), tokenizer)
    promise = _promise(settings, folder)
    batches = _batches(settings, task, config, tokenizer, Path(folder), promise)
    model = _model(settings, task, config, record["model"]["precision"])
    return _finish(model, settings, task, tokenizer, batches, record, promise)


def rows(record):
    """Rows for `report.table` of what `train` returns."""
    results = record["results"]
    yield "parameters", f"{record['model']['parameters']:,}"
    yield "trained on", f"{results['trained_tokens']:,} tokens in {results['seconds']:,.0f} s"
    if results["tokens_per_second"]:
        yield "training speed", f"{results['tokens_per_second']:,.0f} tokens/s"
    if kept := results.get("privacy"):
        yield "differential privacy", f"epsilon {kept['epsilon']:.2f} at delta {kept['delta']:g}, of {kept['protects']}"
    yield from TASKS[record["settings"]["task"]].rows_of_run(results)


def _unfinished(folder):
    """The settings and the record of a run that is to go on."""
    for name in (SETTINGS, RECORD):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is no run to go on with: it has no {name}. kerasllm train begins one.")
    if (folder / MANIFEST).exists():
        raise ValueError(f"{folder} is finished, and stays as it is: for more steps, train anew with --steps.")
    settings, record = read_yaml(folder / SETTINGS), read_json(folder / RECORD)
    if lacking := {"settings", "data", "model"} - record.keys():
        raise ValueError(f"{folder / RECORD} lacks {min(lacking)!r}: it is damaged.")
    if settings != record["settings"]:
        raise ValueError(f"{folder / SETTINGS} does not say what {RECORD} says: one of them was changed or damaged.")
    return TrainSettings(**{**settings, "out": str(folder)}), record


def _model(settings, task, config, policy):
    keras.utils.set_random_seed(settings.seed)  # here, so that a run that begins again does so with the same weights
    return task.model(config, policy)


def _say_what_cannot_be_converted(model):
    """Before hours of training, that `kerasllm convert` could not write the model for transformers."""
    try:
        family_of(type(model), model.config, getattr(getattr(model, "origin", None), "model_type", None), model)
    except (ValueError, TypeError) as error:
        report.stage(str(error))


def _finish(model, settings, task, tokenizer, batches, record, promise):
    """Trains, saves and measures; returns the record."""
    out = Path(settings.out)
    with energy_used() as energy, own_folder(out) as of_log:
        record["results"], checkpoint = fit(model, settings, task, tokenizer, batches, promise, of_log)
    record["results"] |= {"energy": energy} if energy else {}
    try:
        runs.add_model(model, tokenizer, out)
        backend.wait_for_processes()
        _seal(record, out)  # Measuring may fail; then the model is safe.
        if not settings.keep_checkpoints and is_first():
            _leave_best(checkpoint, batches.steps if promise is None else None)
        if backend.process()[1] > 1:  # what measures and generates reads a whole batch in one process
            record["results"]["measured"] = False
        else:
            report.stage("Measuring on what was held out")
            record["results"] |= task.score(model, tokenizer)
        _seal(record, out)
    except OSError as error:
        reason = f"Could not save the model in {out} ({error.strerror}); free some space and train with --resume {out}"
        raise OSError(error.errno, reason) from error
    return record


def _seal(record, out):
    if not is_first():
        return
    write_json(out / RECORD, record)
    privacy.forget(out)
    seal(out, leave_out=[CHECKPOINTS])


def _leave_best(checkpoint, steps):
    """Removes the checkpoints of a finished run, but for the best where that is not the end; without `steps` all, as
    those of a private run hold the key of its noise."""
    for step, path in checkpoints(checkpoint.folder).items():
        if steps is None or step == steps or step != checkpoint.best:
            checkpoint_folder.remove(path)
    if not any(checkpoint.folder.iterdir()):
        checkpoint.folder.rmdir()


def tokenizer_of(settings, task):
    """The tokenizer that a run asks for: its task's, one that is read, or one that is trained on its text."""
    if (tokenizer := task.tokenizer()) is not None:
        return tokenizer
    if settings.tokenizer not in KINDS:
        return Tokenizer.load(settings.tokenizer)
    report.stage(f"Training the {settings.tokenizer} tokenizer")
    return Tokenizer.train(
        task.texts(), settings.vocab_size, kind=settings.tokenizer, special_tokens=task.special_tokens
    )


def _record(settings, model, tokenizer, measures):
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "settings": settings.to_dict(),
        "versions": {
            "kerasllm": kerasllm.__version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "backend": keras.backend.backend(),
        "machine": platform.platform(),
        "data": measures,
        "tokenizer": {"vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint()},
        "model": {
            **model.config.to_dict(),
            "parameters": model.count_params(),
            "trained_parameters": trained_parameters(model),
            "precision": model.dtype_policy.name,
        },
    }


class _Batches(NamedTuple):
    """What `fit` is fed: steps in all, steps of one pass over the text, and both data sets."""

    steps: int
    steps_per_pass: int
    round_steps: int
    training: Callable  # (start_step) -> data set
    validation: tf.data.Dataset


def _promise(settings, folder):
    """The `privacy.Promise` of a run, or None."""
    if settings.dp_epsilon is None:
        return None
    if backend.process()[1] > 1:
        raise ValueError("dp_epsilon is for one process, which draws the rows and the noise of each step.")
    return privacy.Promise(settings.dp_epsilon, settings.dp_delta, settings.dp_clip_norm, folder)


def _batches(settings, task, config, tokenizer, folder, promise):
    """Batches for the whole run; the tokens are in the folder, or go there."""
    training, validation = task.datasets(config, tokenizer, folder / "tokens")
    if promise:
        training = functools.partial(training, **promise.drawing)
    steps_per_pass = len(training())
    steps = settings.epochs * steps_per_pass if settings.epochs else settings.steps or DEFAULT_STEPS
    round_steps = math.ceil(steps / ROUNDS)
    return _Batches(
        steps,
        steps_per_pass,
        round_steps,
        training=functools.partial(training, epochs=math.ceil(steps / steps_per_pass)),
        validation=validation.take(math.ceil(round_steps * task.validation_share)),
    )
