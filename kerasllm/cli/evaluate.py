"""`kerasllm evaluate`: the scores of a trained model on a text, or in tasks that all are measured by."""

import json
from pathlib import Path

from kerasllm.cli.dialogue_arguments import OF_DIALOGUE
from kerasllm.cli.harness_arguments import OF_TASKS
from kerasllm.cli.startup import start_keras
from kerasllm.extras import optional
from kerasllm.files import write_json
from kerasllm.tasks import TASKS, task_of


def run(arguments):
    if arguments.out and Path(arguments.out).exists():
        raise FileExistsError(f"{arguments.out} exists, and is left as it is: give --out the name of a new file.")
    start_keras()
    import kerasllm
    from kerasllm import report

    model, tokenizer = kerasllm.load(arguments.model, quantize=arguments.quantize)
    if arguments.tasks:
        figures, rows = _harness_scores(arguments, model, tokenizer)
    else:
        figures, rows = _scores(arguments, model, tokenizer)
    if arguments.json:
        print(json.dumps(figures))
    else:
        report.table(f"{arguments.model} on {' '.join(arguments.tasks or arguments.data)}", rows)
    if arguments.out:
        write_json(Path(arguments.out), figures)


def _scores(arguments, model, tokenizer):
    """Figures on a text, and rows of the table of them."""
    if others := list(_given(arguments, OF_TASKS)):
        raise ValueError(f"--{others[0].replace('_', '-')} is for --tasks: leave it out.")
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


def _harness_scores(arguments, model, tokenizer):
    """The same of tasks of lm-evaluation-harness."""
    others = list(_given(arguments, ("stride", "task", *OF_DIALOGUE)))
    if others or arguments.field:
        others.append("field")
        raise ValueError(f"--{others[0]} is for --data: leave it out.")
    optional("lm_eval", "These tasks are read and scored")
    from kerasllm.evaluation.harness import harness_scores

    options = _given(arguments, OF_TASKS)
    if "few_shot" in options:
        options["num_fewshot"] = options.pop("few_shot")
    figures = harness_scores(model, tokenizer, arguments.tasks, **options)
    rows = [
        (f"{task} {name}", _with_error(value, scores.get(f"{name}_stderr")))
        for task, scores in figures.items()
        for name, value in scores.items()
        if not name.endswith("_stderr")
    ]
    return figures, rows


def _with_error(value, error):
    return f"{value:.4f} ± {error:.4f}" if error else f"{value:.4f}"


def _given(arguments, names):
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}
