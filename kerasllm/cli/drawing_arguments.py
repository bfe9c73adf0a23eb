"""The flags that say how `generate` and `chat` draw a text."""

from kerasllm.cli.constraint_arguments import add_constraint_arguments
from kerasllm.cli.filter_files import add_filter_argument
from kerasllm.cli.watermark_arguments import add_watermark_argument


def add_drawing_arguments(command):
    """Adds them to a parser."""
    command.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="most tokens to make (default: 256, or what the context leaves)"
    )
    command.add_argument(
        "--sampler",
        metavar="NAME",
        help="greedy, random, top_k, top_p or min_p (default: random if a setting of a draw is given, greedy if not)",
    )
    command.add_argument("--temperature", type=float, metavar="X", help="below 1 makes likely tokens likelier")
    command.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens")
    command.add_argument("--top-p", type=float, metavar="P", help="draw from the likeliest that make up probability P")
    command.add_argument(
        "--min-p", type=float, metavar="P", help="draw from those at least P times as likely as the best"
    )
    command.add_argument("--repetition-penalty", type=float, metavar="X", help="above 1 makes used tokens less likely")
    command.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same text")
    command.add_argument("--stop", action="append", metavar="TEXT", help="end before this text; may be repeated")
    add_watermark_argument(command)
    add_filter_argument(command)
    add_constraint_arguments(command)
