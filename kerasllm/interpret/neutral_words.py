"""Words that say nothing of what tells groups apart: hard debiasing of embeddings, by Bolukbasi et al. 2016."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kerasllm.generation.options import whole_number
from kerasllm.interpret.projection import main_differences
from kerasllm.models import CausalLM, MaskedLM
from kerasllm.tokenizers import as_tokenizer


def neutralize(
    model: CausalLM | MaskedLM,
    tokenizer: Any,
    first: Sequence[str],
    second: Sequence[str],
    words: Sequence[str],
    *,
    directions: int = 1,
) -> list[int]:
    """Takes the directions by which words of two groups differ out of the embeddings of other words, in place.

    A model then reads the others as if they stood between the groups, while "he", "Mary" and what else is said to
    differ go on to do so. `project_out` takes a direction out of all that a text says.

    Args:
        model: a `CausalLM` or `MaskedLM`, whose embeddings are changed. Where they are tied, its output layer is too.
        tokenizer: its `Tokenizer`.
        first, second: lists of str, words of the groups, as pairs: "he" and "she", "James" and "Mary".
        words: list of str, those that are to say nothing of it, such as occupations. Each is one token of the
            tokenizer, with a space before it or without, or both.
        directions: int, how many. There are at most as many as pairs.

    Returns:
        list of int, the ids of the tokens whose embeddings are changed.

    Raises:
        TypeError: for a model of another kind.
        ValueError: for a word that is no token of its own, groups that are no pairs, and too many directions.

    Example:
        >>> groups = ["he", "James", "Robert"], ["she", "Mary", "Linda"]
        >>> ids = interpret.neutralize(model, tokenizer, *groups, ["nurse", "pilot", "smith"])

    Reference: Bolukbasi et al. 2016, https://arxiv.org/abs/1607.06520
    """
    if not isinstance(model, CausalLM | MaskedLM):
        raise TypeError(f"Embeddings are those of a CausalLM or MaskedLM, got a {type(model).__name__}.")
    if not first or len(first) != len(second):
        raise ValueError(f"Words of two groups are pairs, as many of each, got {len(first)} and {len(second)}.")
    if whole_number("directions", directions, 1) > len(first):
        raise ValueError(f"`directions` is at most {len(first)}, the number of pairs, got {directions}.")
    tokenizer, variable = as_tokenizer(tokenizer), model.token_embedding.embeddings
    vectors = np.array(variable, "float32")
    groups = [np.stack([vectors[_tokens(tokenizer, word)].mean(axis=0) for word in part]) for part in (first, second)]
    V = main_differences(*groups, directions)
    ids = sorted({token for word in words for token in _tokens(tokenizer, word)})
    middle = (groups[0].mean(axis=0) + groups[1].mean(axis=0)) / 2
    vectors[ids] -= (vectors[ids] - middle) @ V.T @ V
    variable.assign(vectors)
    return ids


def _tokens(tokenizer, word):
    """The ids that a word alone has, with a space before it and without."""
    forms = [ids.tolist() for ids in tokenizer.encode_stream([word, f" {word}"], bare=True)]
    found = [ids[0] for ids in forms if len(ids) == 1]
    if not found:
        raise ValueError(f"{word!r} is no token of its own, but {len(forms[1])}: its embedding is that of other words.")
    return found
