"""`kerasllm bench`: the suites that compare, and the studies of kerasllm alone."""

import json
from pathlib import Path

from kerasllm.cli.bench_arguments import BENCH_STUDIES
from kerasllm.cli.startup import start_keras


def run(arguments):
    is_study = arguments.suite in BENCH_STUDIES
    files = [Path(f"{arguments.out}.{kind}") for kind in ("json", "png")[: 1 if is_study else 2] if arguments.out]
    for file in files:
        if file.exists():
            raise FileExistsError(f"{file} exists, and is left as it is: give --out another name.")
        if not file.parent.is_dir():
            raise FileNotFoundError(f"There is no folder {file.parent} for {file.name}: make it first.")
    start_keras()
    if is_study:
        results = _study(arguments)
        if files:
            files[0].write_text(json.dumps({"study": arguments.suite, "results": results}, indent=2), encoding="utf-8")
        return
    from kerasllm.benchmark import model_suites, results, runner, suites

    of_models = model_suites.SUITES
    if arguments.model and arguments.suite not in of_models:
        *first, last = of_models
        raise ValueError(
            f"--model is for bench {', '.join(first)} and {last}, and does nothing for {arguments.suite}: leave it out."
        )
    if arguments.data and arguments.suite == "tune" and not arguments.model:
        raise ValueError("Conversations (--data) need the tokenizer of a model: give --model too.")
    suite = suites.SUITES[arguments.suite]
    if arguments.model:
        of_data = [[arguments.data]] if arguments.data and arguments.suite == "tune" else []
        suite = of_models[arguments.suite](arguments.model, *of_data)
    rows = runner.compare(suite, arguments.rounds)
    if files:
        results.save(suite, rows, files[0])
        results.draw(suite, rows, files[1])
    results.show(suite, rows)


def _study(arguments):
    if arguments.suite == "corpus":
        from kerasllm.benchmark.corpus import corpus_memory

        return corpus_memory(int((arguments.megabytes or 1000) * 1e6))
    if arguments.suite == "cleaning":
        from kerasllm.benchmark.cleaning import cleaning_speed

        return cleaning_speed(int((arguments.megabytes or 200) * 1e6))
    if arguments.suite == "load":
        from kerasllm.benchmark.loading import load_memory

        return load_memory(int((arguments.megabytes or 1000) * 1e6))
    if arguments.suite == "checkpoint":
        from kerasllm.benchmark.checkpointing import checkpoint_cost

        return checkpoint_cost(arguments.rounds)
    if arguments.suite == "gpu":
        from kerasllm.benchmark.gpu import gpu_steps

        return gpu_steps(toy=arguments.toy or None)
    if arguments.suite == "requests":
        from kerasllm.benchmark.requests import request_memory

        return request_memory()
    from kerasllm.benchmark.documented_example import documented_example, speedrun

    figures = (speedrun if arguments.suite == "speedrun" else documented_example)(arguments.data or "python_docs")
    for name, figure in figures.items():
        print(f"{name}: {figure}")
    return figures
