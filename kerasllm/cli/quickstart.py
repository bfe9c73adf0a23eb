"""`kerasllm quickstart`: everything the package does, once, on a small model and on text that every Python brings."""

import dataclasses
import itertools
import time
from pathlib import Path

from kerasllm.cli.startup import start_keras
from kerasllm.files import check_new_folder
from kerasllm.settings import TrainSettings

# The most steps, which quick machines make in their time. The text is short (0.4 MB): twice as many would learn it by
# heart.
SETTINGS = {
    "data": ("python_docs",),
    "tokenizer": "bpe",
    "vocab_size": 2000,
    "num_layers": 4,
    "d_model": 192,
    "num_heads": 4,
    "max_length": 128,
    "batch_size": 16,
    "steps": 500,
    "learning_rate": 3e-3,
    "warmup_steps": 50,
    "dropout": 0.1,
    "seed": 1,
}
PROMPT = "The function"
TRAINING_SHARE = 0.4  # of all the time; the rest goes into reading, compiling, measuring, writing and exporting
FEWEST_STEPS, MEASURED_STEPS = 50, 6


def run(arguments):
    start = time.perf_counter()
    out = Path(arguments.out) if arguments.out else _free_name("quickstart")
    settings = TrainSettings(**SETTINGS, out=str(out))
    check_new_folder(out)
    start_keras()
    from kerasllm import report

    report.stage(f"Everything goes to {out}/")
    steps = arguments.steps or steps_within(60 * TRAINING_SHARE * arguments.minutes, settings)
    follow(dataclasses.replace(settings, steps=steps))
    report.stage(
        f"All of it took {time.perf_counter() - start:,.0f} s. The log is in {out}/log.csv, the curve in {out}/plot.png"
    )
    report.next_commands(
        f'kerasllm generate --run {out} --prompt "The function" --temperature 0.8 --top-p 0.95 --seed 7',
        f"kerasllm evaluate --run {out} --data YOUR_TEXT.txt",
        "kerasllm train --data YOUR_TEXT.txt --out my-run",
        "kerasllm train --help",
    )


def steps_within(seconds, settings):
    """How many steps of training this machine makes in a time, by a few of a model of the same size on ids of no text.

    Args:
        seconds: float.
        settings: a `kerasllm.settings.TrainSettings`, whose `steps` are the most.
    """
    import numpy as np

    from kerasllm import training
    from kerasllm.optimizers import AdamW
    from kerasllm.tasks import TASKS

    task = TASKS[settings.task](settings)
    model = task.model(task.config(), training.precision(settings.precision)[0])
    model.compile(AdamW(settings.learning_rate))
    ids = np.zeros((settings.batch_size, model.config.max_length), "int32")
    times = []
    for _ in range(2 + MEASURED_STEPS):
        begin = time.perf_counter()
        model.train_on_batch(ids, ids)
        times.append(time.perf_counter() - begin)
    possible = min(seconds / float(np.median(times[2:])), settings.steps)  # the first two compile
    return min(max(int(possible) // 10 * 10, FEWEST_STEPS), settings.steps)


def follow(settings):
    """Trains as the settings say; then evaluates, generates and exports with what the run folder gives back.

    Args:
        settings: a `kerasllm.settings.TrainSettings`.
    """
    import kerasllm
    from kerasllm import recipe, report
    from kerasllm.export.comparison import check
    from kerasllm.tasks import TASKS
    from kerasllm.tasks.corpus import Corpus

    record = recipe.train(settings)
    report.stage("Loading the run folder and measuring again")
    model, tokenizer = kerasllm.load(settings.out)
    again = TASKS[settings.task].score_corpus(model, tokenizer, Corpus(settings.data, "valid"))
    if abs(again["loss"] - record["results"]["loss"]) > 1e-3:
        raise ValueError(
            f"The model that was loaded has a loss of {again['loss']:.4f}, the one that was saved "
            f"{record['results']['loss']:.4f}; please report this."
        )
    report.stage("Writing")
    length = min(100, model.config.max_length // 2)
    text = kerasllm.generate(model, tokenizer, PROMPT, length, sampler="top_p", temperature=0.8, seed=settings.seed)
    report.stage("Exporting a SavedModel and reading it back")
    exported = Path(settings.out) / "saved_model"
    kerasllm.export.saved_model(model, tokenizer, exported)
    difference = check(model, tokenizer, exported)
    rows = [*recipe.rows(record), ("SavedModel's logits", f"equal to {difference:.0e}")]
    report.table("Held-out text: the last tenth of Python's language reference", rows)
    report.sample(PROMPT, text)


def _free_name(name):
    """The name, or the first of name-2, name-3 ... that no file bears."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(path for path in map(Path, names) if not path.exists())
