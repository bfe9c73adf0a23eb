"""Models like others, with larger vocabularies than they were trained with or other fields of the config."""

from collections.abc import Iterable

import numpy as np

from kerasllm.layers.composite import check_parts
from kerasllm.models.weights import weight_names, weights_in_float, weights_to_save

# Weights with something for each token id, and the axis along which they have it.
_TABLE = "token_embedding/embeddings"
_AXES = {_TABLE: 0, "token_embedding/reverse_embeddings": 1, "output_bias": 0}


def with_new_tokens(model, token_ids: Iterable[int]):
    """A model like this one for a vocabulary with new tokens, of which it knows no more than that they are tokens.

    What the embedding and the output layer have for a new token is the mean of what they have for the others: so it is
    neither likelier nor stranger than any, and training begins without a jump (Hewitt 2021, "Initializing New Word
    Embeddings for Pretrained Language Models").

    Args:
        model: a model of `kerasllm.models`, without adapters. It stays as it is.
        token_ids: iterable of int, the ids of the new tokens, or none. Where a model has room for them already, as many
            have for more ids than their tokenizer has, its vocabulary does not grow.

    Returns:
        A new model of the same class, not compiled.

    Raises:
        ValueError: for an id that is negative or leaves ids below it that nobody has, or if the model has adapters
            or is quantized by Keras' own `quantize`.

    Example:

    >>> base = kerasllm.models.CausalLM(kerasllm.models.TransformerConfig(65, 1, 16, 2, 32))
    >>> kerasllm.models.with_new_tokens(base, [65, 66]).config.vocab_size
    67
    """
    ids = np.unique(np.fromiter(token_ids, "int64"))
    size = model.config.vocab_size
    new_size = max(size, 1 + int(ids.max(initial=0)))
    if ids.min(initial=0) < 0 or not np.isin(np.arange(size, new_size), ids).all():
        raise ValueError(
            f"New token ids go on from the model's {size} (0 to {size - 1}), without a gap, or are among these; got "
            f"{ids.tolist()!s:.60}."
        )
    check_parts(model, plain=True)
    arrays = {**weights_to_save(model, plain=True), **weights_to_save(model)}

    def value_of(name):
        value = arrays[name]()
        return _with_mean(value, _AXES[name], ids, new_size) if name in _AXES else value

    grown = _like(model, value_of, _with_table_in_float, vocab_size=new_size)
    if getattr(model, "base", None) is not None:
        grown.base = model.base.grown(ids.tolist(), lambda name: arrays[name](), weight_names(grown))
    return grown


def with_fields(model, **fields):
    """A model with the weights of this one and other fields of its config that change no weight, such as `dropout`."""
    arrays = weights_to_save(model)
    return _like(model, lambda name: arrays[name](), **fields)


def _with_table_in_float(model):
    """Its weights by name, among them the embeddings, which may be quantized when they are assigned."""
    table = model.token_embedding
    if table.kernel_layer is None:
        return weight_names(model)
    inside = set(map(id, table.weights))
    others = {name: weight for name, weight in weight_names(model).items() if id(weight) not in inside}
    return {**others, _TABLE: weights_in_float(model)[_TABLE]}


def _like(model, value_of, weights_of=weight_names, **fields):
    """A model with other fields and weights."""
    settings = model.get_config()
    settings["config"] = {**settings["config"], **fields}
    made = type(model).from_config({**settings, "random_weights": False})
    for name, weight in weights_of(made).items():
        weight.assign(value_of(name))
    for name in ("origin", "generation_settings", "base", "image_processor"):
        if hasattr(model, name):
            setattr(made, name, getattr(model, name))
    return made


def _with_mean(value, axis, ids, new_size):
    """An array with the mean of what it has along an axis at new indices."""
    size = value.shape[axis]
    mean = np.delete(value, ids[ids < size], axis).mean(axis, dtype="float32", keepdims=True).astype(value.dtype)
    grown = np.concatenate([value, np.repeat(mean, new_size - size, axis)], axis)
    np.moveaxis(grown, axis, 0)[ids] = np.moveaxis(mean, axis, 0)
    return grown
