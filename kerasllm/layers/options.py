"""The keyword options of layers, as frozen dataclasses: each class stands beside the layer that it shapes.

A layer takes the options of its class as keywords, has them as attributes, and hands them on to the layers inside it.
`models.TransformerConfig` inherits them all, so that each option is a field there too, by the same name.
"""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The base of all options."""

    @classmethod
    def names(cls):
        return [field.name for field in dataclasses.fields(cls)]

    @classmethod
    def of(cls, holder):
        """Those that a layer or a config has, as keyword arguments."""
        return {name: getattr(holder, name) for name in cls.names()}

    @classmethod
    def take(cls, keywords):
        """Moves them out of a dict of keyword arguments."""
        return cls(**{name: keywords.pop(name) for name in cls.names() if name in keywords})

    def set_on(self, layer, d_model=None, num_heads=None):
        """Gives a layer of these sizes its options as attributes.

        Raises:
            ValueError: if they do not fit together: see `check`.
        """
        self.check(d_model, num_heads)
        for name, value in self.of(self).items():
            setattr(layer, name, value)

    def check(self, d_model=None, num_heads=None):
        """Refuses, in a layer of these sizes, values that there are not or that do not fit together."""


def check_sizes(**sizes):
    """Refuses anything but positive integers, by name."""
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")


def check_positive(**values):
    """Refuses numbers that are not positive, by name; None is not looked at."""
    for name, value in values.items():
        if value is not None and not value > 0:
            raise ValueError(f"`{name}` must be positive or None, got {value!r}.")


def check_choice(name, value, choices):
    """Refuses what is not among the choices."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {choices}, got {value!r}.")


def is_per_layer(value):
    """Whether an option has a value for each layer of a stack, and not one for all."""
    return isinstance(value, list | tuple)


def split_by_layer(options, num_layers):
    """The options of each layer.

    Args:
        options: dict, in which a sequence has a value for each layer.
        num_layers: int.

    Returns:
        list of dicts, as `[{"rope_theta": 1e4}, {"rope_theta": 1e6}]` of `{"rope_theta": (1e4, 1e6)}` and 2 layers.

    Raises:
        ValueError: if a sequence is of another length.
    """
    sequences = {name: values for name, values in options.items() if is_per_layer(values)}
    for name, values in sequences.items():
        if len(values) != num_layers:
            raise ValueError(
                f"`{name}` has {len(values)} values for {num_layers} layers: give one for each layer, or one for all."
            )
    return [{**options, **{name: values[i] for name, values in sequences.items()}} for i in range(num_layers)]


def split_by_group(options, num_layers, num_groups=None):
    """The group of each layer, and the options of each group.

    Args:
        options, num_layers: as in `split_by_layer`.
        num_groups: int or None. Layers beside each other are of one group, as evenly as can be; None: each of its own.

    Returns:
        Two lists, as `[0, 0, 1, 1]` and two dicts of 4 layers and 2 groups.

    Raises:
        ValueError: if there are more groups than layers, or layers of a group differ.
    """
    of_layers, count = split_by_layer(options, num_layers), num_layers if num_groups is None else num_groups
    check_sizes(num_layer_groups=count)
    if count > num_layers:
        raise ValueError(f"`num_layer_groups` must be at most `num_layers` ({num_layers}), got {count}.")
    groups = [i * count // num_layers for i in range(num_layers)]
    of_groups = [of_layers[groups.index(group)] for group in range(count)]
    for group, of_layer in zip(groups, of_layers, strict=True):
        for name, value in of_layer.items():
            if value != of_groups[group][name]:
                raise ValueError(f"`{name}` must be the same in all layers of a group, which share their weights.")
    return groups, of_groups


def join_layers(values):
    """A tuple with the value of each layer, or the one that all of them have."""
    return values[0] if all(value == values[0] for value in values) else tuple(values)
