"""What texts and ids may be; and many texts to ids, in batches for the engine's threads, long ones in pieces."""

import numpy as np

from kerasllm.tokenizers.word_splitting import pieces

_BATCH_LENGTH = 2**19
_ENCODING_LENGTH = 64  # what an empty encoding weighs, in characters


def checked(text):
    """Returns a text that can be encoded.

    Raises:
        TypeError: where it is not a str.
        ValueError: where it holds lone surrogates, which are no characters.
    """
    if not isinstance(text, str):
        raise TypeError(f"A tokenizer takes str, got {type(text).__name__}: {text!r:.60}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"The text holds a lone surrogate, {text[error.start]!r} at character {error.start}, which is no text. "
            'Repair it, for example with text.encode("utf-8", "replace").decode().'
        ) from error
    return text


def checked_ids(ids, vocab_size):
    """One row of token ids, as a list of int.

    Raises:
        ValueError: where they are something else, or outside of the vocabulary.
    """
    try:
        ids = np.asarray(ids)
    except ValueError:
        raise ValueError("ids must be one row of integers, got rows of several lengths: decode each.") from None
    if ids.size == 0:
        return []
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ValueError(f"ids must be one row of integers, got shape {ids.shape} of {ids.dtype}.")
    for worst in (ids.min(), ids.max()):
        if not 0 <= worst < vocab_size:
            raise ValueError(f"Token id {worst} is not in the vocabulary: ids are 0 to {vocab_size - 1}.")
    return ids.tolist()


def encode_stream(engine, texts, places, bare):
    """Yields the ids (int32 array) of each text, in bounded memory.

    Args:
        engine: `tokenizers.Tokenizer`.
        texts: iterable of str.
        places: a pattern of the places where a text may be cut, or None.
        bare: bool, whether what the engine's post-processor puts around a text is left out.
    """
    parts = []
    for batch in _batches(texts, places):
        encodings = engine.encode_batch_fast([piece for piece, _ in batch], add_special_tokens=not bare)
        for (_, is_last), encoding in zip(batch, encodings, strict=True):
            parts.append(np.array(encoding.ids, np.int32))
            if is_last:
                yield np.concatenate(parts)
                parts = []


def _batches(texts, places):
    """Lists of (piece of a text, whether it is the text's last), each list of bounded length."""
    batch, length = [], 0
    for text in map(checked, texts):
        parts = [text] if places is None else list(pieces(text, places))
        for number, piece in enumerate(parts, start=1):
            batch.append((piece, number == len(parts)))
            length += len(piece) + _ENCODING_LENGTH
            if length >= _BATCH_LENGTH:
                yield batch
                batch, length = [], 0
    if batch:
        yield batch
