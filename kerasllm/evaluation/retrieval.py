"""How well vectors find the text that belongs to another one."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from kerasllm.generation.embedding import embed
from kerasllm.models import TextEmbedder
from kerasllm.tokenizers import Tokenizer

_AT_ONCE = 1024  # firsts whose cosines with all seconds exist at a time


@dataclass(frozen=True)
class RetrievalScores:
    """What `retrieval_scores` found out.

    Attributes:
        recall_at_1: Share of the pairs whose second text is the nearest of all seconds to the first.
        recall_at_10: Share of those where it is among the ten nearest.
        mean_reciprocal_rank: Mean of 1 over its rank.
        pairs: How many were scored.
        texts: Among how many different seconds.
    """

    recall_at_1: float
    recall_at_10: float
    mean_reciprocal_rank: float
    pairs: int
    texts: int


def retrieval_scores(
    model: TextEmbedder, tokenizer: Tokenizer, pairs: Iterable[tuple[str, str]], batch_size: int = 32
) -> RetrievalScores:
    """Scores an embedder by what it finds: for the first text of each pair, the second among those of all pairs.

    Args:
        model: a `TextEmbedder`.
        tokenizer: the model's `Tokenizer`.
        pairs: iterable of (str, str).
        batch_size: int, texts at once.

    Returns:
        `RetrievalScores`. Of seconds that are equally near, the one that belongs to the first counts as the last.

    Raises:
        ValueError: if there are no pairs.

    Example:
        >>> scores = kerasllm.evaluation.retrieval_scores(model, tokenizer, kerasllm.data.read_pairs("test.tsv"))
        >>> print(scores.recall_at_1)
    """
    pairs = list(pairs)
    if not pairs:
        raise ValueError("There are no pairs to score.")
    seconds = list(dict.fromkeys(second for _, second in pairs))
    place = {second: i for i, second in enumerate(seconds)}
    index = _unit(embed(model, tokenizer, seconds, batch_size))
    firsts = _unit(embed(model, tokenizer, [first for first, _ in pairs], batch_size))
    found = []
    for begin in range(0, len(pairs), _AT_ONCE):
        cosines = firsts[begin : begin + _AT_ONCE] @ index.T
        targets = np.array([place[second] for _, second in pairs[begin : begin + _AT_ONCE]])
        own = np.take_along_axis(cosines, targets[:, None], axis=1)
        found.append((cosines >= own).sum(axis=1))
    ranks = np.concatenate(found)
    return RetrievalScores(
        recall_at_1=float((ranks == 1).mean()),
        recall_at_10=float((ranks <= 10).mean()),
        mean_reciprocal_rank=float((1 / ranks).mean()),
        pairs=len(pairs),
        texts=len(seconds),
    )


def _unit(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
