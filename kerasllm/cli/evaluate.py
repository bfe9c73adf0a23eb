"""`kerasllm evaluate`: the scores of a trained model on a text."""

import dataclasses
import json
from pathlib import Path

from kerasllm.cli.startup import start_keras
from kerasllm.files import write_json


def run(arguments):
    if arguments.out and Path(arguments.out).exists():
        raise FileExistsError(f"{arguments.out} exists, and is left as it is: give --out the name of a new file.")
    start_keras()
    import kerasllm
    from kerasllm.cli import report
    from kerasllm.cli.corpus import Corpus

    model, tokenizer = kerasllm.load(arguments.model)
    if arguments.stride is not None and not isinstance(model, kerasllm.models.CausalLM):
        raise ValueError(f"--stride is for causal models, and {arguments.model} holds a {type(model).__name__}.")
    if len(arguments.field) > 1 and not isinstance(model, kerasllm.models.Seq2SeqLM):
        raise ValueError(f"--field takes two for a model that translates, and {arguments.model} reads one text.")
    if isinstance(model, kerasllm.models.Seq2SeqLM):
        from kerasllm.cli.translation_task import pairs_of, score_translations

        figures = score_translations(model, tokenizer, pairs_of(arguments.data, arguments.field))
    elif isinstance(model, kerasllm.models.MaskedLM):
        figures = score_masked(model, tokenizer, Corpus(tuple(arguments.data), "all", *arguments.field))
    else:
        figures = score(model, tokenizer, Corpus(tuple(arguments.data), "all", *arguments.field), arguments.stride)
    if arguments.json:
        print(json.dumps(figures))
    else:
        report.table(f"{arguments.model} on {' '.join(arguments.data)}", report.score_rows(figures))
    if arguments.out:
        write_json(Path(arguments.out), figures)


def score(model, tokenizer, documents, stride=None):
    """Scores a model on documents, beside what gzip makes of them.

    Args:
        model: a `kerasllm.models.CausalLM`.
        tokenizer: its tokenizer.
        documents: iterable of str, read once.
        stride: int or None, as in `kerasllm.evaluation.perplexity`.

    Returns:
        A dict of the fields of `LanguageModelScores` and `gzip_bits_per_byte`.
    """
    from kerasllm import evaluation
    from kerasllm.cli.corpus import Zipped

    documents = Zipped(documents)
    scores = evaluation.perplexity(model, tokenizer, documents, stride)
    return {**dataclasses.asdict(scores), "gzip_bits_per_byte": documents.bits_per_byte()}


def score_masked(model, tokenizer, corpus):
    """Scores a masked model on a corpus of which a share of the tokens is hidden.

    Args:
        model: a `kerasllm.models.MaskedLM`.
        tokenizer: its tokenizer.
        corpus: iterable of str.

    Returns:
        A dict of the fields of `MaskedLanguageModelScores`.
    """
    from kerasllm import evaluation

    return dataclasses.asdict(evaluation.masked_accuracy(model, tokenizer, corpus))
