"""`kerasllm audit safety`: how harmful what a model writes is, and how often it refuses what is harmless."""

import json
from pathlib import Path

from kerasllm.cli.filter_files import add_filter_argument, make_filter, read_filter_file
from kerasllm.cli.startup import start_keras
from kerasllm.files import check_new_folder, new_folder, write_json


def add_arguments(add_kind, kinds):
    """Adds the flags; `add_kind` is what makes the parser of a kind of audit."""
    kind = add_kind(
        kinds,
        "safety",
        "measure how harmful what a model writes is, and how often it refuses what is harmless",
        (
            "kerasllm audit safety --model my-run --prompts prompts.txt --classifier unsafe --pairs --out safety",
            "kerasllm audit safety --model my-run --prompts prompts.jsonl --field prompt.text --classifier toxic",
            "kerasllm audit safety --model my-run --harmless harmless.txt --filter filter.yaml   # refusals alone",
        ),
    )
    kind.add_argument(
        "--model", "--run", required=True, metavar="FOLDER", help="run folder, Hugging Face's format, or .gguf"
    )
    add_flags(kind)
    kind.add_argument("--json", action="store_true", help="print JSON in place of a table")
    kind.add_argument("--out", metavar="FOLDER", help="folder to make, with safety.json and safety.png")


def add_flags(kind):
    """Adds those that say what is measured."""
    kind.add_argument("--prompts", metavar="FILE", help="prompts that may lead to harm: a line each, or records")
    kind.add_argument("--harmless", metavar="FILE", help="prompts that are not to be refused, likewise")
    kind.add_argument(
        "--field", metavar="NAME", help="where prompts are in records, OUTER.INNER for one within another"
    )
    kind.add_argument("--classifier", metavar="FOLDER", help="model that says how harmful texts are")
    kind.add_argument(
        "--unsafe", nargs="+", metavar="LABEL", help="its labels that say so (default: unsafe, toxic, or the like)"
    )
    kind.add_argument("--pairs", action="store_true", help="it has learned from pairs of what was said and the reply")
    kind.add_argument("--samples", type=int, default=25, metavar="K", help="texts after each prompt (default: 25)")
    kind.add_argument("--tokens", type=int, default=20, metavar="N", help="tokens of each (default: 20)")
    kind.add_argument(
        "--threshold", type=float, default=0.5, metavar="P", help="from which a text counts as harmful (default: 0.5)"
    )
    kind.add_argument("--seed", type=int, default=0, metavar="N", help="of the texts (default: 0)")
    add_filter_argument(kind)


def run(arguments):
    filter = check(arguments)
    if arguments.out:
        check_new_folder(arguments.out)
    start_keras()
    import kerasllm

    scores = measure(*kerasllm.load(arguments.model), arguments, filter)
    print(json.dumps(scores.to_dict()) if arguments.json else scores)
    if arguments.out:
        with new_folder(arguments.out) as draft:
            write_json(draft / "safety.json", scores.to_dict())
            scores.plot(draft / "safety.png")


def check(arguments):
    """Refuses flags that do not go together, before anything is loaded; returns the settings of the filter, or None."""
    if not arguments.prompts and not arguments.harmless:
        raise ValueError("There are no prompts: give --prompts FILE, --harmless FILE, or both.")
    if arguments.prompts and not arguments.classifier:
        raise ValueError("--prompts needs --classifier FOLDER, a model that says how harmful texts are.")
    for path in (path for path in (arguments.prompts, arguments.harmless) if path):
        if not Path(path).is_file():
            raise FileNotFoundError(f"There is no file {path}.")
    return None if arguments.filter is None else read_filter_file(arguments.filter)


def measure(model, tokenizer, arguments, filter):
    """`SafetyScores` of what the flags say."""
    import kerasllm
    from kerasllm import safety

    harm = None
    if arguments.prompts:
        harm = safety.TextClassifier(*kerasllm.load(arguments.classifier), arguments.unsafe, pairs=arguments.pairs)
    return safety.audit_safety(
        model,
        tokenizer,
        _prompts(arguments.prompts, arguments.field),
        _prompts(arguments.harmless, arguments.field),
        harm=harm,
        filter=make_filter(filter),
        samples=arguments.samples,
        max_new_tokens=arguments.tokens,
        threshold=arguments.threshold,
        seed=arguments.seed,
    )


def _prompts(path, field):
    """The prompts of a file: the lines of a text, or records."""
    import kerasllm
    from kerasllm.data.formats import TEXT, kind_of

    if path is None:
        return []
    if kind_of(Path(path)) == TEXT:
        return [line for text in kerasllm.data.read_text(path) for line in text.splitlines() if line.strip()]
    return list(kerasllm.data.read_text(path, field=field))
