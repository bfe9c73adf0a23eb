"""The training of a run: what is compiled, what watches it, and what is kept of it."""

import math
from pathlib import Path

import keras

from kerasllm import backend, callbacks, report
from kerasllm.optimizers import AdamW, Muon, WarmupStableDecay, warmup_cosine
from kerasllm.settings import CHECKPOINTS, FIGURES

WATCH, SAMPLES = "watch.jsonl", "samples.md"


def fit(model, settings, task, tokenizer, batches, promise, out):
    """Trains the model, from where its checkpoints say, with its log in a folder; returns the figures of the training
    and the `Checkpoint`."""
    steps = batches.steps
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
    trained, parameters = trained_parameters(model), model.count_params()
    of_all = "" if trained == parameters else f" of {parameters:,}"
    report.stage(
        f"Training {trained:,}{of_all} parameters for {steps:,} steps of {tokens_per_step:,.0f} "
        f"tokens: {steps / batches.steps_per_pass:.1f} passes over the text"
    )
    log, plot = callbacks.RunLog(out, tokens_per_step), callbacks.RunPlot(out / "plot.png")
    guard = callbacks.LossGuard(task.loss_deviations, log=log, documents_at=None if promise else training.documents_at)
    trackers, watching = _watching(settings, tokenizer, batches.validation, tokens_per_step, out)
    checkpoint = callbacks.Checkpoint(
        Path(settings.out) / CHECKPOINTS,
        **_save_interval(settings, batches),
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


def _save_interval(settings, batches):
    interval, count = settings.save_interval(), backend.process()[1]
    if count == 1 or "every_steps" in interval:
        return interval
    report.stage(f"The clocks of {count} processes differ, so they save every {batches.round_steps:,} steps")
    return {"every_steps": batches.round_steps}


def _watching(settings, tokenizer, validation, tokens_per_step, out):
    """The trackers of a run, and what looks into the model and lets it write while it trains."""
    watching = []
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


def trained_parameters(model):
    """How many numbers are trained."""
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)
