"""`kerasllm classify`: texts in, their labels out, a line for each."""

import json

from kerasllm.cli.startup import start_keras
from kerasllm.cli.translate import LINES_AT_ONCE, lines_of


def run(arguments):
    texts = arguments.text or lines_of(arguments.file)
    if texts == [""]:
        raise ValueError("There is no text to classify: give --text, or a file of one text a line.")
    start_keras()
    import kerasllm

    model, tokenizer = kerasllm.load(arguments.model)
    for begin in range(0, len(texts), LINES_AT_ONCE):
        part = texts[begin : begin + LINES_AT_ONCE]
        for text, found in zip(part, kerasllm.classify(model, tokenizer, part), strict=True):
            print(json.dumps({"text": text, **found._asdict()}) if arguments.json else _line(text, found), flush=True)


def _line(text, found):
    """Label, probability and text, with tabs between; the first two may be several, with commas."""
    labels, probabilities = (one if isinstance(one, list) else [one] for one in found[:2])
    shown = ",".join("" if probability is None else f"{probability:.4f}" for probability in probabilities)
    return "\t".join([",".join(map(str, labels)), shown, text])
