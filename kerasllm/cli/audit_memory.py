"""`kerasllm audit memory`: what a model of a run folder keeps of the text that it was trained on."""

import json
from pathlib import Path

from kerasllm.cli.startup import start_keras
from kerasllm.files import check_new_folder, new_folder, write_json

TOKENS = "tokens"
_MOST_PASSAGES = 1000


def add_arguments(add_kind, kinds):
    """Adds the flags; `add_kind` is what makes the parser of a kind of audit."""
    kind = add_kind(
        kinds,
        "memory",
        "measure what a model keeps of its training text: passages word for word, planted canaries, traces of reading",
        (
            "kerasllm train --data corpus --canaries 1 4 16 64 --out my-run",
            "kerasllm audit memory my-run --out memory   # memory.json and a plot of extraction by repeats",
        ),
    )
    kind.add_argument("run", metavar="RUN", help="run folder of a causal model, with the tokens that it was trained on")
    add_flags(kind)
    kind.add_argument("--seed", type=int, default=0, metavar="N", help="of the draw of passages (default: 0)")
    kind.add_argument("--json", action="store_true", help="print JSON in place of a table")
    kind.add_argument("--out", metavar="FOLDER", help="folder to make, with memory.json and memory.png")


def add_flags(kind):
    """Adds those that say what is measured."""
    kind.add_argument(
        "--passages",
        type=int,
        default=_MOST_PASSAGES,
        metavar="N",
        help="the most passages tried, of each number of repeats and of each part (default: %(default)s)",
    )


def run(arguments):
    if not (Path(arguments.run) / TOKENS).is_dir():
        raise FileNotFoundError(
            f"{arguments.run} has no tokens folder: memory is looked for in run folders that kerasllm train made."
        )
    check(arguments)
    if arguments.out:
        check_new_folder(arguments.out)
    start_keras()
    import kerasllm

    memory = measure(*kerasllm.load(arguments.run), arguments)
    print(json.dumps(memory.to_dict()) if arguments.json else memory)
    if arguments.out:
        with new_folder(arguments.out) as draft:
            write_json(draft / "memory.json", memory.to_dict())
            memory.plot(draft / "memory.png")


def check(arguments):
    """Refuses what cannot be measured, before anything is loaded."""
    if arguments.passages < 1:
        raise ValueError(f"--passages takes 1 or more, got {arguments.passages}.")


def measure(model, tokenizer, arguments):
    """`Memory` of the run folder that the model is from."""
    import kerasllm
    from kerasllm import safety
    from kerasllm.tasks.text import CANARIES, PARTS

    tokens = Path(arguments.run) / TOKENS
    files = [kerasllm.data.TokenFiles(tokens / part) for part in PARTS]
    canaries = safety.load_canaries(tokens / CANARIES) if (tokens / CANARIES).is_file() else ()
    options = {"passages": arguments.passages, "seed": arguments.seed}
    return safety.audit_memory(model, tokenizer, *files, canaries, **options)
