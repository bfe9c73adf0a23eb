"""What there is to say about an architecture."""

from typing import NamedTuple


class Family(NamedTuple):
    """A mapping of configs, and a table of weight names.

    Attributes:
        architecture: str, the class of transformers that computes the same.
        model: the class of `kerasllm.models` that does.
        fields: function (Settings) -> dict of `TransformerConfig` fields.
        settings: function (TransformerConfig) -> dict, what config.json says of it.
        weights: function (TransformerConfig, dict of config.json) -> dict from names of ours, "#" for the number of a
            block, to `Source`s.
        renames: pairs (regular expression, replacement): what names of old or bare checkpoints are now.
        unused: regular expression for tensors that say nothing of the logits.
        zeros: function (TransformerConfig) -> dict from names to shapes: biases of the logits that ours leave out, and
            that are written as zeros. A checkpoint in which they are something else has `output_bias`.
    """

    architecture: str
    model: type
    fields: object
    settings: object
    weights: object
    renames: tuple = ()
    unused: str = r"(?!)"
    zeros: object = lambda config: {}
