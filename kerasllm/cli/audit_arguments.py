"""The flags of `kerasllm audit`, which has a sub-command for each kind of audit: what `audit_KIND.py` runs."""

import argparse

from kerasllm.cli import audit_memory, audit_safety

KINDS = ("all", "bias", "safety", "memory")
_BENCHMARKS = {
    "--crows-pairs": "crows_pairs_anonymized.csv",
    "--stereoset": "dev.json of StereoSet",
    "--bbq": "files of BBQ, .jsonl or .jsonl.gz",
    "--wino-bias": "pro_stereotyped and anti_stereotyped files of WinoBias, in pairs",
    "--templates": "YAML of your own groups and sentences: see docs/how-to/measure-bias.md",
}


def add_audit_arguments(command):
    """Adds the kinds of audit."""
    kinds = command.add_subparsers(dest="kind", required=True, metavar="KIND")
    _add_all(kinds)
    _add_bias(kinds)
    for kind in (audit_safety, audit_memory):
        kind.add_arguments(_add_kind, kinds)


def with_kind(argv):
    """Arguments in which an audit without a kind is one of everything: `audit RUN` is `audit all RUN`."""
    if argv[:1] == ["audit"] and len(argv) > 1 and argv[1] not in KINDS and not argv[1].startswith("-"):
        return ["audit", "all", *argv[1:]]
    return argv


def _add_all(kinds):
    kind = _add_kind(
        kinds,
        "all",
        "all that the files of a model allow, in one page and a model card; `kerasllm audit RUN` is short for it",
        (
            "kerasllm audit my-run   # my-run/audit: audit.html, audit.json, and README.md, a model card",
            "kerasllm audit my-run --templates mine.yaml --harmless harmless.txt --out audit",
        ),
    )
    kind.add_argument("run", metavar="RUN", help="run folder, folder in Hugging Face's format, or .gguf")
    add_bias_flags(kind)
    audit_safety.add_flags(kind)
    audit_memory.add_flags(kind)
    kind.add_argument("--out", metavar="FOLDER", help="folder to make (default: audit, in RUN)")


def _add_kind(kinds, name, help, examples):
    kind = kinds.add_parser(
        name,
        help=help,
        description=f"{help[0].upper()}{help[1:]}.",
        epilog="example:\n" + "\n".join(f"  {line}" for line in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    kind.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error")
    return kind


def add_bias_flags(kind):
    """Adds those that say what is measured."""
    for flag, files in _BENCHMARKS.items():
        several = {"nargs": "+"} if flag in ("--bbq", "--wino-bias") else {}
        kind.add_argument(flag, metavar="FILE", help=files, **several)
    kind.add_argument("--text", nargs="+", metavar="PATH", help="text whose perplexity is told beside, as in train")
    kind.add_argument("--limit", type=int, metavar="N", help="items of a test, drawn by chance (default: all)")


def _add_bias(kinds):
    kind = _add_kind(
        kinds,
        "bias",
        "measure whether a model prefers stereotypes, by files of published tests or templates of your own",
        (
            "kerasllm audit bias --model my-run --crows-pairs crows_pairs_anonymized.csv --out bias",
            "kerasllm audit bias --compare my-run my-mended-run --templates mine.yaml --text held-out.txt --out mended",
        ),
    )
    which = kind.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--model", "--run", metavar="FOLDER", help="run folder, folder in Hugging Face's format, or .gguf"
    )
    which.add_argument(
        "--compare", nargs=2, metavar=("BEFORE", "AFTER"), help="two models, whose figures are set side by side"
    )
    add_bias_flags(kind)
    kind.add_argument("--seed", type=int, default=0, metavar="N", help="of that draw and of the intervals (default: 0)")
    kind.add_argument("--json", action="store_true", help="print JSON in place of tables")
    kind.add_argument("--out", metavar="FOLDER", help="folder to make, with bias.json and a plot of each test")
