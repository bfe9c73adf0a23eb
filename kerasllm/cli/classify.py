"""`kerasllm classify`: texts or pairs of texts in, their labels out, a line for each."""

import json

from kerasllm.cli.startup import start_keras
from kerasllm.cli.translate import LINES_AT_ONCE, lines_of


def run(arguments):
    texts = list(map(_text_or_pair, arguments.text)) if arguments.text else lines_of(arguments.file)
    if arguments.pairs and not arguments.text:
        texts = [_text_or_pair(line.split("\t"), 2, f"Line {number}") for number, line in enumerate(texts, start=1)]
    if texts == [""]:
        raise ValueError("There is no text to classify: give --text, or a file of one text a line.")
    start_keras()
    import kerasllm

    model, tokenizer = kerasllm.load(arguments.model)
    for begin in range(0, len(texts), LINES_AT_ONCE):
        part = texts[begin : begin + LINES_AT_ONCE]
        for text, found in zip(part, kerasllm.classify(model, tokenizer, part), strict=True):
            print(json.dumps({"text": text, **found._asdict()}) if arguments.json else _line(text, found), flush=True)


def _text_or_pair(texts, least=1, what="--text"):
    if not least <= len(texts) <= 2:
        wanted = "a text, or the two of a pair" if least == 1 else "two texts, with a tab between"
        raise ValueError(f"{what} is {wanted}, got {len(texts)}: {texts!s:.80}.")
    return texts[0] if len(texts) == 1 else tuple(texts)


def _line(text, found):
    """Label, probability and text, with tabs between; the first two may be several, with commas."""
    labels, probabilities = (one if isinstance(one, list) else [one] for one in found[:2])
    shown = ",".join("" if probability is None else f"{probability:.4f}" for probability in probabilities)
    return "\t".join([",".join(map(str, labels)), shown, *([text] if isinstance(text, str) else text)])
