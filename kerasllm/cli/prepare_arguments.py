"""The flags of `kerasllm prepare`."""

import argparse
import dataclasses

from kerasllm.cli.setting_arguments import add_setting
from kerasllm.settings import TrainSettings

_SETTINGS = ("data", "field", "clean", "deduplicate")  # which mean what they do to `kerasllm train`


def add_prepare_arguments(command, positive):
    """Adds them to a command; `positive` makes types of numbers above 0."""
    fields = {field.name: field for field in dataclasses.fields(TrainSettings)}
    for name in _SETTINGS:
        about = fields[name].metadata
        if name == "data":
            about = {
                **about,
                "help": "text: files (text, .jsonl, .json, .csv, .tsv, .parquet, compressed or not), folders, globs, "
                "those of object stores as gs://BUCKET/FOLDER, tfds:NAME, hf:OWNER/NAME or python_docs",
            }
        add_setting(command, name, about, fields[name].default)
    command.add_argument(
        "--languages",
        nargs="+",
        default=[],
        metavar="CODE",
        help="keep documents in these languages alone, such as en de (needs py3langid; default: all)",
    )
    command.add_argument(
        "--decontaminate",
        nargs="+",
        default=[],
        metavar="PATH",
        help="texts to measure on, as for --data: documents that share 13 words in a row with them are left out",
    )
    command.add_argument(
        "--tokenizer", required=True, metavar="DIR", help="a folder that holds a tokenizer, such as a run folder"
    )
    command.add_argument(
        "--out", required=True, metavar="TOKENS", help="folder to make, for --data of kerasllm train; also gs://…"
    )
    command.add_argument(
        "--shards", type=positive(int), metavar="N", help="parts to write (default: one for each 64 MB of files)"
    )
    command.add_argument(
        "--runner",
        nargs=argparse.REMAINDER,
        metavar="RUNNER ...",
        help="last: have Apache Beam do it, on this runner with these options of its own (default: one process)",
    )
