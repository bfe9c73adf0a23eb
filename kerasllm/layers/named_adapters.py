"""Several adapters of one layer, by name: `kerasllm.adapters` puts them there."""

import contextlib

import keras

from kerasllm.layers.low_rank import LowRank
from kerasllm.layers.low_rank_tables import LowRankTables
from kerasllm.layers.token_rows import TokenRows


@keras.saving.register_keras_serializable("kerasllm")
class NamedAdapters(keras.layers.Layer):
    """Adapters of one dense layer or embedding, of which one is in use, or none.

    Args:
        members: sequence of layers such as `LowRank`, or of an embedding `LowRankTables` or `TokenRows`, whose names
            tell them apart.
        active: str, the name of the one in use; None for none, and then the layer does what it does without.
        **options: `name` and `trainable`, as for any Keras layer.
    """

    def __init__(self, members=(), active=None, name="adapters", **options):
        super().__init__(**{**options, "name": name, "dtype": "float32", "autocast": False})
        self.members = list(members)
        self.active = active

    def build(self, *shapes):
        for member in self.members:
            if not member.built:
                member.build(*shapes)

    def call(self, inputs, product, kernel):
        member = self.member(self.active)
        return product if member is None else member(inputs, product, kernel=kernel)

    def member(self, name):
        """The one of that name, or None."""
        return next((member for member in self.members if member.name == name), None)

    def get_config(self):
        members = [member.get_config() for member in self.members]
        return {**super().get_config(), "members": members, "active": self.active}

    @classmethod
    def from_config(cls, config):
        members = [_kind_of(member).from_config(member) for member in config["members"]]
        return cls(**{**config, "members": members})


def _kind_of(config):
    return TokenRows if "token_ids" in config else LowRankTables if "tied" in config else LowRank


def adapters_of(model):
    """All `NamedAdapters` of a model."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, NamedAdapters)]


@contextlib.contextmanager
def without_adapters(model):
    """Within it a model computes what it does without adapters; what was compiled goes on as it was made."""
    found = adapters_of(model)
    active = [adapters.active for adapters in found]
    for adapters in found:
        adapters.active = None
    try:
        yield
    finally:
        for adapters, name in zip(found, active, strict=True):
            adapters.active = name


def adapters_in_use(model):
    """The names of those in use, layer by layer: what is compiled belongs to them."""
    return tuple(layer.active for layer in adapters_of(model))
