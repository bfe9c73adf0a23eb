"""`kerasllm generate`: a model goes on with a prompt, and the text appears as it is made."""

from pathlib import Path

from kerasllm.cli.constraint_arguments import NAMES
from kerasllm.cli.detect import read_watermark_file
from kerasllm.cli.filter_files import make_filter, read_filter_file
from kerasllm.cli.startup import start_keras
from kerasllm.files import read_utf8

_DRAW = ("sampler", "temperature", "top_k", "top_p", "min_p", "seed")
OPTIONS = ("max_new_tokens", "repetition_penalty", "stop", *_DRAW, *NAMES)


def run(arguments):
    options = drawing_options(arguments)
    start_keras()
    import kerasllm

    model, tokenizer = kerasllm.load(arguments.model, quantize=arguments.quantize)
    options["filter"] = make_filter(options.get("filter"))
    pieces = kerasllm.stream(model, tokenizer, arguments.prompt, **options)
    print(arguments.prompt, end="", flush=True)
    print_pieces(pieces)


def drawing_options(arguments):
    """What the flags say of how to draw, as `kerasllm.generate` takes it."""
    options = {name: getattr(arguments, name) for name in OPTIONS if getattr(arguments, name) is not None}
    for name in ("json_schema", "grammar"):
        if name in options:
            options[name] = read_utf8(Path(options[name]))
    if "seed" in options:  # which is asked for a draw
        options.setdefault("sampler", "random")
    if arguments.watermark is not None:
        options["watermark"] = read_watermark_file(arguments.watermark)
    if arguments.filter is not None:
        options["filter"] = read_filter_file(arguments.filter)
    return options


def print_pieces(pieces):
    """Prints a text while it is made, and ends its line; returns the text."""
    text = ""
    for piece in pieces:
        print(piece, end="", flush=True)
        text += piece
    print()
    return text
