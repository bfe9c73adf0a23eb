"""The command line of the benchmarks."""

import argparse
import json
import os
import sys
from pathlib import Path

EXAMPLE = "example: python -m kerasllm.benchmark train --rounds 5 --out train.json"


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m kerasllm.benchmark", description=__doc__, epilog=EXAMPLE)
    tasks = ["train", "generate", "requests", "corpus", "cleaning", "example"]
    parser.add_argument("task", choices=tasks, help="what to measure")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each program (train, generate)")
    parser.add_argument("--steps", type=int, default=10, help="training steps of a turn (train)")
    parser.add_argument("--megabytes", type=float, help="size of the text (corpus: 1000, cleaning: 200)")
    parser.add_argument("--data", default="python_docs", help="the text to learn (example), as read_text takes it")
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    options = parser.parse_args(arguments)
    if options.out and options.out.exists():
        parser.error(f"{options.out} exists and is not overwritten; choose another name.")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if options.task == "corpus":
        from kerasllm.benchmark.corpus import corpus_memory

        results = corpus_memory(int((options.megabytes or 1000) * 1e6))
    elif options.task == "cleaning":
        from kerasllm.benchmark.cleaning import cleaning_speed

        results = cleaning_speed(int((options.megabytes or 200) * 1e6))
    elif options.task == "requests":
        from kerasllm.benchmark.requests import request_memory

        results = request_memory()
    elif options.task == "example":
        from kerasllm.benchmark.documented_example import documented_example

        results = documented_example(options.data)
        for name, figure in results.items():
            print(f"{name}: {figure}")
    else:
        from kerasllm.benchmark.runner import compare

        results = compare(options.task, options.rounds, {"steps": options.steps} if options.task == "train" else None)
    if options.out:
        with open(options.out, "x", encoding="utf-8") as file:
            json.dump({"task": options.task, "results": results}, file, indent=2)


if __name__ == "__main__":
    sys.exit(main())
