"""Reading a config.json as transformers does: the same settings, with the same defaults and other names."""

import functools
import logging
from pathlib import Path

from kerasllm.files import read_json

# transformers reads these too. They concern training, or the form and the speed of what it returns: never logits.
_HARMLESS = {
    "activation_dropout", "chunk_size_feed_forward", "decoder_layerdrop", "decoder_start_token_id", "embd_pdrop",
    "embedding_size", "encoder_layerdrop", "gradient_checkpointing", "id2label", "is_encoder_decoder", "layerdrop",
    "num_labels", "pad_token_id", "reorder_and_upcast_attn", "resid_pdrop", "return_dict", "use_cache",
}  # fmt: skip
# Names of activations in Hugging Face's configs.
_ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "relu": "relu",
    "relu2": "relu_squared",
    "silu": "silu",
    "swish": "silu",
}

# What a layer may see, in `layer_types`.
WINDOW, EVERYTHING = "sliding_attention", "full_attention"
_OLDER_TYPES = {"attention": EVERYTHING}

_SIZES = {
    "vocab_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "num_heads": "num_attention_heads",
    "dff": "intermediate_size",
}
# Which types of JSON a type of Python may come as.
_TYPES = {"bool": bool, "int": int, "float": (int, float), "str": str, "list": list, "dict": dict}


@functools.cache
def reference(kind):
    """What transformers reads of a config.json of a type: see tests/parity/record_reference_settings.py.

    Returns:
        dict of "settings", from names to pairs (type, default), and "aliases", from other names to these.
    """
    return read_json(Path(__file__).parent / "reference_settings.json")["types"][kind]


class Settings:
    """The settings of a config.json, as transformers reads them.

    What the file leaves out is the default of transformers' class, and what transformers does not read is passed over.
    Whatever it does read must be taken here, or be what it is by default.

    Args:
        values: dict, with its `model_type`.
        path: where they are from, for messages.
    """

    def __init__(self, values, path):
        known = reference(values["model_type"])
        self._path, self._known, aliases = path, known["settings"], known["aliases"]
        given = sorted(values.items(), key=lambda item: item[0] in aliases)  # Of two names the other one counts.
        self._given = {aliases.get(name, name): value for name, value in given}
        if inert := sorted(self._given.keys() - self._known.keys()):
            logging.getLogger(__name__).debug("%s: %s change nothing in the logits", path, ", ".join(inert))
        self._left = self._given.keys() & self._known.keys() - _HARMLESS

    def take(self, name, default=None):
        """A setting; the default where it is null, or not one that transformers reads of such a model."""
        self._left.discard(name)
        kind, standard = self._known.get(name, ("", None))
        value = self._given.get(name, standard) if name in self._known else None
        value = self._typed(name, value, kind) if name in self._given and kind else value
        return default if value is None else value

    def _typed(self, name, value, kind):
        """A value of the type that transformers asks for; whole numbers may be written as others."""
        words = kind.replace("[", " ").split()
        if value is None and "None" in words:
            return value
        if isinstance(value, float) and value.is_integer() and "int" in words and "float" not in words:
            return int(value)
        types = [_TYPES[word] for word in words if word in _TYPES]
        if not any(isinstance(value, t) for t in types) or (isinstance(value, bool) and "bool" not in words):
            raise ValueError(f"{self._path} says {name}={value!r} where there must be {kind}; correct the file.")
        return value

    def refuse(self, name, value, possible):
        raise ValueError(
            f"{self._path} asks for {name}={value!r}, and kerasllm computes only {possible}, which gives other logits."
        )

    def only(self, name, *allowed):
        """Refuses a setting that has another value than these."""
        value = self.take(name)
        if value not in allowed:
            self.refuse(name, value, " or ".join(map(repr, allowed)))
        return value

    def ignore(self, *names):
        """Settings that change nothing here."""
        self._left -= {*names}

    def sizes(self):
        """What most architectures name alike."""
        return {ours: self.take(theirs) for ours, theirs in _SIZES.items()}

    def activation(self, name, default=None):
        value = self.take(name, default)
        if value is not None and value not in _ACTIVATIONS:
            raise ValueError(f"{self._path} asks for {name}={value!r}; kerasllm knows {', '.join(_ACTIVATIONS)}.")
        return _ACTIVATIONS.get(value)

    def layer_types(self, default):
        """What each layer sees: a window, or everything."""
        kinds = [_OLDER_TYPES.get(kind, kind) for kind in self.take("layer_types", default)]
        for kind in kinds:
            if kind not in (WINDOW, EVERYTHING):
                self.refuse("layer_types", kind, f"{WINDOW!r} or {EVERYTHING!r}")
        return kinds

    def finish(self):
        """Refuses what transformers reads, nobody has taken here, and is not as it is by default."""
        for name in sorted(self._left):
            value, (_, standard) = self._given[name], self._known[name]
            if value != standard and (standard is not None or value not in (False, [], {})):
                self.refuse(name, value, repr(standard))


def size_settings(config):
    """What `Settings.sizes` reads."""
    return {theirs: getattr(config, ours) for ours, theirs in _SIZES.items()}


def activation_name(name):
    """Hugging Face's name of an activation of ours."""
    return next(theirs for theirs, ours in _ACTIVATIONS.items() if ours == name)


def attention_bias(config):
    return config.use_bias if config.attention_bias is None else config.attention_bias


def windows(config):
    """The window of a model, and which of its layers have it."""
    by_layer = config.by_layer("attention_window")
    kinds = [EVERYTHING if window is None else WINDOW for window in by_layer]
    return {"sliding_window": next(filter(None, by_layer), None), "layer_types": kinds}
