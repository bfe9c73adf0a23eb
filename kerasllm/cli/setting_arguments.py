"""Settings of a training run as flags."""

import argparse

from kerasllm.settings import TrainSettings
from kerasllm.settings.names import SHORT


def add_field(command):
    """Adds --set, of any field of the model."""
    command.add_argument(
        "--set",
        dest="model",
        action="append",
        metavar="model.FIELD=VALUE",
        help=TrainSettings.__dataclass_fields__["model"].metadata["help"],
        default=argparse.SUPPRESS,
    )


def add_setting(command, name, about, default=None, first=()):
    """Adds the flag of a setting.

    Args:
        command: a parser.
        name: str, of the setting.
        about: dict, its metadata.
        default: what is shown as its default; the setting is absent where no flag gives it.
        first: names of its that go before it.
    """
    names = [*first, name, *(other for other, ours in SHORT.items() if ours == name)]
    flags = [f"--{each.replace('_', '-')}" for each in names]
    shown = "" if default in (None, (), False) else f" (default: {default})"
    options = {"dest": name, "help": about["help"] + shown, "default": argparse.SUPPRESS}
    if about["kind"] is bool:
        command.add_argument(*flags, action=argparse.BooleanOptionalAction, **options)
        return
    metavar = about["metavar"] or {int: "N", float: "X", str: "NAME"}[about["kind"]]
    command.add_argument(
        *flags,
        type=about["kind"],
        choices=about["choices"],
        nargs=("*" if about["alone"] else "+") if default == () else None,
        metavar=None if about["choices"] else metavar,
        **options,
    )
