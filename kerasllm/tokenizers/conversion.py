"""What may stand where a tokenizer is asked for: ours, one of transformers, or an engine of `tokenizers`."""

import weakref
from typing import Any

import tokenizers

from kerasllm.tokenizers.tokenizer import Tokenizer

_ROLES = {"pad": "pad_token", "start": "bos_token", "end": "eos_token", "mask": "mask_token"}
# Tokenizers of transformers to what was made of them, and of which settings.
_converted: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def as_tokenizer(tokenizer: Any) -> Tokenizer:
    """The `Tokenizer` that one of transformers is, without transformers.

    Args:
        tokenizer: a `Tokenizer`, which stays what it is, as does anything else with its methods; a
            `PreTrainedTokenizerFast` of transformers, with its special tokens and chat template; or a
            `tokenizers.Tokenizer`. Special tokens in a text are text from then on. What is changed in the original
            later changes nothing here, but for the names of special tokens and the template.

    Returns:
        `Tokenizer`.

    Raises:
        TypeError: where it is something else.

    Example:

    >>> engine = tokenizers.Tokenizer(tokenizers.models.WordLevel({"the": 0, "cat": 1, "</s>": 2}))
    >>> as_tokenizer(engine).end_id
    2
    """
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    if isinstance(tokenizer, tokenizers.Tokenizer):
        return Tokenizer(_copy(tokenizer))
    engine = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(engine, tokenizers.Tokenizer):
        return _of_transformers(tokenizer, engine)
    if hasattr(tokenizer, "convert_tokens_to_ids"):
        raise TypeError(
            f"A {type(tokenizer).__name__} of transformers without a fast engine cannot be read: save it with its "
            f"save_pretrained, and read the folder with kerasllm.tokenizers.Tokenizer.load."
        )
    if not callable(getattr(tokenizer, "encode", None)) or isinstance(tokenizer, str):
        raise TypeError(
            f"A tokenizer is a kerasllm.tokenizers.Tokenizer, got {tokenizer!r:.80}: train one with "
            f"Tokenizer.train(texts), or read a folder with Tokenizer.load(folder)."
        )
    return tokenizer


def _of_transformers(tokenizer, engine):
    named = {role: getattr(tokenizer, name, None) for role, name in _ROLES.items()}
    named = {role: str(token) for role, token in named.items() if token is not None}
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):  # of named ones, such as one for the use of tools
        template = template.get("default")
    settings = (named, template, engine.get_vocab_size())
    if tokenizer not in _converted or _converted[tokenizer][0] != settings:
        ours = Tokenizer(_copy(engine), **named)
        ours.chat_template = template
        _converted[tokenizer] = settings, ours
    return _converted[tokenizer][1]


def _copy(engine):
    """An engine that may be changed."""
    return tokenizers.Tokenizer.from_str(engine.to_str())
