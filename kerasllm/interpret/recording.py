"""What happens inside a model, by name.

Shapes: B batch, T time.
"""

import contextlib

import keras
import numpy as np
from keras import ops

from kerasllm.interpret.editing import check_names, without_model
from kerasllm.layers import taps
from kerasllm.models import CausalLM
from kerasllm.models.shapes import length_dependent_rotations

CHUNK = 1024  # tokens


def activations(model, inputs, names="*", *, padding_mask=None, chunk_size=CHUNK):
    """What happens inside a model as it reads inputs: what is asked for, and nothing else is kept.

    Args:
        model: a Keras model of our layers.
        inputs: token ids, int (B, T), or a dict of inputs, as in a call of the model.
        names: str or list of str: names, or ends of them in which `*` stands for anything, such as "block_*/output" or
            "attention/probabilities". `interpret.names(model)` lists them, and `layers.taps` says what they are.
        padding_mask: bool (B, T) or None. False hides a token from all others.
        chunk_size: int. A `CausalLM` reads longer texts so many tokens at a time, with a cache of keys and values, so
            that memory is needed for little more than what is kept. Scores of keys that come later are 0 then.

    Returns:
        dict from names, without the model's own, to NumPy arrays. Layers that share a block share its names: of their
        second pass it is "name:1", and so on.

    Raises:
        ValueError: for a name that nothing has.

    Example:
        >>> found = interpret.activations(model, token_ids, "block_*/output")
        >>> found["transformer/block_0/output"].shape
        (1, 10, 64)
    """
    patterns = [names] if isinstance(names, str) else list(names)
    check_names(model, patterns)
    masked = {} if padding_mask is None else {"padding_mask": padding_mask}
    ids = _ids_to_read_in_chunks(model, inputs)
    if ids is None or ids.shape[1] <= chunk_size:
        with _keeping(model, patterns) as found:
            model(inputs, training=False, **masked)
        return found
    parts = {}
    cache = model.init_cache(len(ids), ids.shape[1], full=True)
    for begin in range(0, ids.shape[1], chunk_size):
        with _keeping(model, patterns) as found:
            chunk = ids[:, begin : begin + chunk_size]
            _, cache = model(chunk, cache=cache, cache_index=begin, training=False, **masked)
        for name, array in found.items():
            parts.setdefault(name, []).append(array)
    return {name: _joined(arrays) for name, arrays in parts.items()}


def _joined(arrays):
    """Arrays of chunks along time; of the first one's scores there are none of keys that come later."""
    width = max(array.shape[-1] for array in arrays)
    padded = [np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])]) for x in arrays]
    return np.concatenate(padded, axis=arrays[0].ndim - 2)


@contextlib.contextmanager
def _keeping(model, patterns):
    """Yields a dict that fills with arrays by name."""
    kept = {}
    with taps.recording(*patterns, model=model) as found:
        yield kept
    for name, passed in found.items():
        for number, tensor in enumerate(passed):
            kept[without_model(model, name) + (f":{number}" if number else "")] = as_array(tensor)


def as_array(tensor):
    """A NumPy array of a tensor, in float32 where its own dtype is one of fewer bits."""
    if keras.backend.standardize_dtype(tensor.dtype) in ("bfloat16", "float16"):
        tensor = ops.cast(tensor, "float32")
    return ops.convert_to_numpy(tensor)


def _ids_to_read_in_chunks(model, inputs):
    """Token ids, where a model may read them with a cache and there is nothing else to read; or None."""
    if not isinstance(model, CausalLM) or type(model).call is not CausalLM.call or length_dependent_rotations(model):
        return None
    if isinstance(inputs, dict):
        return np.asarray(inputs["token_ids"]) if list(inputs) == ["token_ids"] else None
    return np.asarray(inputs)
