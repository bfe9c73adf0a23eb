"""What may stand where a text has masks."""

import numpy as np
from keras import ops

from kerasllm.generation.loop import NOT_FINITE
from kerasllm.generation.options import whole_number
from kerasllm.generation.prompts import as_text
from kerasllm.generation.text_stream import continuation
from kerasllm.models import MaskedLM
from kerasllm.tokenizers import Tokenizer, as_tokenizer
from kerasllm.tokenizers.masks import ordinary_ids


def fill_mask(model: MaskedLM, tokenizer: Tokenizer, text: str, top_k: int = 5) -> list[list[tuple[str, float]]]:
    """The likeliest tokens for each mask in a text.

    Args:
        model: a `MaskedLM`.
        tokenizer: the model's `Tokenizer`, with a mask token.
        text: str, with the mask token wherever a token is missing; other special tokens in it are plain text. Where
            words and the spaces before them share a token, as in byte-level BPE, a mask stands for both.
        top_k: int, how many tokens to name.

    Returns:
        For each mask a list of (text of the token as it continues what stands before it, probability), the likeliest
        first. The probabilities are those of one mask at a time: of two masks, neither knows what fills the other.

    Raises:
        TypeError: if the model is no `MaskedLM`, or the text no str.
        ValueError: if the text has no mask or is longer than the model's context, the tokenizer has no mask token, or
            `top_k` is not possible; if the model's logits are not finite.

    Example:
        >>> kerasllm.fill_mask(model, tokenizer, "The capital of France is <|mask|>.", top_k=1)
        [[(' Paris', 0.9)]]
    """
    if not isinstance(model, MaskedLM):
        raise TypeError(f"`fill_mask` needs a MaskedLM, got {type(model).__name__}; causal models `generate`.")
    if (string := as_text(text)) is None:
        raise TypeError(f"`fill_mask` takes one text, a str, got {type(text).__name__}.")
    tokenizer = as_tokenizer(tokenizer)
    ids = tokenizer.encode_masked(string)
    places = np.flatnonzero(np.array(ids) == tokenizer.mask_id)
    if not len(places):
        raise ValueError(
            f"The text has no mask to fill: write {tokenizer.special_tokens['mask']} where a token is missing."
        )
    if len(ids) > model.config.max_length:
        raise ValueError(
            f"The text has {len(ids)} tokens, and the model takes at most {model.config.max_length}: shorten it."
        )
    candidates = np.flatnonzero(ordinary_ids(tokenizer))
    top_k = whole_number("top_k", top_k, 0)
    if not 1 <= top_k <= len(candidates):
        raise ValueError(f"`top_k` must be between 1 and {len(candidates)}, the tokens there are, got {top_k}.")
    logits = ops.convert_to_numpy(ops.cast(model(np.array([ids]), training=False), "float32"))[0, places]
    if not np.isfinite(logits.max(axis=-1)).all():
        raise ValueError(NOT_FINITE)
    probabilities = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities = (probabilities / probabilities.sum(axis=-1, keepdims=True))[:, candidates]
    best = np.argsort(-probabilities, axis=-1, kind="stable")[:, :top_k]
    return [
        [(continuation(tokenizer, ids[:place], [int(candidates[i])]), float(row[i])) for i in order]
        for place, order, row in zip(places, best, probabilities, strict=True)
    ]
