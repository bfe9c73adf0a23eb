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
from kerasllm import callbacks, privacy, report, runs, training
from kerasllm.callbacks import checkpoint_folder
from kerasllm.callbacks.checkpoint_folder import checkpoints
from kerasllm.energy import energy_used
from kerasllm.files import MANIFEST, new_folder, read_json, seal, write_json
from kerasllm.huggingface.choosing import family_of
from kerasllm.optimizers import AdamW, Muon, WarmupStableDecay, warmup_cosine
from kerasllm.planning.before_training import check_memory, plan_of_run, sentences
from kerasllm.settings import CHECKPOINTS, FIGURES, RECORD, SETTINGS, TrainSettings, read_yaml
from kerasllm.tasks import TASKS
from kerasllm.tokenizers import Tokenizer

__all__ = ["resume", "rows", "train"]


def __dir__():  # what completion shows
    return __all__


TOKENIZERS = ("bpe", "wordpiece", "unigram", "char", "byte")
DEFAULT_STEPS = 1000
ROUNDS = 20  # points of the validation curve
WATCH, SAMPLES = "watch.jsonl", "samples.md"
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
    with new_folder(out) as draft:
        tokenizer = tokenizer_of(settings, task)
        tokenizer.save(draft)
        config = task.fitted(config, tokenizer)
        foreseen = plan_of_run(settings, task, config)
        check_memory(foreseen, force)  # before all of the text is tokenized
        promise = _promise(settings, draft)
        batches = _batches(settings, task, config, tokenizer, draft, promise)
        measures = task.measure()
        sizes = (f"{m['bytes']:,} bytes of text for {name}" for name, m in measures.items())
        report.stage(", ".join(sizes))
        policy, why = training.precision(settings.precision)
        report.stage(f"Computing in {policy}: {why}")
        _say_what_cannot_be_converted(task, config)
        for sentence in sentences(foreseen, batches.steps):
            report.stage(sentence)
        model = _model(settings, task, config, policy)
        record = _record(settings, model, tokenizer, measures)
        write_json(draft / RECORD, record)
        (draft / SETTINGS).write_text(yaml.safe_dump(settings.to_dict(), sort_keys=False), encoding="utf-8")
    return _finish(model, settings, task, tokenizer, batches, record, promise)


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
    yield from TASKS[record["settings"]["task"]].rows(results)


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


def _say_what_cannot_be_converted(task, config):
    """Before hours of training, that `kerasllm convert` could not write the model for transformers."""
    try:
        family_of(task.model_class(), config)
    except (ValueError, TypeError) as error:
        report.stage(str(error))


def _finish(model, settings, task, tokenizer, batches, record, promise):
    """Trains, saves and measures; returns the record."""
    out = Path(settings.out)
    with energy_used() as energy:
        record["results"], checkpoint = _fit(model, settings, task, tokenizer, batches, promise)
    record["results"] |= {"energy": energy} if energy else {}
    try:
        runs.add_model(model, tokenizer, out)
        _seal(record, out)  # Measuring may fail; then the model is safe.
        if not settings.keep_checkpoints:
            _leave_best(checkpoint, batches.steps if promise is None else None)
        report.stage("Measuring on what was held out")
        record["results"] |= task.score(model, tokenizer)
        _seal(record, out)
    except OSError as error:
        reason = f"Could not save the model in {out} ({error.strerror}); free some space and train with --resume {out}"
        raise OSError(error.errno, reason) from error
    return record


def _seal(record, out):
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
    if settings.tokenizer not in TOKENIZERS:
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
            "trained_parameters": _trained_parameters(model),
            "precision": model.dtype_policy.name,
        },
    }


def _trained_parameters(model):
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


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


def _fit(model, settings, task, tokenizer, batches, promise):
    """Trains the model, from where its checkpoints say; returns the figures of the training and the `Checkpoint`."""
    out, steps = Path(settings.out), batches.steps
    training = batches.training()
    tokens_per_step, flops_per_token = task.tokens_per_step(model.config, training)
    if promise:
        promise.begin(training, steps)
        report.stage(
            f"Noise of {promise.noise_multiplier:g} times the norm {settings.dp_clip_norm:g} keeps epsilon "
            f"{settings.dp_epsilon:g} at delta {settings.dp_delta:g}: of the weights, where one row is there or not. "
            "The log, the plot and a tokenizer trained here are made of the text without noise"
        )
    model.compile(optimizer_of(settings, steps, promise), task.loss(), micro_batches=settings.micro_batches)
    trained, parameters = _trained_parameters(model), model.count_params()
    of_all = "" if trained == parameters else f" of {parameters:,}"
    report.stage(
        f"Training {trained:,}{of_all} parameters for {steps:,} steps of {tokens_per_step:,.0f} "
        f"tokens: {steps / batches.steps_per_pass:.1f} passes over the text"
    )
    log, plot = callbacks.RunLog(out, tokens_per_step), callbacks.RunPlot(out / "plot.png")
    guard = callbacks.LossGuard(task.loss_deviations, log=log, documents_at=None if promise else training.documents_at)
    trackers, watching = _watching(settings, tokenizer, batches.validation, tokens_per_step)
    checkpoint = callbacks.Checkpoint(
        out / CHECKPOINTS,
        **settings.save_interval(),
        keep=settings.keep_checkpoints or 2,
        tokenizer=tokenizer,
        callbacks=[log, plot, guard, *trackers, *watching],
    )
    done = checkpoint.restore(model)
    if done:
        training = batches.training(start_step=done) if done < steps else None
        report.stage(f"Going on after step {done:,}, with {steps - done:,} to go")
    else:
        for name in ("log.csv", "log.json", plot.path.name, WATCH, SAMPLES):
            (out / name).unlink(missing_ok=True)  # of a run that was killed before it saved anything
        task.begin(model, tokenizer)
    if done < steps:
        model.fit(
            training,
            epochs=math.ceil(steps / batches.round_steps),
            steps_per_epoch=batches.round_steps,
            validation_data=batches.validation,
            shuffle=False,  # The data set has an order of its own.
            callbacks=[
                *([keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if settings.ema_momentum else []),
                callbacks.Throughput(tokens_per_step, flops_per_token),
                *task.callbacks(tokenizer),
                *([promise.account()] if promise else []),
                log,
                plot,
                guard,
                *trackers,
                *watching,
                callbacks.StopAfter(steps - done),
                checkpoint,
            ],
            verbose=report.fit_verbosity(),
        )
    figures = steps, round(steps * tokens_per_step), log.seconds, log.tokens_per_second
    kept = {"privacy": promise.record()} if promise else {}
    return {**dict(zip(FIGURES, figures, strict=True)), **kept}, checkpoint


def _watching(settings, tokenizer, validation, tokens_per_step):
    """The trackers of a run, and what looks into the model and lets it write while it trains."""
    out, watching = Path(settings.out), []
    trackers = [callbacks.Tracker(name, out, settings.to_dict(), tokens_per_step) for name in settings.trackers()]
    if settings.watch_layers:
        batch = next(iter(validation))
        watching.append(callbacks.LayerWatch(batch, out / WATCH, settings.watch_layers, trackers))
    if settings.sample:
        watching.append(callbacks.TextSamples(settings.sample, tokenizer, out / SAMPLES, trackers))
    return trackers, watching


def optimizer_of(settings, steps, promise=None):
    """The optimizer of a run of so many steps, with its schedule."""
    make_schedule = warmup_cosine if settings.schedule == "cosine" else WarmupStableDecay
    schedule = make_schedule(settings.learning_rate, min(settings.warmup_steps, steps // 10), steps)
    make_optimizer = promise.optimizer if promise else AdamW if settings.optimizer == "adamw" else Muon
    average = {"use_ema": True, "ema_momentum": settings.ema_momentum} if settings.ema_momentum else {}
    return make_optimizer(schedule, weight_decay=settings.weight_decay, **average)
