"""`kerasllm bench`: the suites that compare, and the studies of kerasllm alone."""

import json
from pathlib import Path

from kerasllm.cli.arguments import BENCH_STUDIES
from kerasllm.cli.startup import start_keras


def run(arguments):
    files = [Path(f"{arguments.out}.{kind}") for kind in ("json", "png")] if arguments.out else []
    for file in files:
        if file.exists():
            raise FileExistsError(f"{file} exists, and is left as it is: give --out another name.")
    start_keras()
    if arguments.suite in BENCH_STUDIES:
        results = _study(arguments)
        if files:
            files[0].write_text(json.dumps({"study": arguments.suite, "results": results}, indent=2), encoding="utf-8")
        return
    from kerasllm.benchmark import compare, results

    rows = compare(arguments.suite, arguments.rounds)
    results.show(arguments.suite, rows)
    if files:
        results.save(arguments.suite, rows, files[0])
        results.draw(arguments.suite, rows, files[1])


def _study(arguments):
    if arguments.suite == "corpus":
        from kerasllm.benchmark.corpus import corpus_memory

        return corpus_memory(int((arguments.megabytes or 1000) * 1e6))
    if arguments.suite == "cleaning":
        from kerasllm.benchmark.cleaning import cleaning_speed

        return cleaning_speed(int((arguments.megabytes or 200) * 1e6))
    if arguments.suite == "requests":
        from kerasllm.benchmark.requests import request_memory

        return request_memory()
    from kerasllm.benchmark.documented_example import documented_example

    figures = documented_example(arguments.data)
    for name, figure in figures.items():
        print(f"{name}: {figure}")
    return figures
