"""The training recipe, from text to a run folder; `train` and `quickstart` both follow it.

    read the text -> train the tokenizer -> write token files -> fit -> measure on held-out text -> save

The run folder appears when the token files are complete, and the log and plot grow in it while `fit` runs. The weights
and results come last, and the manifest after them: a run that was killed is readable, and known to be unfinished.
"""

import datetime
import importlib.metadata
import math
import platform
import time
from pathlib import Path

import keras
import yaml

from kerasllm import callbacks, data, evaluation, runs
from kerasllm.cli import report
from kerasllm.cli.corpus import Corpus
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.optimizers import AdamW, warmup_cosine
from kerasllm.tokenizers import Tokenizer

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
PACKAGES = ("kerasllm", "tensorflow", "keras", "numpy", "tokenizers", "safetensors")


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
    with runs.new_folder(out) as draft:
        training, validation, measures = _split_text(settings)
        tokenizer = _tokenizer(settings, training)
        tokenizer.save(draft)
        report.stage("Writing token files")
        data.write_tokens(training, tokenizer, draft / "tokens" / "train")
        data.write_tokens(validation, tokenizer, draft / "tokens" / "valid")
        config = _config(settings, vocab_size=tokenizer.vocab_size)
        record = _record(settings, config, tokenizer, measures)
        runs.write_json(draft / "run.json", record)
        (draft / "settings.yaml").write_text(yaml.safe_dump(settings.to_dict(), sort_keys=False), encoding="utf-8")
    model = CausalLM(config, dtype=settings.precision)
    fitted = _fit(model, tokenizer, settings, out)
    report.stage("Measuring on the held-out text")
    scores = evaluation.perplexity(model, tokenizer, validation)
    record["results"] = {**fitted, **report.figures(scores), "gzip_bits_per_byte": validation.gzip_bits_per_byte()}
    runs.add_model(model, tokenizer, out)
    runs.write_json(out / "run.json", record)
    runs.seal(out)
    return record


def _config(settings, vocab_size=None):
    fields = {
        "num_layers": settings.layers,
        "d_model": settings.d_model,
        "num_heads": settings.heads,
        "dff": settings.dff or (4 * settings.d_model if settings.d_model else None),
        "max_length": settings.context,
        "dropout": settings.dropout,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    given["vocab_size"] = vocab_size or settings.vocab_size
    if settings.preset:
        return TransformerConfig.preset(settings.preset, **given)
    return TransformerConfig(**{**DEFAULT_MODEL, **given})


def _split_text(settings):
    """The training corpus, the validation corpus, and what the record says of both."""
    report.stage("Reading the text")
    training = Corpus(settings.data)
    measures = training.measure()
    if settings.valid:
        validation = Corpus(settings.valid)
    else:
        training, validation = training.split(measures["characters"])
        measures = training.measure()
    held_out = validation.measure()
    if not measures["bytes"] or not held_out["bytes"]:
        where = settings.valid if measures["bytes"] and settings.valid else settings.data
        raise ValueError(f"There is no text to train and measure on in {', '.join(where)}; give it some sentences.")
    report.stage(f"{measures['bytes']:,} bytes to train on, {held_out['bytes']:,} held out to measure on")
    return training, validation, {"train": measures, "valid": held_out}


def _tokenizer(settings, training):
    if settings.tokenizer not in ("bpe", "char", "byte"):
        return Tokenizer.load(settings.tokenizer)
    report.stage(f"Training the {settings.tokenizer} tokenizer")
    return Tokenizer.train(training, vocab_size=settings.vocab_size, kind=settings.tokenizer)


def _record(settings, config, tokenizer, measures):
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "settings": settings.to_dict(),
        "seed": settings.seed,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "backend": keras.backend.backend(),
        "machine": platform.platform(),
        "data": measures,
        "tokenizer": {"vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint()},
        "model": {**config.to_dict(), "parameters": config.num_parameters()},
    }


def _fit(model, tokenizer, settings, out):
    """Trains the model and returns the figures of the training itself."""
    context = model.config.max_length

    def dataset(part, epochs=1):
        return data.causal_lm_dataset(
            out / "tokens" / part,
            tokenizer,
            seq_len=context,
            batch_size=settings.batch_size,
            seed=settings.seed,
            epochs=epochs,
        )

    steps_per_pass = len(dataset("train"))
    steps = settings.epochs * steps_per_pass if settings.epochs else settings.steps or DEFAULT_STEPS
    round_steps = math.ceil(steps / ROUNDS)
    validation = dataset("valid").take(max(1, math.ceil(round_steps * VALIDATION_SHARE)))
    schedule = warmup_cosine(settings.lr, min(settings.warmup, steps // 10), steps)
    model.compile(AdamW(schedule, weight_decay=settings.weight_decay))
    report.stage(
        f"Training {model.config.num_parameters():,} parameters for {steps:,} steps of "
        f"{settings.batch_size} x {context} tokens, {steps / steps_per_pass:.1f} passes over the text"
    )
    tokens_per_step = settings.batch_size * context
    throughput = callbacks.Throughput(tokens_per_step, model.config.flops_per_token(context))
    start = time.perf_counter()
    model.fit(
        dataset("train", epochs=math.ceil(steps / steps_per_pass)),
        epochs=math.ceil(steps / round_steps),
        steps_per_epoch=round_steps,
        validation_data=validation,
        callbacks=[throughput, callbacks.RunLog(out), callbacks.RunPlot(out / "plot.png"), _StopAfter(steps)],
        verbose=report.fit_verbosity(),
    )
    seconds = time.perf_counter() - start
    return {"steps": steps, "trained_tokens": steps * tokens_per_step, "seconds": seconds}


class _StopAfter(keras.callbacks.Callback):
    """Ends `fit` after exactly so many steps, also within the last round."""

    def __init__(self, steps):
        super().__init__()
        self._left = steps

    def on_train_batch_end(self, batch, logs=None):
        self._left -= 1
        if self._left == 0:
            self.model.stop_training = True
