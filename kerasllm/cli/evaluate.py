"""`kerasllm evaluate`: the scores of a trained model on a text."""

import json
from pathlib import Path

from kerasllm.cli.dialogue_arguments import OF_DIALOGUE
from kerasllm.cli.startup import start_keras
from kerasllm.files import write_json
from kerasllm.tasks import TASKS, task_of


def run(arguments):
    if arguments.out and Path(arguments.out).exists():
        raise FileExistsError(f"{arguments.out} exists, and is left as it is: give --out the name of a new file.")
    start_keras()
    import kerasllm
    from kerasllm import report

    model, tokenizer = kerasllm.load(arguments.model, quantize=arguments.quantize)
    task, kind = TASKS.get(arguments.task) or task_of(model), type(model).__name__
    if not isinstance(model, task.model_class()):
        raise ValueError(f"--task {task.name} is for causal models, and {arguments.model} holds a {kind}.")
    given = {name: getattr(arguments, name) for name in ("stride", *OF_DIALOGUE)}
    options = {name: value for name, value in given.items() if value is not None}
    if task.name != "dialogue" and (others := [name for name in OF_DIALOGUE if name in options]):
        raise ValueError(f"--{others[0]} is for --task dialogue: leave it out.")
    if "stride" in options and not task.has_stride:
        raise ValueError(f"--stride is for causal models, and {arguments.model} holds a {kind}.")
    most = task.most_columns or task.num_columns
    if arguments.field and not task.num_columns <= len(arguments.field) <= most:
        columns = f"{task.num_columns}" if most == task.num_columns else f"{task.num_columns} or {most}"
        raise ValueError(
            f"--field takes {columns} for a {kind}, which {arguments.model} holds, not {len(arguments.field)}."
        )
    figures = task.evaluate(model, tokenizer, arguments.data, arguments.field, **options)
    if arguments.json:
        print(json.dumps(figures))
    else:
        report.table(f"{arguments.model} on {' '.join(arguments.data)}", task.rows(figures))
    if arguments.out:
        write_json(Path(arguments.out), figures)
