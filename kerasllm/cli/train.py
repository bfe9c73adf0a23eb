"""`kerasllm train`: settings from the YAML file and the flags, checked before anything heavy is imported."""

import dataclasses
import shlex
from pathlib import Path

from kerasllm.cli.settings import TrainSettings, read_yaml
from kerasllm.cli.startup import start_keras

_USES = {
    "causal": 'generate --run {} --prompt "The" --temperature 0.8 --seed 1',
    "masked": "evaluate --run {} --data YOUR_TEXT.txt",
    "translate": 'translate --run {} --text "A sentence."',
}


def run(arguments):
    settings = merged_settings(arguments)
    start_keras()
    from kerasllm.cli import recipe, report

    record = recipe.train(settings)
    report.table(f"{settings.out}: on what was held out", report.run_rows(record))
    run_folder = shlex.quote(settings.out)
    report.next_commands(
        f"kerasllm {_USES[settings.task].format(run_folder)}",
        f"kerasllm train --config {run_folder}/settings.yaml --out another-run   # the same again",
    )


def merged_settings(arguments):
    """The defaults, what the YAML file says over them, and the flags over both."""
    values = read_yaml(arguments.config) if arguments.config else {}
    names = {setting.name for setting in dataclasses.fields(TrainSettings)} & vars(arguments).keys()
    settings = TrainSettings(**{**values, **{name: getattr(arguments, name) for name in names}})
    if Path(settings.out).exists():
        raise FileExistsError(f"{settings.out} exists, and is left as it is: give --out a folder that does not.")
    return settings
