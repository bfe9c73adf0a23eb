"""What may be given as a text or as prompts: strings and token ids, of Python, NumPy and TensorFlow."""

from collections.abc import Iterable, Mapping
from numbers import Integral

import numpy as np

from kerasllm.training.inputs import is_per_token


def as_text(value):
    """The str that a string of any kind holds (str, UTF-8 bytes, a scalar of NumPy or TensorFlow), or None.

    Raises:
        ValueError: for bytes that are no UTF-8.
    """
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"Text in bytes must be UTF-8, and byte {error.start} of this one is not.") from error
    if getattr(value, "shape", None) == () and hasattr(value, "__array__"):
        item = np.asarray(value).item()
        return as_text(item) if isinstance(item, str | bytes) else None
    return None


def as_texts(texts):
    """A str where one text is given, and else a list of str.

    Raises:
        TypeError: for anything else.
    """
    one = as_text(texts)
    if one is not None:
        return one
    if hasattr(texts, "items") or not isinstance(texts, Iterable):
        raise TypeError(f"Texts must be a str or a list of str, got {_kind(texts)}.")
    several = [(text, as_text(text)) for text in texts]
    for number, (given, text) in enumerate(several):
        if text is None:
            raise TypeError(f"Texts must be str, text {number} is of type {type(given).__name__}.")
    return [text for _, text in several]


def as_prompts(prompts):
    """Reads what a user gives to be continued.

    Args:
        prompts: a text, a sequence of token ids or a dict of inputs with one of them, or several of any.

    Returns:
        A list of prompts, each a dict with "text" (str) or "token_ids" (list of int), and with other inputs, where they
        are given; and whether one was given, not several.

    Raises:
        TypeError: for anything else.
    """
    one = _prompt(prompts)
    if one is not None and (isinstance(prompts, Mapping) or one != {"token_ids": []}):  # that is a list of no prompts
        return [one], True
    if hasattr(prompts, "to_list"):
        prompts = prompts.to_list()
    is_named = hasattr(prompts, "keys") and getattr(prompts, "ndim", None) != 1  # as dicts and tables, not columns
    if is_named or not isinstance(prompts, Iterable):
        raise TypeError(f"Prompts are texts, lists of token ids or dicts of inputs, got {_kind(prompts)}.")
    several = [(prompt, _prompt(prompt)) for prompt in prompts]
    for given, prompt in several:
        if prompt is None:
            raise TypeError(
                f"A prompt must be a str, a list of token ids (int) or a dict of inputs, got {_kind(given)}."
            )
    return [prompt for _, prompt in several], False


def _prompt(value):
    """A dict with "text" or "token_ids" (empty for what is empty), or None for what is not one prompt."""
    if isinstance(value, Mapping):
        return _inputs(value)
    if (text := as_text(value)) is not None:
        return {"text": text}
    ids = _ids(value)
    return None if ids is None else {"token_ids": ids}


def _inputs(given):
    """A dict of inputs, with those in the form that they have in a prompt."""
    given = {name: value for name, value in given.items() if value is not None}
    kinds = [name for name in ("text", "token_ids") if name in given]
    if len(kinds) != 1:
        raise TypeError(
            f"A prompt that is a dict has `text` or `token_ids`, got {', '.join(given) or 'an empty dict'}."
        )
    inputs = {
        name: as_text(value) if name == "text" else _ids(value) if is_per_token(name) else np.asarray(value)
        for name, value in given.items()
    }
    for name, value in inputs.items():
        if value is None:
            wanted = "a str" if name == "text" else "a list of int"
            raise TypeError(f"`{name}` of a prompt is {wanted}, got {_kind(given[name])}; several prompts are a list.")
    return inputs


def _ids(value):
    """A list of int, or None for anything else."""
    if hasattr(value, "to_list"):  # a ragged tensor, a column of a table
        value = value.to_list()
    elif hasattr(value, "__array__"):
        array = np.asarray(value)
        value = array.tolist() if array.ndim == 1 and (array.dtype.kind in "iu" or not array.size) else None
    if isinstance(value, list | tuple) and all(isinstance(token, Integral) for token in value):
        return [int(token) for token in value]
    return None


def _kind(value):
    dtype = getattr(value, "dtype", None)
    return type(value).__name__ + ("" if dtype is None else f" of {getattr(dtype, 'name', dtype)}")


def encode_prompt(tokenizer, prompt):
    """The inputs of a prompt from `as_prompts`, with "token_ids" in the place of its text; an empty one begins after a
    document's end, as training texts do."""
    inputs = dict(prompt)
    ids = tokenizer.encode(inputs.pop("text")) if "text" in inputs else inputs["token_ids"]
    if not ids:
        first_id = tokenizer.end_id if tokenizer.end_id is not None else tokenizer.start_id
        if first_id is None:
            raise ValueError("The prompt is empty, and the tokenizer has no end or start token to begin with.")
        ids = [first_id]
    return {**inputs, "token_ids": ids}
