"""`kerasllm evaluate`: the scores of a trained model on a text, or in tasks that all are measured by."""

import json
from pathlib import Path

from kerasllm.cli.dialogue_arguments import OF_DIALOGUE
from kerasllm.cli.evaluate_arguments import OF_HARNESS, OF_OFFLINE, OF_TASKS
from kerasllm.cli.startup import start_keras
from kerasllm.files import write_json
from kerasllm.tasks import TASKS, task_of


def run(arguments):
    if arguments.out and Path(arguments.out).exists():
        raise FileExistsError(f"{arguments.out} exists, and is left as it is: give --out the name of a new file.")
    of_tasks = {*OF_TASKS, *OF_OFFLINE, *OF_HARNESS} - ({"limit", "seed"} if arguments.compare else set())
    if arguments.data and (others := sorted(_given(arguments, of_tasks))):
        raise ValueError(f"--{others[0].replace('_', '-')} is for --tasks: leave it out.")
    start_keras()
    if arguments.data and arguments.compare:
        from kerasllm.cli import evaluate_judged

        return evaluate_judged.run(arguments)
    if arguments.tasks:
        from kerasllm.cli import evaluate_tasks

        return evaluate_tasks.run(arguments)
    import kerasllm
    from kerasllm import report

    model, tokenizer = kerasllm.load(arguments.model, quantize=arguments.quantize)
    figures, rows = _scores(arguments, model, tokenizer)
    if arguments.json:
        print(json.dumps(figures))
    else:
        report.table(f"{arguments.model} on {' '.join(arguments.data)}", rows)
    if arguments.out:
        write_json(Path(arguments.out), figures)


def _scores(arguments, model, tokenizer):
    """Figures on a text, and rows of the table of them."""
    task, kind = TASKS.get(arguments.task) or task_of(model), type(model).__name__
    if not isinstance(model, task.model_class()):
        raise ValueError(f"--task {task.name} is for causal models, and {arguments.model} holds a {kind}.")
    options = _given(arguments, ("stride", *OF_DIALOGUE))
    if task.name != "dialogue" and (others := [name for name in OF_DIALOGUE if name in options]):
        raise ValueError(f"--{others[0].replace('_', '-')} is for --task dialogue: leave it out.")
    if "stride" in options and not task.has_stride:
        raise ValueError(f"--stride is for causal models, and {arguments.model} holds a {kind}.")
    most = task.most_columns or task.num_columns
    if arguments.field and not task.num_columns <= len(arguments.field) <= most:
        columns = f"{task.num_columns}" if most == task.num_columns else f"{task.num_columns} or {most}"
        raise ValueError(
            f"--field takes {columns} for a {kind}, which {arguments.model} holds, not {len(arguments.field)}."
        )
    figures = task.evaluate(model, tokenizer, arguments.data, arguments.field, **options)
    return figures, task.rows(figures)


def _given(arguments, names):
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}
