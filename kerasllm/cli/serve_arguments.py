"""The flags of `kerasllm serve`: what it serves, where it listens, and what it bears."""

from kerasllm.cli.examples import QUANTIZE
from kerasllm.cli.filter_files import add_filter_argument


def add_serve_arguments(command, positive):
    """Adds them to a parser; `positive` makes a type of numbers above 0."""
    command.add_argument(
        "model", nargs="+", metavar="RUN", help="what the others take as --model; several may be served"
    )
    command.add_argument("--quantize", metavar="KIND", help=QUANTIZE)
    command.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (default: 127.0.0.1, from here alone)"
    )
    command.add_argument("--port", type=positive(int), default=8000, metavar="N", help="(default: 8000)")
    command.add_argument("--api-key", metavar="KEY", help="what requests have to bring (default: $KERASLLM_API_KEY)")
    for flag, kind, default, help in (
        ("--rows", int, 16, "texts that are written at once"),
        ("--queue", int, 128, "requests that may wait; more are answered with 429"),
        ("--timeout", float, 600, "seconds that a request may take, which then ends where it is"),
        ("--kept-mb", int, 512, "megabytes for what was read of earlier texts"),
    ):
        command.add_argument(
            flag, type=positive(kind), default=default, metavar="N", help=f"{help} (default: {default})"
        )
    command.add_argument(
        "--max-body",
        type=positive(int),
        metavar="N",
        help="bytes that a request may have (default: 1048576, or 33554432 where a model sees images)",
    )
    command.add_argument(
        "--max-tokens", type=positive(int), metavar="N", help="tokens that a request may ask for (default: the context)"
    )
    add_filter_argument(command)
