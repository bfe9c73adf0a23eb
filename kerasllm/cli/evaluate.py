"""`kerasllm evaluate`: the scores of a trained model on a text."""

import json

from kerasllm.cli.startup import start_keras


def run(arguments):
    start_keras()
    import kerasllm
    from kerasllm.cli import report
    from kerasllm.cli.corpus import Corpus

    model, tokenizer = kerasllm.load(arguments.run)
    if isinstance(model, kerasllm.models.Seq2SeqLM):
        from kerasllm.cli.translation_task import pairs_of, score_translations

        figures = score_translations(model, tokenizer, pairs_of(arguments.data))
    else:
        figures = score(model, tokenizer, Corpus(tuple(arguments.data)), arguments.stride)
    if arguments.json:
        print(json.dumps(figures))
    else:
        report.table(f"{arguments.run} on {' '.join(arguments.data)}", report.score_rows(figures))


def score(model, tokenizer, corpus, stride=None):
    """Scores a model on a corpus, beside what gzip makes of it.

    Args:
        model: a `kerasllm.models.CausalLM`.
        tokenizer: its tokenizer.
        corpus: a `kerasllm.cli.corpus.Corpus`.
        stride: int or None, as in `kerasllm.evaluation.perplexity`.

    Returns:
        A dict of the fields of `LanguageModelScores` and `gzip_bits_per_byte`.
    """
    import dataclasses

    from kerasllm import evaluation

    scores = evaluation.perplexity(model, tokenizer, corpus, stride)
    return {**dataclasses.asdict(scores), "gzip_bits_per_byte": corpus.gzip_bits_per_byte()}
