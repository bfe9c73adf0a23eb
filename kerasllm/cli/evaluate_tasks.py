"""`kerasllm evaluate --tasks`: of one model, of two side by side, or of the checkpoints of a run."""

import json
from pathlib import Path

from kerasllm.cli.dialogue_arguments import OF_DIALOGUE
from kerasllm.cli.evaluate_arguments import OF_HARNESS, OF_OFFLINE, OF_TASKS
from kerasllm.extras import optional
from kerasllm.files import MANIFEST, read_json, write_json
from kerasllm.settings import CHECKPOINTS, RECORD


def run(arguments):
    """Prints the figures, as a table or JSON, and writes and draws them where that is asked for."""
    _check(arguments)
    from kerasllm import report
    from kerasllm.evaluation import tasks

    ours = [name for name in arguments.tasks if tasks.is_offline(name)]
    theirs = [name for name in arguments.tasks if name not in ours]
    _check_of(arguments, ours, theirs)
    title, named = f"{arguments.model} in {' '.join(arguments.tasks)}", {}
    if arguments.compare:
        title = f"{' and '.join(arguments.compare)} in {' '.join(ours)}"
        named = _of_models(arguments, arguments.compare, ours)
        figures, rows = _compared(named, arguments.seed or 0)
    elif arguments.checkpoints:
        named = {step: _of_models(arguments, [path], ours)[path] for step, path in _steps(arguments.model).items()}
        figures, rows = _over_steps(named)
    else:
        figures, rows = _of_one(arguments, ours, theirs, named)
    if arguments.json:
        print(json.dumps(figures))
    else:
        report.table(title, rows)
    if arguments.out:
        write_json(Path(arguments.out), figures)
    if arguments.plot:
        (tasks.plot_steps if arguments.checkpoints else tasks.plot_tasks)(named, arguments.plot)


def _check(arguments):
    for name in ("stride", "task", "field", *OF_DIALOGUE):
        if getattr(arguments, name):
            raise ValueError(f"--{name.replace('_', '-')} is for --data: leave it out.")
    if arguments.plot and Path(arguments.plot).suffix.lower() != ".png":
        raise ValueError(f"--plot takes the name of a .png file, not {arguments.plot}.")
    if arguments.checkpoints and arguments.compare:
        raise ValueError("--checkpoints is of one run: give --model in place of --compare.")
    if arguments.compare and len(set(arguments.compare)) != 2:
        raise ValueError(f"--compare of tasks takes two models, not {' '.join(arguments.compare)}.")


def _check_of(arguments, ours, theirs):
    """Refuses what does nothing for the tasks that are asked for."""
    if theirs:
        for name in ("compare", "checkpoints", "plot"):
            if getattr(arguments, name):
                raise ValueError(f"--{name} is for tasks that need no download, and {theirs[0]} is none of them.")
        optional("lm_eval", "These tasks are read and scored")
    for names, kind, others in ((OF_HARNESS, ours, theirs), (OF_OFFLINE, theirs, ours)):
        for name in names:
            if getattr(arguments, name) is not None and not others:
                raise ValueError(f"--{name.replace('_', '-')} does nothing for {kind[0]}: leave it out.")


def _given(arguments, names):
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}


def _of_one(arguments, ours, theirs, named):
    """Figures and rows of one model, whose `TaskScores` are put into `named`."""
    import kerasllm
    from kerasllm.evaluation import task_scores

    model, tokenizer = kerasllm.load(arguments.model, quantize=arguments.quantize)
    figures, rows = {}, []
    if ours:
        named[arguments.model] = task_scores(model, tokenizer, ours, **_options(arguments))
        figures = {name: scores.to_dict() for name, scores in named[arguments.model].items()}
        rows = [row for scores in named[arguments.model].values() for row in scores.rows()]
    if theirs:
        from kerasllm.evaluation.harness import harness_scores

        options = _given(arguments, (*OF_TASKS, *OF_HARNESS))
        if "few_shot" in options:
            options["num_fewshot"] = options.pop("few_shot")
        found = harness_scores(model, tokenizer, theirs, **options)
        rows += [
            (f"{task} {name}", _with_error(value, scores.get(f"{name}_stderr")))
            for task, scores in found.items()
            for name, value in scores.items()
            if not name.endswith("_stderr")
        ]
        figures |= found
    return figures, rows


def _with_error(value, error):
    return f"{value:.4f} ± {error:.4f}" if error else f"{value:.4f}"


def _options(arguments):
    """What `task_scores` is told."""
    from kerasllm.data import read_text

    options = _given(arguments, ("limit", "context", "seed"))
    return {**options, "texts": read_text(arguments.text)} if arguments.text else options


def _of_models(arguments, folders, names):
    """`TaskScores` by task of each of some models, in as many tokens as all of them take."""
    import kerasllm
    from kerasllm.evaluation import task_scores

    options, found = _options(arguments), {}
    texts = list(options.pop("texts", ())) or None
    loaded = [kerasllm.load(folder, quantize=arguments.quantize) for folder in folders]
    if len(loaded) > 1:
        options.setdefault("context", min(2048, *(model.config.max_length for model, _ in loaded)))
    for folder, (model, tokenizer) in zip(folders, loaded, strict=True):
        found[folder] = task_scores(model, tokenizer, names, texts=texts, **options)
    return found


def _compared(named, seed):
    from kerasllm.evaluation.tasks import compare_scores
    from kerasllm.statistics import holm

    before, after = named.values()
    found = {task: compare_scores(before[task], after[task], seed) for task in before}
    corrected = iter(holm([one.p_value for measures in found.values() for one in measures.values()]))
    rows, differences = [], {}
    for task, measures in found.items():
        for name, one in measures.items():
            p_holm = next(corrected)
            differences.setdefault(task, {})[name] = {**one._asdict(), "p_holm": p_holm}
            change = f"{one.value:+.3f} ± {one.error:.3f}"
            rows.append((f"{task}: {name}", f"{one.before:.3f} → {one.after:.3f}: {change}, p = {p_holm:.4f} (Holm)"))
    of_each = {folder: {task: s.to_dict() for task, s in scores.items()} for folder, scores in named.items()}
    return {"differences": differences, "models": of_each}, rows


def _steps(run):
    """The checkpoints of a run, by step, and at the end the run itself where it is finished: dict of paths."""
    from kerasllm.callbacks.checkpoint_folder import checkpoints

    run = Path(run)
    found = {step: str(path) for step, path in checkpoints(run / CHECKPOINTS).items()}
    if (run / MANIFEST).is_file() and (run / RECORD).is_file():
        found[read_json(run / RECORD)["results"]["steps"]] = str(run)
    if not found:
        raise FileNotFoundError(f"{run} has no checkpoints: kerasllm train --keep-checkpoints N leaves them there.")
    return dict(sorted(found.items()))


def _over_steps(named):
    figures = {step: {task: scores.to_dict() for task, scores in of_step.items()} for step, of_step in named.items()}
    rows = [
        (f"step {step:,}, {task}: acc of {len(scores.items)}", str(scores.estimates()["acc"]))
        for step, of_step in named.items()
        for task, scores in of_step.items()
    ]
    return figures, rows
