"""`kerasllm train` and `tune`: settings from the YAML file and the flags, checked before anything heavy is imported."""

import shlex
from pathlib import Path

from kerasllm.cli.arguments import given_settings
from kerasllm.cli.startup import start_keras
from kerasllm.files import check_new_folder
from kerasllm.settings import TrainSettings, read_yaml
from kerasllm.settings.names import merge_settings
from kerasllm.tasks import TASKS


def run(arguments):
    command = f"kerasllm {arguments.command}"
    settings = None if arguments.resume else merged_settings(arguments)
    if arguments.resume and (given := [*given_settings(arguments), *(["config"] if arguments.config else [])]):
        flag = "set" if given[0] == "model" else given[0].replace("_", "-")
        raise ValueError(f"--resume goes on with the settings that the run has: leave out --{flag}.")
    start_keras()
    from kerasllm import distribution, recipe, report

    if mesh := getattr(arguments, "mesh", None):
        distribution.use(distribution.mesh(**mesh))
    out = arguments.resume or settings.out
    run_folder = shlex.quote(out)
    try:
        record = recipe.resume(out) if arguments.resume else recipe.train(settings, getattr(arguments, "force", False))
    except (KeyboardInterrupt, SystemExit):
        if Path(out).is_dir():
            report.next_commands(f"{command} --resume {run_folder}")
        raise
    report.table(f"{out}: on what was held out", recipe.rows(record))
    report.next_commands(
        f"kerasllm {TASKS[record['settings']['task']].command_for(record['results'], run_folder)}",
        f"{command} --config {run_folder}/settings.yaml --out another-run   # the same again",
    )


def merged_settings(arguments):
    """The defaults, what the YAML file says over them, and the flags over both."""
    values, given = read_yaml(arguments.config) if arguments.config else {}, given_settings(arguments)
    tuned = TASKS.get(str({**values, **given}.get("task")))
    task = {"task": "tune"} if arguments.command == "tune" and not (tuned and tuned.tunes) else {}
    settings = TrainSettings(**merge_settings(values, {**given, **task}))
    check_new_folder(settings.out)
    return settings
