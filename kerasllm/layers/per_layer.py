"""Options of blocks that may differ from layer to layer: one value for all layers, or a sequence with one for each."""

PER_LAYER = ("attention_window", "rope_theta", "partial_rotary_factor", "rope_scaling")


def is_per_layer(value):
    return isinstance(value, list | tuple)


def split_by_layer(options, num_layers):
    """The options of each layer.

    Args:
        options: dict; those named in `PER_LAYER` may have a sequence as their value.
        num_layers: int.

    Returns:
        list of dicts, as `[{"rope_theta": 1e4}, {"rope_theta": 1e6}]` of `{"rope_theta": (1e4, 1e6)}` and 2 layers.

    Raises:
        ValueError: if a sequence is of another length.
    """
    sequences = {name: options[name] for name in PER_LAYER if is_per_layer(options.get(name))}
    for name, values in sequences.items():
        if len(values) != num_layers:
            raise ValueError(
                f"`{name}` has {len(values)} values for {num_layers} layers: give one for each layer, or one for all."
            )
    return [{**options, **{name: values[i] for name, values in sequences.items()}} for i in range(num_layers)]


def join_layers(values):
    """A tuple with the value of each layer, or the one that all of them have."""
    return values[0] if all(value == values[0] for value in values) else tuple(values)
