"""`kerasllm prepare`: a corpus of any size, cleaned and without duplicates, as shards of tokens."""

import shlex

from kerasllm.cli.arguments import given_settings
from kerasllm.cli.startup import start_keras
from kerasllm.files import check_new_folder
from kerasllm.settings import TrainSettings
from kerasllm.storage import is_remote


def run(arguments):
    settings = TrainSettings(**given_settings(arguments))
    if arguments.runner == []:
        raise ValueError("--runner comes last, with the name of a runner of Apache Beam and its options behind it.")
    if not is_remote(settings.out):
        check_new_folder(settings.out)
    start_keras()
    from kerasllm import report
    from kerasllm.data import read_text
    from kerasllm.preparation import prepare
    from kerasllm.tokenizers import Tokenizer

    files = prepare(
        list(settings.data),
        Tokenizer.load(settings.tokenizer),
        settings.out,
        field=next(iter(settings.field), None),
        clean=settings.clean,
        deduplicate=settings.deduplicate,
        languages=arguments.languages,
        held_out=read_text(arguments.decontaminate) if arguments.decontaminate else (),
        num_shards=arguments.shards,
        runner=["--runner", *arguments.runner] if arguments.runner else (),
    )
    for name, counts in files.report.items():
        if isinstance(counts, dict):
            report.grid(name, ("rule", "removed", "changed"), _rows(counts))
    report.table(f"{settings.out}: shards of tokens", _amounts(files))
    report.next_commands(f"kerasllm train --data {shlex.quote(settings.out)} --out my-run")


def _rows(counts):
    """Rows of what rules did, those that did something, and of all documents."""
    for rule, removed in counts["removed"].items():
        if removed or counts["changed"][rule]:
            yield rule, f"{removed:,}", f"{counts['changed'][rule]:,}"
    yield f"{counts['kept']:,} of {counts['seen']:,} documents kept", f"{counts['seen'] - counts['kept']:,}", ""


def _amounts(files):
    yield "documents", f"{files.num_documents:,}"
    yield "text", f"{files.num_bytes:,} bytes"
    yield "tokens", f"{files.num_tokens:,}"
    if files.report.get("records_without_text"):
        yield "records without text, left out", f"{files.report['records_without_text']:,}"
