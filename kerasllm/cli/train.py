"""`kerasllm train` and `tune`: settings from the YAML file and the flags, checked before anything heavy is imported."""

import contextlib
import os
import shlex
import sys
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
    coordinator = getattr(arguments, "coordinator", None)
    if not coordinator and (getattr(arguments, "process", None), getattr(arguments, "processes", None)) != (None, None):
        raise ValueError("--process and --processes go with --coordinator HOST:PORT, where the first of them is.")
    start_keras(join=lambda: _join(arguments) if coordinator else None)
    from kerasllm import backend, distribution, recipe, report

    report.console.quiet = backend.process()[0] > 0
    if mesh := getattr(arguments, "mesh", None) or (coordinator and {"fsdp": -1}):
        distribution.use(distribution.mesh(**mesh))
    out = arguments.resume or settings.out
    run_folder = shlex.quote(out)
    try:
        with _ending_at_once(f"{command} --resume {run_folder}"):
            force = getattr(arguments, "force", False)
            record = recipe.resume(out) if arguments.resume else recipe.train(settings, force)
    except (KeyboardInterrupt, SystemExit):
        if Path(out).is_dir():
            report.next_commands(f"{command} --resume {run_folder}")
        raise
    backend.wait_for_processes()  # for one that ends earlier another may be dead
    report.table(f"{out}: on what was held out", recipe.rows(record))
    report.next_commands(
        f"kerasllm {TASKS[record['settings']['task']].command_for(record['results'], run_folder)}",
        f"{command} --config {run_folder}/settings.yaml --out another-run   # the same again",
    )


def _join(arguments):
    """Joins the other processes of a run."""
    from kerasllm import distribution

    if arguments.coordinator == "auto":
        distribution.initialize()
    elif arguments.process is None or arguments.processes is None:
        raise ValueError("--coordinator HOST:PORT goes with --process N and --processes N.")
    else:
        distribution.initialize(arguments.coordinator, arguments.processes, arguments.process)


@contextlib.contextmanager
def _ending_at_once(resume):
    """Ends a process of several that fails without a word to the others, who notice; they would wait for one another
    otherwise."""
    from kerasllm import backend

    number, count = backend.process()
    if count == 1:
        yield
        return
    try:
        yield
    except Exception as error:
        reason = str(error).partition("\n")[0]
        print(
            f"kerasllm: process {number} of {count} ends, here or because another has ended: {reason} "
            f"If there is a checkpoint, go on in all processes with: {resume} --coordinator ...",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)


def merged_settings(arguments):
    """The defaults, what the YAML file says over them, and the flags over both."""
    values, given = read_yaml(arguments.config) if arguments.config else {}, given_settings(arguments)
    tuned = TASKS.get(str({**values, **given}.get("task")))
    task = {"task": "tune"} if arguments.command == "tune" and not (tuned and tuned.tunes) else {}
    settings = TrainSettings(**merge_settings(values, {**given, **task}))
    check_new_folder(settings.out)
    return settings
