"""The flags of commands that take texts, a line for each: `kerasllm translate` and `classify`."""


def add_translate_arguments(command):
    """Adds those of `translate`."""
    _add_texts(command, "sentence")
    command.add_argument(
        "--num-beams",
        "--beams",  # its name before
        type=int,
        metavar="K",
        help="1 is greedy (default: what the model's settings say, or 4)",
    )
    command.add_argument(
        "--target-language", metavar="TOKEN", help="language to write, of models that write several: deu_Latn for NLLB"
    )


def add_classify_arguments(command):
    """Adds those of `classify`."""
    _add_texts(command, "text, or the two of a pair", nargs="+")
    command.add_argument("--pairs", action="store_true", help="lines have two texts, with a tab between")
    command.add_argument("--json", action="store_true", help="print JSON, with the probabilities of all labels")


def _add_texts(command, what, nargs=None):
    source = command.add_mutually_exclusive_group()
    source.add_argument("--text", action="append", nargs=nargs, metavar="TEXT", help=f"a {what}; may be repeated")
    source.add_argument("--file", metavar="PATH", help=f"one {what.partition(',')[0]} a line (default: standard input)")
