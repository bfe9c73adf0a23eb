"""Reading a config.json as transformers does: the same settings, with the same defaults and other names."""

import functools
import logging
from pathlib import Path

from kerasllm.files import read_json

# transformers reads these too. They concern training, or the form and the speed of what it returns: never logits.
_HARMLESS = {
    "activation_dropout", "chunk_size_feed_forward", "decoder_layerdrop", "decoder_start_token_id", "embd_pdrop",
    "embedding_size", "encoder_layerdrop", "gradient_checkpointing", "id2label", "is_encoder_decoder", "layerdrop",
    "num_labels", "output_attentions", "output_hidden_states", "pad_token_id", "reorder_and_upcast_attn",
    "resid_pdrop", "return_dict", "use_cache",
}  # fmt: skip
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
        annotation, standard = self._known.get(name, ("", None))
        value = self._given.get(name, standard) if name in self._known else None
        value = self._typed(name, value, annotation) if name in self._given and annotation else value
        return default if value is None else value

    def _typed(self, name, value, annotation):
        """A value of the type that transformers asks for; whole numbers may be written as others."""
        words = annotation.replace("[", " ").split()
        if value is None and "None" in words:
            return value
        if isinstance(value, float) and value.is_integer() and "int" in words and "float" not in words:
            return int(value)
        types = [_TYPES[word] for word in words if word in _TYPES]
        if not any(isinstance(value, t) for t in types) or (isinstance(value, bool) and "bool" not in words):
            raise ValueError(f"{self._path} says {name}={value!r} where there must be {annotation}; correct the file.")
        return value

    def refuse(self, name, value, *possible):
        """Says that a setting has a value that is not one of the possible ones."""
        *others, last = map(repr, possible)
        possible = f"{', '.join(others)} or {last}" if others else last
        raise ValueError(
            f"{self._path} asks for {name}={value!r}, and kerasllm computes only {possible}, which gives other logits."
        )

    def only(self, name, *allowed):
        """Refuses a setting that has another value than these."""
        value = self.take(name)
        if value not in allowed:
            self.refuse(name, value, *allowed)

    def ignore(self, *names):
        """Settings that change nothing here."""
        self._left -= {*names}

    def choose(self, name, names, default=None):
        """A setting that is a name of something, by a dict from names to what they mean."""
        value = self.take(name, default)
        if value is not None and value not in names:
            raise ValueError(f"{self._path} asks for {name}={value!r}; kerasllm knows {', '.join(names)}.")
        return names.get(value)

    def finish(self):
        """Refuses what transformers reads, nobody has taken here, and is not as it is by default."""
        for name in sorted(self._left):
            value, (_, standard) = self._given[name], self._known[name]
            if value != standard and (standard is not None or value not in (False, [], {})):
                self.refuse(name, value, standard)
