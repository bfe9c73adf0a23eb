"""`kerasllm translate`: sentences in, translations out, a line for each."""

import sys
from pathlib import Path

from kerasllm.cli.startup import start_keras

LINES_AT_ONCE = 256


def run(arguments):
    texts = arguments.text or lines_of(arguments.file)
    start_keras()
    import kerasllm
    from kerasllm.generation.translation import check_sources

    model, tokenizer = kerasllm.load(arguments.model, quantize=arguments.quantize)
    check_sources(tokenizer, texts, model.config.max_length)  # before anything is printed
    for begin in range(0, len(texts), LINES_AT_ONCE):
        part = texts[begin : begin + LINES_AT_ONCE]
        translations = kerasllm.translate(
            model, tokenizer, part, arguments.num_beams, target_language=arguments.target_language
        )
        for translation in translations:
            print(translation, flush=True)


def lines_of(file):
    """The lines of a UTF-8 file, or of standard input."""
    try:
        text = sys.stdin.read() if file is None else Path(file).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file or 'Standard input'} is not UTF-8: byte {error.start}.") from error
    return text.removesuffix("\n").split("\n")
