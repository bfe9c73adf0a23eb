"""Directions inside a model by which groups differ, and the model without them.

The directions are the main ones of differences between texts that differ in a group alone, as SentenceDebias has them
(Liang et al. 2020, https://arxiv.org/abs/2007.08100), or those of linear classifiers of the group, one after the other,
as iterative nullspace projection does (Ravfogel et al. 2020, https://arxiv.org/abs/2004.07667).

Shapes: N texts, K directions, D width.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from kerasllm.generation.options import whole_number
from kerasllm.interpret.editing import edit, names
from kerasllm.interpret.recording import activations
from kerasllm.models import CausalLM, MaskedLM
from kerasllm.tokenizers import as_tokenizer

_METHODS = ("sentence_debias", "inlp")
_RIDGE = 1e-3  # of the mean square of activations


@dataclasses.dataclass(frozen=True, eq=False)
class Subspace:
    """From `bias_subspace`: what is taken out.

    Args:
        directions: float32 (K, D), orthonormal.
        mean: float32 (D,), of both groups.
        name: str, of the activation that it is of, as `edit` takes it.
    """

    directions: np.ndarray
    mean: np.ndarray
    name: str

    def __repr__(self):
        return f"Subspace({len(self.directions)} of {len(self.mean)} directions of {self.name!r})"


def bias_subspace(
    model: CausalLM | MaskedLM,
    tokenizer: Any,
    first: Sequence[str],
    second: Sequence[str],
    *,
    layer: int | None = None,
    directions: int = 1,
    method: str = "sentence_debias",
) -> Subspace:
    """Finds the directions by which the texts of two groups differ, where their last token is read.

    Args:
        model: a `CausalLM`, or a `MaskedLM`, of which the mean over tokens counts in place of the last one.
        tokenizer: its `Tokenizer`.
        first, second: lists of str, texts of the groups: such as ends of sentences from which a model goes on with
            one pronoun or the other.
        layer: int, the number of the block behind which they differ; -1 for the embeddings. By default the last one.
        directions: int, how many. More take out more, of other things too.
        method: "sentence_debias", for texts that are pairs, alike but for the group, or "inlp", for any.

    Returns:
        `Subspace`, for `project_out`.

    Raises:
        TypeError: for a model of another kind.
        ValueError: for lists that do not fit the method, and numbers out of their range.

    Example:
        >>> texts = [f"The {word} went home because" for word in ("nurse", "maid")]
        >>> others = [f"The {word} went home because" for word in ("pilot", "smith")]
        >>> subspace = interpret.bias_subspace(model, tokenizer, texts, others)
        >>> with interpret.project_out(model, subspace):
        ...     print(kerasllm.generate(model, tokenizer, "The baker went home because"))
    """
    if not isinstance(model, CausalLM | MaskedLM):
        raise TypeError(f"Directions are those of a CausalLM or MaskedLM, got a {type(model).__name__}.")
    if method not in _METHODS:
        raise ValueError(f"`method` is {' or '.join(map(repr, _METHODS))}, got {method!r}.")
    first, second = list(first), list(second)
    if not first or not second or (method == "sentence_debias" and len(first) != len(second)):
        raise ValueError(f"Two lists of texts are compared, of pairs as many, got {len(first)} and {len(second)}.")
    name, directions = _name_of(model, layer), whole_number("directions", directions, 1)
    tokenizer = as_tokenizer(tokenizer)
    groups = [np.stack([_activation(model, tokenizer, text, name) for text in texts]) for texts in (first, second)]
    most = min(len(first) + len(second), groups[0].shape[1])
    if directions > most:
        raise ValueError(f"`directions` is at most {most}, of so many texts and this width, got {directions}.")
    found = (main_differences if method == "sentence_debias" else _classifiers)(*groups, directions)
    mean = np.mean([group.mean(axis=0) for group in groups], axis=0)
    return Subspace(found.astype("float32"), mean.astype("float32"), name)


@contextlib.contextmanager
def project_out(model: CausalLM | MaskedLM, subspace: Subspace):
    """Within it, all texts are alike to a model in the directions of a subspace: at each token they are there as texts
    of both groups are on average.

    What else these directions say is gone too: measure the perplexity beside the bias.

    Args:
        model: the model that the subspace is of.
        subspace: a `Subspace`.

    Raises:
        TypeError, ValueError: for a subspace of another model.

    Example:
        >>> with interpret.project_out(model, subspace):
        ...     print(evaluation.perplexity(model, tokenizer, documents).perplexity)
    """
    if not isinstance(subspace, Subspace):
        raise TypeError(f"What is projected out is a Subspace, got {subspace!r:.80}.")
    if subspace.directions.shape[1] != model.config.d_model:
        raise ValueError(f"{subspace} is of another model: {model.name} has a width of {model.config.d_model}.")

    def without(x):
        basis, mean = ops.cast(subspace.directions, x.dtype), ops.cast(subspace.mean, x.dtype)
        return x - ops.matmul(ops.matmul(x - mean, ops.transpose(basis)), basis)

    with edit(model, {subspace.name: without}):
        yield


def _name_of(model, layer):
    blocks = [name for name in names(model) if name.endswith("/output") and "block_" in name.split("/")[-2]]
    layer = len(blocks) - 1 if layer is None else whole_number("layer", layer, -1)
    if layer >= len(blocks):
        raise ValueError(f"`layer` must be less than {len(blocks)}, the number of the model's blocks, got {layer}.")
    return blocks[layer] if layer >= 0 else next(name for name in names(model) if name.endswith("/embedding"))


def _activation(model, tokenizer, text, name):
    """What a text is like, float64 (D,)."""
    ids = np.array([tokenizer.encode(text)], "int32")
    if not ids.size:
        raise ValueError("A text without tokens is like nothing.")
    (found,) = activations(model, ids, name).values()
    return found[0, -1].astype("float64") if isinstance(model, CausalLM) else found[0].mean(axis=0, dtype="float64")


def main_differences(first, second, directions):
    """The main directions of what is left of pairs without the mean of each, (K, D)."""
    rows = np.concatenate([first - second, second - first]) / 2
    return np.linalg.svd(rows, full_matrices=False)[2][:directions]


def _classifiers(first, second, directions):
    """Those of least-squares classifiers of the group, of which each sees what those before it left, (K, D)."""
    x, y = np.concatenate([first, second]), np.repeat([1.0, -1.0], [len(first), len(second)])
    x, y, found = x - x.mean(axis=0), y - y.mean(), []
    for _ in range(directions):
        ridge = _RIDGE * max((x**2).mean(), 1e-12) * len(x) * np.eye(x.shape[1])
        weights = np.linalg.solve(x.T @ x + ridge, x.T @ y)
        for other in found:  # what rounding left of them
            weights -= (weights @ other) * other
        found.append(weights / np.linalg.norm(weights))
        x = x - np.outer(x @ found[-1], found[-1])
    return np.stack(found)
