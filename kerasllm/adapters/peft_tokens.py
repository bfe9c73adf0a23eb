"""Rows of an embedding in PEFT's folders: those of `trainable_token_indices`, in place of the table's."""

import numpy as np

from kerasllm.adapters.changing import token_rows
from kerasllm.huggingface.names import source_of

INDICES = "trainable_token_indices"
_ROWS = ".token_adapter.trainable_tokens_delta"
_TABLES = {"rows": "embeddings", "output_rows": "reverse_embeddings"}


def written_rows(member, table, prefix):
    """The tensors of `TokenRows` by name, and what adapter_config.json says of them."""
    arrays, indices = {}, {}
    for name, source, module in _places(member, table):
        array = np.array(getattr(member, name))
        ((_, rows),) = source.write(array if name == "rows" else array.T, []).items()
        arrays[f"{prefix}{module}{_ROWS}"] = rows
        indices[module.rpartition(".")[2]] = member.token_ids
    return arrays, indices


def read_rows(model, table, config, checkpoint, left, name):
    """The `TokenRows` of a checkpoint by path, and what its weights are to hold: a dict from names to arrays.

    Args:
        model: a model of `kerasllm.models`.
        table: dict of its `Source`s.
        config: dict of adapter_config.json.
        checkpoint: its `Checkpoint`.
        left: set of the names of tensors that are not read yet; those that are read are taken out.
        name: str, what the adapter is to be called.

    Raises:
        ValueError: if the embedding and the output layer have rows of different tokens, or what is said does not fit.
    """
    given = config.get(INDICES)
    if not given:
        return {}, {}
    if isinstance(given, list):  # those of the embedding
        given = {"": given}
    ids = next(iter(given.values()))
    if any(other != ids for other in given.values()):
        raise ValueError(f"{checkpoint.folder} has rows of other tokens for the output layer than for the embedding.")
    if sorted(set(ids)) != ids:
        raise ValueError(f"{checkpoint.folder} has rows of tokens that are not in order: {ids!s:.60}.")
    members, arrays = token_rows(model, ids, name), {}
    (member,) = members.values()
    for weight, source, module in _places(member, table):
        key = f"{module}{_ROWS}"
        if key in left:
            expected = len(ids), model.config.embedding_width
            if checkpoint.shape(key) != expected:
                raise ValueError(
                    f"{checkpoint.path(key)} holds {key!r} with shape {checkpoint.shape(key)}, where the model asks "
                    f"for {expected}: it belongs to another base."
                )
            rows = source.read(lambda _, key=key: checkpoint.read(key))
            arrays[weight] = rows if weight == "rows" else rows.T
            left.discard(key)
    if "rows" not in arrays:
        raise ValueError(f"{checkpoint.folder} says {INDICES}={config[INDICES]!s:.60}, and holds no such rows.")
    return members, arrays


def _places(member, table):
    """Triples (name of a weight, `Source`, module) of what `TokenRows` have."""
    for name in ("rows",) if member.tied else _TABLES:
        source = source_of(table, f"token_embedding/{_TABLES[name]}")
        yield name, source, source.names[0].removesuffix(".weight")
