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
        zeros: function (TransformerConfig) -> dict from names to shapes: what transformers has and ours do not, such as
            biases of the logits, and is written as zeros.
        output_bias: tuple of str, the names of the bias of the logits; the first of them that a file holds counts.
        sides: tuple of str, the tables of encoder and decoder, where they may be others than `shared`.
        shared: str, the table that both sides and the output layer then share.
        by_file: tuple of str, fields of the config that a file's weights decide, whatever its settings say.
    """

    architecture: str
    model: type
    fields: object
    settings: object
    weights: object
    renames: tuple = ()
    unused: str = r"(?!)"
    zeros: object = lambda config: {}
    output_bias: tuple = ()
    sides: tuple = ()
    shared: str = ""
    by_file: tuple = ()
