"""`kerasllm scale`: small runs, the law of their losses, and the model that a budget is best spent on."""

import json
import shlex
from pathlib import Path

from kerasllm.cli.arguments import given_settings
from kerasllm.cli.scale_arguments import BATCH_SIZE, CONTEXT
from kerasllm.cli.startup import start_keras
from kerasllm.files import check_new_folder
from kerasllm.settings import TrainSettings, read_yaml
from kerasllm.settings.names import merge_settings

_WORDS = {"E": "E, what no model gets below", "A": "A, of weights", "B": "B, of tokens"}


def run(arguments):
    usual = {"batch_size": BATCH_SIZE, "model": {"max_length": CONTEXT}}
    values = merge_settings(usual, read_yaml(arguments.config) if arguments.config else {})
    settings = TrainSettings(**merge_settings(values, {**given_settings(arguments), "out": arguments.out}))
    check_new_folder(settings.out)
    start_keras()
    from kerasllm import report, selection
    from kerasllm.selection import scaling

    seconds = 3600 * arguments.for_hours if arguments.for_hours else None
    study, choice = selection.scale(settings, arguments.budget_minutes, arguments.for_flops, seconds)
    out = Path(settings.out)
    if arguments.json:
        print(json.dumps(json.loads((out / scaling.STUDY).read_text(encoding="utf-8"))))
        return
    report.table("loss = E + A / weights^alpha + B / tokens^beta, with 95 % of draws of the runs", law_rows(study))
    report.table("the best model for the budget", choice_rows(choice))
    report.stage(f"The runs, the law and its plot are in {out}/")
    report.next_commands(
        f"kerasllm train --config {shlex.quote(str(out / scaling.SETTINGS))} --out best",
        f"kerasllm runs {shlex.quote(str(out / 'runs'))}",
    )


def law_rows(study):
    """Rows of the law of a `ScalingStudy`."""
    for name, (low, high) in study.fit.intervals().items():
        yield _WORDS.get(name, name), f"{getattr(study.fit.law, name):,.4g}   {low:,.4g} to {high:,.4g}"
    yield "a run is off it by", f"{study.fit.noise:.2%}"
    sized = sum(run.purpose == "size" for run in study.runs)
    yield "fitted to", f"{sized} of {len(study.runs)} runs, of at most {study.largest_flops:.2g} FLOPs"


def choice_rows(choice):
    """Rows of a `ScalingChoice`."""
    from kerasllm.planning.words import duration

    config = choice.shape.config
    yield "weights", f"{choice.shape.parameters:,}: {config.num_layers} layers of width {config.d_model}"
    yield "tokens", f"{choice.tokens:,}: {choice.steps:,} steps, {choice.passes:.1f} passes over the text"
    yield "compute", f"{choice.flops:.3g} FLOPs, {duration(choice.seconds)} here"
    yield "learning rate", f"{choice.learning_rate:.2g}"
    yield "loss on what is held out", f"{choice.loss:.3f}, with 95 % between {choice.low:.3f} and {choice.high:.3f}"
