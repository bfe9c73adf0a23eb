"""`kerasllm train`: settings from the YAML file and the flags, checked before anything heavy is imported."""

import dataclasses
import shlex
from pathlib import Path

from kerasllm.cli.settings import TrainSettings, read_yaml
from kerasllm.cli.startup import start_keras
from kerasllm.files import check_new_folder

_USES = {
    "causal": 'generate --run {} --prompt "The" --temperature 0.8 --seed 1',
    "masked": "evaluate --run {} --data YOUR_TEXT.txt",
    "translate": 'translate --run {} --text "A sentence."',
}


def run(arguments):
    settings = None if arguments.resume else merged_settings(arguments)
    if arguments.resume and (given := [*_given(arguments), *(["config"] if arguments.config else [])]):
        raise ValueError(
            f"--resume goes on with the settings that the run has: leave out --{given[0].replace('_', '-')}."
        )
    start_keras()
    from kerasllm.cli import recipe, report

    out = arguments.resume or settings.out
    run_folder = shlex.quote(out)
    try:
        record = recipe.resume(out) if arguments.resume else recipe.train(settings)
    except (KeyboardInterrupt, SystemExit):
        if Path(out).is_dir():
            report.next_commands(f"kerasllm train --resume {run_folder}")
        raise
    report.table(f"{out}: on what was held out", report.run_rows(record))
    report.next_commands(
        f"kerasllm {_USES[record['settings']['task']].format(run_folder)}",
        f"kerasllm train --config {run_folder}/settings.yaml --out another-run   # the same again",
    )


def merged_settings(arguments):
    """The defaults, what the YAML file says over them, and the flags over both."""
    values = read_yaml(arguments.config) if arguments.config else {}
    settings = TrainSettings(**{**values, **{name: getattr(arguments, name) for name in _given(arguments)}})
    check_new_folder(settings.out)
    return settings


def _given(arguments):
    """The names of the settings that the command line gives."""
    return [setting.name for setting in dataclasses.fields(TrainSettings) if setting.name in vars(arguments)]
