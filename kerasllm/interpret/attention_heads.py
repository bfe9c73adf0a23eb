"""What heads do: those that look for what came after the same token before, at the token before, and so on.

Shapes: L layers, H heads, B rows, T time, N tokens of one half.
"""

import dataclasses

import numpy as np

from kerasllm.interpret.drawings import HeatMap, HeatMaps
from kerasllm.interpret.pictures import Picture
from kerasllm.interpret.recording import activations
from kerasllm.interpret.residual_stream import layers_of
from kerasllm.models import CausalLM, MaskedLM
from kerasllm.tokenizers.masks import ordinary_ids


@dataclasses.dataclass(frozen=True)
class HeadScores(Picture):
    """How far heads do what is known of some: the share of their attention that goes there, from 0 to 1.

    Attributes:
        induction: float64 (L, H), to the token behind an earlier one that was the same.
        previous_token: to the token before.
        duplicate_token: to an earlier token that is the same.
        first_token: to the first token, where heads look that do nothing.
    """

    induction: np.ndarray
    previous_token: np.ndarray
    duplicate_token: np.ndarray
    first_token: np.ndarray

    def best(self, kind="induction"):
        """The layer and head of the largest score of a kind, and that score."""
        scores = getattr(self, kind)
        layer, head = np.unravel_index(scores.argmax(), scores.shape)
        return int(layer), int(head), float(scores[layer, head])

    def _drawing(self):
        L, H = self.induction.shape
        axes = [f"block_{i}" for i in range(L)], [str(i) for i in range(H)]
        kinds = [field.name for field in dataclasses.fields(self)]
        return HeatMaps([HeatMap(getattr(self, kind), *axes, title=kind.replace("_", " ")) for kind in kinds])


def head_scores(model, tokenizer=None, *, length=48, rows=8, seed=0):
    """How far each head is one of those that are known, on random tokens that come twice.

    Args:
        model: `CausalLM` or `MaskedLM`.
        tokenizer: the model's `Tokenizer`, for tokens that are no special ones; None for any.
        length: int, how many tokens come twice.
        rows: int, texts to take the mean of.
        seed: int, of the tokens.

    Returns:
        `HeadScores`.

    Raises:
        TypeError: for other models.
        ValueError: if the model's context is too short.

    Example:
        >>> layer, head, score = interpret.head_scores(model).best("induction")

    Reference: Olsson et al. 2022, https://arxiv.org/abs/2209.11895
    """
    if not isinstance(model, CausalLM | MaskedLM):
        raise TypeError(f"Heads of a CausalLM or a MaskedLM have scores, got a {type(model).__name__}.")
    if not 2 <= 2 * length <= model.config.max_length:
        raise ValueError(
            f"`length` is at least 1 and at most half of the context, {model.config.max_length}, got {length}."
        )
    ids = repeated_tokens(model, tokenizer, length, rows, seed)
    found = activations(model, ids, "attention/probabilities", chunk_size=float("inf"))
    stack = model.transformer.name
    layers = [
        found[f"{stack}/{block.name}/attention/probabilities{end}"] for block, end in layers_of(model.transformer)
    ]
    second = np.arange(length, 2 * length)
    targets = {
        "induction": second - length + 1,
        "previous_token": second - 1,
        "duplicate_token": second - length,
        "first_token": 0 * second,
    }
    H = max(probabilities.shape[1] for probabilities in layers)
    scores = {kind: np.zeros((len(layers), H)) for kind in targets}
    for kind, keys in targets.items():
        for layer, probabilities in enumerate(layers):
            by_head = probabilities[:, :, second, keys].mean(axis=(0, 2))
            scores[kind][layer, : len(by_head)] = by_head
    return HeadScores(**scores)


def repeated_tokens(model, tokenizer, length, rows, seed):
    """Random tokens that come twice: int32 (rows, 2 length)."""
    known = np.arange(model.config.vocab_size)
    if tokenizer is not None:
        ordinary = np.flatnonzero(ordinary_ids(tokenizer))
        known = ordinary[ordinary < model.config.vocab_size]
    half = np.random.default_rng(seed).choice(known, (rows, length))
    return np.concatenate([half, half], axis=1).astype("int32")
