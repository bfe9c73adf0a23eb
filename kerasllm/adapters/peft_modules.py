"""What is trained as it is beside adapters, in PEFT's folders: whole modules, `modules_to_save`."""

import numpy as np

from kerasllm.adapters.places import family_of_model
from kerasllm.huggingface.names import source_of, widths_of
from kerasllm.models.weights import weight_names


def written_modules(model, prefix):
    """The tensors of what is trained beside adapters, by name, and the names of their modules."""
    _, table = family_of_model(model)
    arrays, modules = {}, set()
    for name, weight in weight_names(model).items():
        if weight.trainable and "/adapters/" not in name:
            source, array = _source(model, table, name), np.array(weight)
            if source is None:
                raise ValueError(f"{name} is trained beside the adapter, for which PEFT's format has no place.")
            tensors_of_weight = source.write(array, widths_of(name, array.shape, model.config))
            arrays |= {f"{prefix}{key}": tensor for key, tensor in tensors_of_weight.items()}
            modules |= {_trained_whole(key.rpartition(".")[0]) for key in tensors_of_weight}
    return arrays, sorted(modules)


def _trained_whole(module):
    """The module that PEFT trains with one: a head of several layers, such as RoBERTa's, as a whole."""
    return "classifier" if module.startswith("classifier.") else module


def read_modules(model, table, checkpoint, left):
    """What a checkpoint holds in place of weights of the base: a dict from their names to pairs (weight, array)."""
    found = {}
    for name, weight in weight_names(model).items():
        source = _source(model, table, name)
        if source is not None and left.issuperset(source.names):
            shapes = [checkpoint.shape(key) for key in source.names]
            if source.shape(shapes) != tuple(weight.shape):
                raise ValueError(
                    f"{checkpoint.path(source.names[0])} holds {source.names[0]!r} with shape {shapes[0]}, which does "
                    f"not fit {name!r} of shape {tuple(weight.shape)}: it belongs to another base."
                )
            found[name] = weight, source.read(checkpoint.read)
            left.difference_update(source.names)
    return found


def _source(model, table, name):
    """Where a weight lies in Hugging Face's format; None where that is nowhere, or two places: PEFT unties a table."""
    tied = name == "token_embedding/embeddings" and model.config.tie_embeddings
    try:
        source = None if tied else source_of(table, name)
    except KeyError:
        return None
    return source if source and source.names else None
