"""The training recipe, from text to a run folder; `train` and `quickstart` both follow it.

    read the text -> train the tokenizer -> write token files -> fit -> measure on held-out text -> save

The run folder appears when the token files are complete, and the log and plot grow in it while `fit` runs. The weights
and results come last, and the manifest after them: a run that was killed is readable, and known to be unfinished.
"""

import dataclasses
import datetime
import importlib.metadata
import math
import platform
import time
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf
import yaml

import kerasllm
from kerasllm import callbacks, runs, training
from kerasllm.cli import report
from kerasllm.cli.causal_task import CausalTask
from kerasllm.cli.masked_task import MaskedTask
from kerasllm.cli.translation_task import TranslationTask
from kerasllm.files import new_folder, write_json
from kerasllm.losses import TokenCrossentropy
from kerasllm.models import TransformerConfig
from kerasllm.optimizers import AdamW, Muon, WarmupStableDecay, warmup_cosine
from kerasllm.tokenizers import Tokenizer

TASKS = {"causal": CausalTask, "masked": MaskedTask, "translate": TranslationTask}
TOKENIZERS = ("bpe", "wordpiece", "unigram", "char", "byte")
DEFAULT_STEPS = 1000
# Points of the validation curve, and the most of a run's batches that each of them may cost.
ROUNDS = 20
VALIDATION_SHARE = 0.1
# A laptop's model where neither a preset nor a flag says otherwise. No biases, and squared ReLU: both are as good and
# quicker to train than GPT-2's choices (Primer, https://arxiv.org/abs/2109.08668).
DEFAULT_MODEL = {
    "num_layers": 4,
    "d_model": 256,
    "num_heads": 4,
    "dff": 1024,
    "max_length": 256,
    "norm": "rms",
    "activation": "relu_squared",
    "use_bias": False,
}
PACKAGES = ("tensorflow", "keras", "numpy", "tokenizers", "safetensors")


def train(settings):
    """Trains a model as the settings say and writes its run folder.

    Args:
        settings: a `kerasllm.cli.settings.TrainSettings`.

    Returns:
        The content of the folder's `run.json`: settings, versions, data, model and results.

    Raises:
        FileExistsError: if the run folder exists.
        ValueError: if the settings do not fit together, or the text is too short for them.
    """
    config = _config(settings)  # Before any text is read: a wrong width must not cost minutes.
    keras.utils.set_random_seed(settings.seed)
    out = Path(settings.out)
    task = TASKS[settings.task](settings)
    with new_folder(out) as draft:
        measures = task.measure()
        sizes = (f"{m['bytes']:,} bytes of text for {name}" for name, m in measures.items())
        report.stage(", ".join(sizes))
        tokenizer = _tokenizer(settings, task)
        tokenizer.save(draft)
        config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size)
        batches = _batches(settings, *task.datasets(config, tokenizer, draft / "tokens"))
        policy, why = training.precision(settings.precision)
        report.stage(f"Computing in {policy}: {why}")
        model = task.model_class(config, dtype=policy)
        record = _record(settings, model, tokenizer, measures)
        write_json(draft / "run.json", record)
        (draft / "settings.yaml").write_text(yaml.safe_dump(settings.to_dict(), sort_keys=False), encoding="utf-8")
    fitted = _fit(model, settings, task, tokenizer, batches, out)
    record["results"] = fitted
    try:
        runs.add_model(model, tokenizer, out)
        _seal(record, out)  # Measuring may fail; then the model is safe.
        report.stage("Measuring on what was held out")
        record["results"] |= task.score(model, tokenizer)
        _seal(record, out)
    except OSError as error:
        reason = f"Could not save the model in {out} ({error.strerror}); free some space and train again"
        raise OSError(error.errno, reason) from error
    return record


def _seal(record, out):
    write_json(out / "run.json", record)
    runs.seal(out)


def _config(settings):
    fields = {
        "num_layers": settings.layers,
        "d_model": settings.d_model,
        "num_heads": settings.heads,
        "dff": settings.dff,
        "max_length": settings.context,
        "dropout": settings.dropout,
        "attention_dropout": settings.attention_dropout,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    given |= {"vocab_size": settings.vocab_size}
    if settings.task == "translate" and settings.layers:
        given["num_encoder_layers"] = settings.layers
    if settings.preset:
        return TransformerConfig.preset(settings.preset, **given)
    if settings.d_model and not settings.dff:
        given["dff"] = 4 * settings.d_model
    return TransformerConfig(**{**DEFAULT_MODEL, **given})


def _tokenizer(settings, task):
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
        "model": {**model.config.to_dict(), "parameters": model.count_params(), "precision": model.dtype_policy.name},
    }


class _Batches(NamedTuple):
    """What `fit` is fed: steps in all, steps of one pass over the text, and both data sets."""

    steps: int
    steps_per_pass: int
    round_steps: int
    training: tf.data.Dataset
    validation: tf.data.Dataset


def _batches(settings, training, validation):
    """Batches for the whole run.

    Args:
        training: function (epochs) -> data set.
        validation: data set.
    """
    steps_per_pass = len(training(1))
    steps = settings.epochs * steps_per_pass if settings.epochs else settings.steps or DEFAULT_STEPS
    round_steps = math.ceil(steps / ROUNDS)
    return _Batches(
        steps,
        steps_per_pass,
        round_steps,
        training=training(math.ceil(steps / steps_per_pass)),
        validation=validation.take(math.ceil(round_steps * VALIDATION_SHARE)),
    )


def _fit(model, settings, task, tokenizer, batches, out):
    """Trains the model and returns the figures of the training itself."""
    steps = batches.steps
    tokens_per_step, flops_per_token = task.tokens_per_step(model.config, batches.training)
    model.compile(_optimizer(settings, steps), TokenCrossentropy(settings.label_smoothing))
    report.stage(
        f"Training {model.count_params():,} parameters for {steps:,} steps of {tokens_per_step:,.0f} "
        f"tokens: {steps / batches.steps_per_pass:.1f} passes over the text"
    )
    log = callbacks.RunLog(out, tokens_per_step)
    start = time.perf_counter()
    model.fit(
        batches.training,
        epochs=math.ceil(steps / batches.round_steps),
        steps_per_epoch=batches.round_steps,
        validation_data=batches.validation,
        shuffle=False,  # The data set has an order of its own.
        callbacks=[
            *([keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if settings.ema else []),
            callbacks.Throughput(tokens_per_step, flops_per_token),
            *task.callbacks(tokenizer),
            log,
            callbacks.RunPlot(out / "plot.png"),
            _StopAfter(steps),
        ],
        verbose=report.fit_verbosity(),
    )
    return {
        "steps": steps,
        "trained_tokens": round(steps * tokens_per_step),
        "seconds": time.perf_counter() - start,
        "tokens_per_second": log.tokens_per_second,
    }


def _optimizer(settings, steps):
    warmup = min(settings.warmup, steps // 10)
    make_schedule = warmup_cosine if settings.schedule == "cosine" else WarmupStableDecay
    make_optimizer = AdamW if settings.optimizer == "adamw" else Muon
    average = {"use_ema": True, "ema_momentum": settings.ema} if settings.ema else {}
    return make_optimizer(make_schedule(settings.lr, warmup, steps), weight_decay=settings.weight_decay, **average)


class _StopAfter(keras.callbacks.Callback):
    """Ends `fit` after exactly so many steps, also in the middle of the last round."""

    def __init__(self, steps):
        super().__init__()
        self._left = steps

    def on_train_batch_end(self, batch, logs=None):
        self._left -= 1
        if self._left == 0:
            self.model.stop_training = True
