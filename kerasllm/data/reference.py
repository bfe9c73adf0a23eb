"""What a reference says of texts: computed once, and kept with what it was computed of."""

import hashlib
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from kerasllm import backend
from kerasllm.files import replacing

_TOKENS_AT_ONCE = 4096
_NAME = "log_probs"


def reference_of(texts, model, file=None):
    """The log-probability of each token of answers, (tokens,) float32, 0 elsewhere, and the fingerprint of a model.

    Args:
        texts: `preference_batches.PreferenceTexts`.
        model: a `CausalLM`, or None where the file is there.
        file: path of a .safetensors file, which is read where it exists, and else written; or None.

    Raises:
        FileNotFoundError: where there is neither a model nor a file.
        ValueError: where the file is of another model, or of other texts.
    """
    of_texts = _digest(texts.tokens, texts.learned, texts.lengths)
    fingerprint = None if model is None else fingerprint_of(model)
    if file is not None and Path(file).exists():
        return _read(file, fingerprint, of_texts)
    if model is None:
        raise FileNotFoundError(f"There is no {file}: give reference= a model, of which it is to be made.")
    values = _computed(texts, model)
    if file is not None:
        with replacing(Path(file)) as draft:
            safetensors.numpy.save_file({_NAME: values}, draft, {"reference": fingerprint, "texts": of_texts})
    return values, fingerprint


def _computed(texts, model):
    compute = backend.compile_function(model.log_probabilities, model.variables, xla=False)
    begins = np.cumsum(texts.lengths) - texts.lengths
    values = np.zeros(len(texts.tokens), "float32")
    order = np.argsort(texts.lengths, kind="stable")
    while len(order):
        count = max(1, _TOKENS_AT_ONCE // int(texts.lengths[order[-1]]))  # the longest come first
        some, order = order[-count:], order[:-count]
        ids, labels, is_text, learned, _ = texts.padded(some, 0)
        inputs = {"token_ids": ids, "document_ids": is_text.astype("int32")}
        found = np.asarray(compute(inputs, np.maximum(labels, 0), learned))
        for row, text in zip(found, some, strict=True):
            begin, length = begins[text], texts.lengths[text]
            values[begin + 1 : begin + length] = row[: length - 1]
    return values


def _read(file, fingerprint, of_texts):
    with safetensors.safe_open(file, "numpy") as stored:
        metadata, values = stored.metadata() or {}, stored.get_tensor(_NAME)
    if metadata.get("texts") != of_texts:
        raise ValueError(f"{file} is of other texts than these: remove it, and it is made anew.")
    if fingerprint is not None and metadata.get("reference") != fingerprint:
        raise ValueError(f"{file} is of another reference than this model: remove it, and it is made anew.")
    return values, metadata.get("reference")


def fingerprint_of(model):
    """A hash of what a model's weights are, 64 hexadecimal digits."""
    return _digest(*_weights(model))


def _weights(model):
    for weight in model.weights:
        yield np.asarray(weight.path)
        yield np.asarray(weight)


def _digest(*arrays):
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data if array.dtype.kind != "U" else str(array).encode())
    return digest.hexdigest()
