"""The embeddings of a text, and what stands in their place where there is no token.

Shapes: T tokens of a side, D width of embeddings, V vocab.
"""

import numpy as np

from kerasllm.interpret.recording import as_array
from kerasllm.models import Seq2SeqLM

_AT_ONCE = 4096  # tokens whose embeddings are held


def embeddings_of(model, text, baseline):
    """The embeddings of a text and its baseline, of each side of a model.

    Args:
        model: a model of `kerasllm.models`.
        text: `reading.Text`.
        baseline: "mean", "zeros", or a token, str or int.

    Returns:
        Two lists of float arrays (T, D), in the order of the model's inputs.
    """
    sides = [{"side": "source"}, {"side": "target"}] if isinstance(model, Seq2SeqLM) else [{}]
    embedded, baselines = [], []
    for name, side in zip(text.sides, sides, strict=True):
        given = {key: value for key, value in text.inputs.items() if key in model.optional_inputs or key == name}

        def embed(ids, given=given, name=name, side=side):
            return as_array(model.embed({**given, name: ids}, **side)).astype("float64")[0]

        ids = text.inputs[name]
        embedded.append(embed(ids))
        if isinstance(baseline, str) and baseline == "zeros":
            baselines.append(np.zeros_like(embedded[-1]))
        elif isinstance(baseline, str) and baseline == "mean":
            of_kinds = embed(0 * ids) - embed(0 * ids, {})  # token types and the like, which stay
            baselines.append(of_kinds + _mean(model, name, lambda ids, embed=embed: embed(ids, {})))
        else:
            token = text.tokenizer.engine.token_to_id(baseline) if isinstance(baseline, str) else int(baseline)
            if token is None:
                raise ValueError(f"`baseline` is 'mean', 'zeros' or a token of the vocabulary, got {baseline!r}.")
            baselines.append(embed(np.full_like(ids, token)))
    return embedded, baselines


def _mean(model, name, embed):
    """The mean of the embeddings of all tokens: float64 (D,)."""
    config = model.config
    V = config.vocab_size
    if name == "source_ids" and config.source_vocab_size is not None:
        V = config.source_vocab_size
    total = 0.0
    for begin in range(0, V, _AT_ONCE):
        ids = np.arange(begin, min(begin + _AT_ONCE, V), dtype="int32")[None]
        total = total + embed(ids).sum(axis=0)
    return total / V
