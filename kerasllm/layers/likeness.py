"""Layers that do the same with weights of their own: they share one function in a graph, see `backend.shared`."""

from typing import NamedTuple

import keras

from kerasllm import backend
from kerasllm.layers.cache import join_heads, split_heads
from kerasllm.layers.taps import listeners

MOST_IN_A_RUN = 6


def call_alike(layer, x, cache, **options):
    """What a layer gives for x and its cache, by a function that layers which are alike share where graphs share.

    Args:
        layer: called as `layer(x, cache=cache, **options)`.
        x: tensor.
        cache: nested tensors, or None for a plain call.
        **options: what is the same for all of those layers.
    """
    alike = likeness(layer) if cache is not None and backend.shares() and not listeners() else None
    if alike is None:
        return layer(x, cache=cache, **options)
    return backend.shared(
        lambda x, cache: layer(x, cache=cache, **options),
        *(x, cache),
        variables=layer.weights,
        alike=(alike, identity(options)),
    )


def call_in_runs(blocks, x, cache, mask, position_ids, cache_index):
    """Takes tokens through blocks by compiled functions, each of a run of several blocks, which runs that are alike
    share: each call of one has its price, and so has each block that is compiled.

    Args:
        blocks: list of `TransformerBlock`.
        x: float (B, T, D).
        cache: list of a `BlockCache` for each block, in `backend.buffers`, which are written to.
        mask, position_ids, cache_index: see `TransformerBlock`.

    Returns:
        float (B, T, D).
    """
    length = _run_length(len(blocks))
    for begin in range(0, len(blocks), length):
        run = blocks[begin : begin + length]

        def through(x, mask, position_ids, cache_index, cache, run=run):
            options = {"mask": mask, "position_ids": position_ids, "cache_index": cache_index, "training": False}
            for block, of_block in zip(run, cache, strict=True):
                known = split_heads(backend.read_buffers(of_block), x.shape[0])
                x, new = block(x, cache=known, **options)
                backend.write_buffers(of_block, join_heads(new))
            return x

        once = list(dict.fromkeys(run))
        alike = tuple(likeness(block) or block.path for block in once), tuple(map(once.index, run))
        x = backend.shared(
            *(through, x, mask, position_ids, cache_index, cache[begin : begin + length]),
            variables=[weight for block in once for weight in block.weights],
            alike=alike,
        )
    return x


def _run_length(count):
    """How many of so many blocks are in a run: as many as divide them, unless that is few."""
    best = max(length for length in range(1, MOST_IN_A_RUN + 1) if count % length == 0)
    return best if best >= MOST_IN_A_RUN // 2 else MOST_IN_A_RUN


def likeness(layer):
    """A text that is equal for layers that do the same with weights of the same shapes; None where there are layers of
    somebody else inside, whose configs need not say all that they do."""
    inside = layer._flatten_layers()
    if not all(type(part).__module__.startswith(("kerasllm.", "keras.")) for part in inside):
        return None
    of_parts = [(type(part), keras.saving.serialize_keras_object(part.activity_regularizer)) for part in inside]
    of_weights = [(tuple(weight.shape), weight.dtype, weight.trainable) for weight in layer.weights]
    return repr([_without_names(layer.get_config()), of_parts, of_weights])


def _without_names(config):
    if isinstance(config, dict):
        return {key: _without_names(value) for key, value in config.items() if key != "name"}
    return [*map(_without_names, config)] if isinstance(config, list | tuple) else config


def identity(value):
    """What is equal for plain values that are equal, and for others, such as tensors, if they are the same object."""
    if isinstance(value, dict):
        return tuple((name, identity(part)) for name, part in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(identity, value))
    return value if value is None or isinstance(value, bool | int | str) else _Itself(value)


class _Itself(NamedTuple):
    """An object by what it is, not by what is in it."""

    value: object

    def __eq__(self, other):
        return isinstance(other, _Itself) and self.value is other.value

    def __hash__(self):
        return id(self.value)
