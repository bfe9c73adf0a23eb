"""What there is to say about an architecture: a table of settings and a table of weights.

To add a family, write `families/<name>.py`, for which `gpt2.py` is a pattern:

1. Its rows, of which config.json is both read and written. Most are a `setting`: a field of ours and its name there.
   A `choice` is one whose values have other names, `always` are fields that every model of the family has, `required`
   and `same` refuse by name what would give other logits, `ignored` passes over what would not. What an absent setting
   means is recorded from transformers in step 4. Where one setting makes several fields, or the reverse, a `Row` has
   two functions of its own. A later row wins over an earlier one: a variant is another family's rows and then its own.

       _ROWS = (
           *SIZES,
           setting("max_length", "max_position_embeddings"),
           choice("norm_placement", "norm_first", {True: "pre", False: "post"}),
           choice("activation", "activation_function", ACTIVATIONS),
           required("use_bias", True),
           always(positions="learned"),
       )

   Rows that families share are in `rotary.py` and `windows.py`.
2. Its weights, a function that returns a dict from our names to those of a checkpoint, with the helpers of `names.py`.
3. `FAMILIES = {"<model_type>": Family("<its class there>", CausalLM, _ROWS, _weights)}`, and a line in `__init__.py`.
4. `python tests/parity/record_reference_settings.py`, which records what transformers reads of such a config.json, with
   defaults. Each setting that it finds is from then on in a row, or refused where it is not what it is by default.
5. Three small models in `CASES` of tests/parity/test_huggingface.py, and a line in the table of
   docs/how-to/hugging-face.md; `pytest -m parity` then reads, computes and writes them beside transformers.

What `TransformerConfig` cannot say is first an option of a layer: a family is only names.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple


class Row(NamedTuple):
    """A line of a family's table, in both directions.

    Attributes:
        read: function (`Settings`, dict of the fields of the rows before) -> dict of `TransformerConfig` fields, or
            None for none.
        write: function (`TransformerConfig`, none of whose fields is left to be inferred) -> dict for config.json.
    """

    read: Callable = lambda settings, fields: {}
    write: Callable = lambda config: {}


def setting(ours, theirs=None, default=None, read=lambda value: value, write=lambda value: value):
    """A field that is a setting.

    Args:
        ours: str, the field of `TransformerConfig`.
        theirs: str, the setting of config.json; `ours` when absent.
        default: what null means, or a function (dict of the fields of the rows before) -> that.
        read, write: functions from their value to ours and back.
    """
    theirs = theirs or ours

    def read_field(settings, fields):
        return {ours: read(settings.take(theirs, default(fields) if callable(default) else default))}

    return Row(read_field, lambda config: {theirs: write(getattr(config, ours))})


def choice(ours, theirs, names):
    """A setting whose values have other names here: `names` maps theirs to ours, the preferred ones first."""
    return Row(
        lambda settings, fields: {ours: settings.choose(theirs, names)},
        lambda config: {theirs: name_of(getattr(config, ours), names)},
    )


def name_of(value, names):
    """The first name of a value in a dict from their names to our values."""
    return next(name for name, meant in names.items() if meant == value)


def always(**fields):
    """Fields that all models of a family have."""
    return Row(lambda settings, before: fields)


def required(theirs, value):
    """A setting that is refused where it has another value."""
    return Row(lambda settings, fields: settings.only(theirs, value), lambda config: {theirs: value})


def same(theirs, ours, *others):
    """A setting that is refused where it differs from a field that another one has given, and is none of `others`."""
    return Row(
        lambda settings, fields: settings.only(theirs, *others, fields[ours]),
        lambda config: {theirs: getattr(config, ours)},
    )


def ignored(*theirs):
    """Settings that change nothing here."""
    return Row(lambda settings, fields: settings.ignore(*theirs))


# Names of activations in config.json.
ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu_squared",
    "silu": "silu",
    "swish": "silu",
}
# What most architectures name alike.
SIZES = (
    setting("vocab_size"),
    setting("num_layers", "num_hidden_layers"),
    setting("d_model", "hidden_size"),
    setting("num_heads", "num_attention_heads"),
    setting("dff", "intermediate_size"),
)


class Family(NamedTuple):
    """An architecture of transformers and what it is here.

    Attributes:
        architecture: str, the class of transformers that computes the same.
        model: the class of `kerasllm.models` that does.
        rows: tuple of `Row`s, between config.json and `TransformerConfig`.
        weights: function (TransformerConfig, dict of config.json) -> dict from names of ours, "#" for the number of a
            block, to `Source`s.
        renames: pairs (regular expression, replacement): what names of old or bare checkpoints are now.
        unused: regular expression for tensors that say nothing of the logits.
        zeros: function (TransformerConfig) -> dict from names to shapes: what transformers has and ours do not, such as
            biases of the logits or a table of types, and is written as zeros.
        output_bias: tuple of str, the names of the bias of the logits; the first of them that a file holds counts.
        side_tables: tuple of str, the tables of encoder and decoder, where they may be others than `shared_table`.
        shared_table: str, the table that both sides and the output layer then share.
        from_weights: tuple of str, fields of the config that a file's weights decide, whatever its settings say.
        read_options: function (dict of config.json) -> dict of what the class is called with beside its config.
        write_options: function (model) -> dict of what config.json says of that.
        root: str, what names of tensors begin with here and not in what is written.
    """

    architecture: str
    model: type
    rows: tuple
    weights: Callable
    renames: tuple = ()
    unused: str = r"(?!)"
    zeros: Callable = lambda config: {}
    output_bias: tuple = ()
    side_tables: tuple = ()
    shared_table: str = ""
    from_weights: tuple = ()
    read_options: Callable = lambda values: {}
    write_options: Callable = lambda model: {}
    root: str = ""

    def zeros_of_body(self, config):
        """`zeros`, without the bias of the logits."""
        return {name: shape for name, shape in self.zeros(config).items() if name not in self.output_bias}

    def fields(self, settings):
        """The fields of `TransformerConfig` that `Settings` ask for, as a dict."""
        fields = {}
        for row in self.rows:
            fields |= row.read(settings, fields) or {}
        return fields

    def settings(self, config):
        """What config.json says of a `TransformerConfig`, as a dict."""
        config, settings = explicit(config), {}
        for row in self.rows:
            settings |= row.write(config)
        return settings


def explicit(config):
    """A `TransformerConfig` with every field that others imply filled in."""
    head_dim = config.head_dim or config.d_model // config.num_heads
    bias = config.use_bias if config.attention_bias is None else config.attention_bias
    return dataclasses.replace(
        config,
        head_dim=head_dim,
        num_kv_heads=config.num_kv_heads or config.num_heads,
        attention_bias=bias,
        qkv_bias=bias if config.qkv_bias is None else config.qkv_bias,
        attention_scale=config.attention_scale or head_dim**-0.5,
        attention_dropout=config.dropout if config.attention_dropout is None else config.attention_dropout,
    )
