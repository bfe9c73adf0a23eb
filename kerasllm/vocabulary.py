"""Ids that a vocabulary does not have: how they are found, and what is said of them.

Shapes: B batch, T time.
"""

import keras
import numpy as np
from keras import ops

from kerasllm import backend


def is_outside(ids, size):
    """Where ids are not in a vocabulary of that size."""
    return ops.logical_or(ids < 0, ids >= size)


def within(ids, size):
    """Ids as int32, those outside of a vocabulary replaced by those at its ends."""
    return ops.cast(ops.clip(ids, 0, size - 1), "int32")


def farthest(ids, size):
    """The id that is farthest from a vocabulary of that size, at little cost where all are in it.

    Args:
        ids: int (B, T).
        size: int.

    Returns:
        Whether it is outside, its value, and its place in the batch, which counts along the rows: three scalars.
    """
    # With the other sign bit, negative ones are the largest. A zero in front, for a batch may be empty.
    ids = backend.as_integers(ids)
    dtype = keras.backend.standardize_dtype(ids.dtype)
    flat = ops.concatenate([ops.zeros((1,), dtype), ops.reshape(ids, (-1,))])
    index = ops.argmax(ops.bitwise_xor(flat, np.array(np.iinfo(dtype).min, dtype)))
    value = ops.take(flat, index)  # XLA would compile `flat[index]` anew for all ids
    return is_outside(value, size), value, index - 1


def check_ids(ids, size, name="token_ids", ignore_class=None):
    """Refuses ids that are not in a vocabulary of that size.

    Args:
        ids: int NumPy array (B, T), or None, which is not looked at.
        size: int.
        name: str, such as "token_ids", or "label".
        ignore_class: see `complaint`.
    """
    if ids is None or not ids.size or (ids.min() >= 0 and ids.max() < size):
        return
    bad = (ids < 0) | (ids >= size)
    place = tuple(int(axis[0]) for axis in bad.nonzero())
    raise ValueError(complaint(name, int(ids[place]), place, size, ignore_class))


def complaint(name, value, place, size, ignore_class=None):
    """What is said of an id outside of a vocabulary.

    Args:
        name: str, of what it is one; "class" for labels that are no ids of a vocabulary.
        value: int, the id.
        place: tuple, the row that it is in and its position there.
        size: int, of the vocabulary.
        ignore_class: int or None, the label of which nothing is learned, for labels.
    """
    where = f"in row {place[0]} of its batch, at position {place[1]}," if len(place) == 2 else f"at {place}"
    if name == "class":
        return f"The label {value} {where} is none of the {size} that the model has, 0 to {size - 1}."
    name = name.replace("_ids", " id").replace("_", " ")
    what = f"The {name} {value} {where} is outside the model's vocabulary of {size} ids (0 to {size - 1})"
    if value >= 0:
        return f"{what}: use the tokenizer that the model was made for, or make the model with its vocab_size."
    if name == "label":
        here = "" if ignore_class is None else f" (here it is {ignore_class})"
        return (
            f"{what}: to learn nothing of such labels, give the loss ignore_class={value}{here}, as in "
            f"kerasllm.losses.TokenCrossentropy(ignore_class={value})."
        )
    return f"{what}: pad with an id of the tokenizer, such as its pad_id."
