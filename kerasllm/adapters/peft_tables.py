"""Adapters of embeddings and output layers in PEFT's folders, where both may be of one table.

PEFT adapts a table for the embedding alone, or ties the adapters of both (`ensure_weight_tying`) where it is called
`embed_tokens`. What adapts one side of a table that both share has no place here: it could not go into the table.
"""

import numpy as np

from kerasllm.adapters.places import EMBEDDING, is_tied, output_module, tables_of

_TIED = {".lora_A.weight": ".lora_embedding_B", ".lora_B.weight": ".lora_embedding_A"}
_BASE = ".base_layer.weight"


def written_output(model, arrays, prefix):
    """The tensors that PEFT has of an output layer with the table of the embedding, from those of this one.

    Raises:
        ValueError: if PEFT would not tie them.
    """
    module, output = _module(model), output_module(model)
    if not _ties(module):
        raise ValueError(
            f"PEFT adapts {module} without the output layer, which has the same table here: a run folder holds such an "
            "adapter, and `merge` puts it into the table."
        )
    return {f"{prefix}{output}{own}": arrays[f"{prefix}{module}{other}"].T for own, other in _TIED.items()}


def check_tables(model, places, config, checkpoint, left):
    """Refuses what a folder says of tables that does not fit, and takes from what is left what says the same again.

    Args:
        model: a model of `kerasllm.models`.
        places: list of the `Place`s that it adapts.
        config: dict of adapter_config.json.
        checkpoint: its `Checkpoint`.
        left: set of names of tensors.

    Raises:
        ValueError: if it adapts one side of a table that both share, or holds the table of another base.
    """
    for place in tables_of(model):
        for module in filter(None, place.modules.values()):
            _check_base(place, module + _BASE, checkpoint, left)
    if not tables_of(model) or not is_tied(model):
        return
    module, output = _module(model), output_module(model)
    adapted = any(place.path == EMBEDDING for place in places)
    of_output = {f"{output}{own}": f"{module}{other}" for own, other in _TIED.items() if f"{output}{own}" in left}
    ties = config.get("ensure_weight_tying") and _ties(module)
    if (adapted or of_output) and not (adapted and ties):
        raise ValueError(
            f"{checkpoint.folder} adapts {module if adapted else output} alone, whose table is that of "
            f"{output if adapted else module} here too: have PEFT tie them by ensure_weight_tying=True, or untie the "
            "base."
        )
    for own, other in of_output.items():
        if not np.array_equal(checkpoint.read(own), checkpoint.read(other).T):
            raise ValueError(f"{checkpoint.path(own)} holds {own!r}, which is not {other!r} transposed, though tied.")
    left.difference_update(of_output, {f"{output}{_BASE}"})


def _check_base(place, name, checkpoint, left):
    """PEFT keeps the tables that it adapts, too."""
    if name not in left:
        return
    table = place.source.read(lambda _: checkpoint.read(name))
    weight = place.layer.embeddings if place.path == EMBEDDING else place.layer.reverse_embeddings
    if not np.array_equal(table, np.asarray(weight)):
        raise ValueError(
            f"{checkpoint.path(name)} holds {name!r}, which the model has not: it belongs to another base."
        )
    left.discard(name)


def _module(model):
    return next(iter(tables_of(model)[0].modules.values()))


def _ties(module):
    """Whether PEFT ties the adapters of a table of that name with those of the output layer."""
    return module is not None and module.rpartition(".")[2] == "embed_tokens"
