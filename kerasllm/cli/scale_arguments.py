"""The flags of `kerasllm scale`."""

import dataclasses

from kerasllm.cli.setting_arguments import add_setting
from kerasllm.settings import TrainSettings

# Settings of `kerasllm train` that hold for all runs, those with flags of their own; --config takes the others too.
_SETTINGS = ("data", "valid", "field", "tokenizer", "vocab_size", "preset", "batch_size", "precision", "seed")
BATCH_SIZE, CONTEXT = 16, 128  # small, so that small runs have enough steps


def add_scale_arguments(command, positive):
    """Adds them to a command; `positive` makes types of numbers above 0."""
    fields = {field.name: field for field in dataclasses.fields(TrainSettings)}
    for name in _SETTINGS:
        about, default = fields[name].metadata, fields[name].default
        if name == "batch_size":
            about, default = {**about, "help": "windows in a training step"}, BATCH_SIZE
        add_setting(command, name, about, default)
    number = positive(float)
    command.add_argument(
        "--max-length",
        "--context",
        type=positive(int),
        metavar="N",
        help=f"tokens in a training window (default: {CONTEXT})",
    )
    command.add_argument("--config", metavar="YAML", help="settings of kerasllm train, for all runs; flags win")
    command.add_argument("--budget-minutes", type=number, required=True, metavar="X", help="time for the small runs")
    larger = command.add_mutually_exclusive_group()
    larger.add_argument(
        "--for-hours", type=number, metavar="X", help="choose the model for so much time on this machine"
    )
    larger.add_argument(
        "--for-flops",
        type=number,
        metavar="X",
        help="or for so much compute, such as 1e18 (default: 8 times that of the largest small run)",
    )
    command.add_argument("--out", required=True, metavar="DIR", help="folder to make: the study, its plot, the runs")
    command.add_argument("--json", action="store_true", help="print JSON in place of tables")
