"""Texts to vectors."""

from collections.abc import Iterable

import numpy as np

from kerasllm.generation.prompts import as_text
from kerasllm.generation.whole_texts import answers_to
from kerasllm.models import TextEmbedder
from kerasllm.tokenizers import Tokenizer, as_tokenizer


def embed(
    model: TextEmbedder,
    tokenizer: Tokenizer,
    texts: str | Iterable[str],
    batch_size: int = 32,
    prompt: str | None = None,
) -> np.ndarray:
    """Makes a vector of each text; the nearer two of them are, the more alike is what the texts mean.

    Args:
        model: a `TextEmbedder`.
        tokenizer: the model's `Tokenizer`.
        texts: str, or several. Longer ones than the model takes are cut.
        batch_size: int, texts at once.
        prompt: str, one of `model.prompts` by name, such as "query", or any other, which is put before each text.

    Returns:
        float32 (W,), or (N, W) of several texts.

    Raises:
        TypeError: if the model is no `TextEmbedder`, or a text no str.
        ValueError: if the vectors are not finite.

    Example:
        >>> model, tokenizer = kerasllm.load("sentence-transformers/all-MiniLM-L6-v2")
        >>> kerasllm.embed(model, tokenizer, ["A dog runs.", "An animal is moving."]).shape
        (2, 384)
    """
    if not isinstance(model, TextEmbedder):
        raise TypeError(f"`embed` needs a TextEmbedder, got {type(model).__name__}.")
    is_one = as_text(texts) is not None
    strings = [as_text(text) for text in ([texts] if is_one else texts)]
    if None in strings:
        raise TypeError("`embed` takes a text, a str, or several of them.")
    before = "" if prompt is None else model.prompts.get(prompt, prompt)
    strings = [before + string for string in strings]
    width, longest = model.width or model.config.d_model, model.max_tokens or model.config.max_length
    vectors = answers_to(model, as_tokenizer(tokenizer), strings, width, longest, batch_size)
    return vectors[0] if is_one else vectors
