"""`kerasllm train`: settings from the YAML file and the flags, checked before anything heavy is imported."""

import dataclasses
from pathlib import Path

from kerasllm.cli.settings import TrainSettings, read_yaml


def run(arguments):
    settings = _merged_settings(arguments)
    from kerasllm.cli import recipe, report

    report.print_results(recipe.train(settings))


def _merged_settings(arguments):
    """The defaults, what the YAML file says over them, and the flags over both."""
    values = read_yaml(arguments.config) if arguments.config else {}
    names = {setting.name for setting in dataclasses.fields(TrainSettings)} & vars(arguments).keys()
    settings = TrainSettings(**{**values, **{name: getattr(arguments, name) for name in names}})
    if Path(settings.out).exists():
        raise FileExistsError(f"{settings.out} exists, and is left as it is: give --out a folder that does not.")
    return settings
