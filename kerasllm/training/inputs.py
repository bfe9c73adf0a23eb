"""What models of token ids are called with: whole numbers in rows, by the names that the model has for them.

Shapes: B batch, T time.
"""

import numpy as np

from kerasllm import backend
from kerasllm.words import advice

_DOCUMENTS = "document_ids is 0 where a row is padding, and 1 elsewhere"
_BESIDE = "labels stand beside the inputs, as in fit(inputs, labels) or in a dataset of (inputs, labels)"
# The inputs of models of transformers and KerasHub. Where there are two, the model has one or the other.
_OTHERS = (
    ("input_ids", "token_ids"),
    ("input_ids", "source_ids"),
    ("encoder_token_ids", "source_ids"),
    ("decoder_input_ids", "target_ids"),
    ("decoder_token_ids", "target_ids"),
    ("attention_mask", "source_mask"),
    ("padding_mask", "source_mask"),
    ("encoder_padding_mask", "source_mask"),
    ("segment_ids", "token_type_ids"),
)
_CLAUSES = {
    "labels": _BESIDE,
    "label_ids": _BESIDE,
    "attention_mask": _DOCUMENTS,
    "padding_mask": _DOCUMENTS,
    "decoder_attention_mask": "the weights of labels are 0 where a target is padding, and what is before it needs none",
    "decoder_padding_mask": "the weights of labels are 0 where a target is padding, and what is before it needs none",
    "position_ids": "it is an argument of a call, model(token_ids, position_ids=…)",
}


def is_per_token(name):
    """Whether an input has a value for each token, (B, T): ids and masks have, and are named so."""
    return name.endswith(("_ids", "_mask"))


def check_names(inputs, kind, needed, optional, embeddings):
    """Refuses inputs that a model does not read, which would change nothing, and says which are missing.

    Args:
        inputs: what the model is called with: an array, or a dict of them.
        kind: str, what the model is.
        needed, optional: tuples of str, the names of its inputs.
        embeddings: dict from the names of embeddings to those of the ids in whose place they may stand.
    """
    known = [*needed, *optional, *embeddings]
    if not isinstance(inputs, dict):
        if len(needed) > 1 or isinstance(inputs, tuple):
            what = type(inputs).__name__
            raise TypeError(f"A {kind} reads a dict with {' and '.join(needed)}, got inputs of type {what}.")
        return
    words = _CLAUSES | {other: ours for other, ours in _OTHERS if ours in known}
    for name in inputs:
        if name not in known:
            instead = advice(name, known, words) or f". They are {', '.join(known)}."
            raise ValueError(f"A {kind} has no `{name}` among its inputs{instead}")
    given = {name for name in known if inputs.get(name) is not None}
    for name, ids in embeddings.items():
        if name in given:
            if beside := [i for i in ids if i in given]:
                raise ValueError(
                    f"A {kind} reads `{name}` in the place of {' and '.join(beside)}, got both: leave one out."
                )
            given.update(ids)
    if not given.issuperset(needed):
        instead = f"; {' and '.join(embeddings)} may stand in their place" if embeddings else ""
        raise ValueError(f"A {kind} reads {' and '.join(needed)}, got {', '.join(inputs) or 'an empty dict'}{instead}.")


def check_are_ids(ids, name="token_ids"):
    """Refuses text, numbers that are not whole, and what is not in rows.

    Args:
        ids: an array, a tensor, or nested lists of numbers.
    """
    given = ids
    if isinstance(ids, str | list | tuple):
        ids = np.asarray(ids, dtype=None if isinstance(ids, str) else object)
    kind = str(getattr(ids.dtype, "name", ids.dtype))
    if kind == "object":
        kind = type(next(iter(ids.flat), None)).__name__
    if kind.startswith(("str", "bytes")):
        raise TypeError(
            f"`{name}` are numbers, and got text: encode it with the tokenizer first, as its `encode_batch` and "
            "kerasllm.data.causal_lm_dataset do."
        )
    if "float" in kind:
        raise TypeError(
            f"`{name}` are whole numbers, and got {kind}: convert them, as with ids.astype('int32'), or say "
            "keras.Input(..., dtype='int32')."
        )
    if isinstance(given, list | tuple):
        raise TypeError(
            f"`{name}` are an array, and got a {type(given).__name__}: np.array(rows) makes one, and of rows of "
            "different lengths tf.ragged.constant(rows)."
        )
    shape = backend.static_shape(ids)
    if shape is not None and len(shape) != 2:
        raise ValueError(f"`{name}` are rows of ids, (B, T), got the shape {shape}: ids[None] makes a row of one text.")


def check_are_labels(labels, ids):
    """Refuses labels, in arrays, that are not whole numbers or do not belong to ids (B, T)."""
    given = tuple(labels.shape)
    given = given[:2] if given[2:] == (1,) else given
    if given != tuple(ids.shape):
        raise ValueError(
            f"Labels {tuple(labels.shape)} do not fit token ids {tuple(ids.shape)}: a label is needed for each token, "
            "such as the token that follows it."
        )
    if isinstance(labels, np.ndarray) and labels.dtype.kind == "f":
        is_broken = labels != np.trunc(labels)
        if is_broken.any():
            raise TypeError(f"Labels are token ids, whole numbers, and got {labels[is_broken][0]}.")
