"""What there is to say about an architecture that sees and reads: what config.json says of its halves, and where their
weights are.

Its language half is a family as any other, whose settings are a part of config.json, `text_config`; its encoder of
pictures is one of `encoders.py`. A `Sighted` says how the two are put together.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from kerasllm.huggingface.families.family import Family
from kerasllm.huggingface.pictures.encoders import computed

TIED = "tie_word_embeddings"


class Sighted(NamedTuple):
    """An architecture of transformers that sees, and what it is here.

    Attributes:
        architecture: str, the class of transformers that computes the same.
        model: the class of `kerasllm.models` that does.
        text_families: dict of the families that its language half may be, by `model_type`.
        text_kind: str, the `model_type` of a `text_config` that does not say one.
        read: function (dict of config.json, path for messages) -> dict of what the class is called with beside its
            config.
        write: function (model, dict of `text_config`) -> dict for config.json.
        weights: function (TransformerConfig, dict of config.json) -> dict from names of ours to `Source`s.
        ties: bool, what an absent "tie_word_embeddings" means; None where only the text's counts.
        renames: pairs (regular expression, replacement): what names of older checkpoints are now.
        unused: regular expression for tensors that say nothing of the logits.
        zeros: function (dict of config.json) -> dict from names to shapes: what transformers has and ours do not.
    """

    architecture: str
    model: type
    text_families: dict
    text_kind: str
    read: Callable
    write: Callable
    weights: Callable
    ties: Any = None
    renames: tuple = ()
    unused: str = r"(?!)"
    zeros: Callable = lambda values: {}

    def text_of(self, values):
        """The settings of the language half, with their `model_type`."""
        text = {"model_type": self.text_kind, **(values.get("text_config") or {})}
        text.pop("use_bidirectional_attention", None)  # which says how the whole is put together, as `read` does
        tied = values.get(TIED, self.ties)
        return text if tied is None else {**text, TIED: tied or text.get(TIED, False)}

    def family(self, values, path="config.json"):
        """The `Family` of a config.json, whose own settings are those of `text_of`."""
        kind = self.text_of(values)["model_type"]
        if kind not in self.text_families:
            known = ", ".join(self.text_families)
            raise ValueError(f"{path} has a language model of type {kind!r}; kerasllm reads {known}.")
        return Family(
            self.architecture,
            self.model,
            self.text_families[kind].rows,
            lambda config, _: self.weights(config, values),
            renames=self.renames,
            unused=self.unused,
            zeros=lambda config: self.zeros(values),
            read_options=lambda _: self.read(values, path),
        )

    def settings(self, kind, model, text_type, find):
        """What config.json says of a model of this class, a dict.

        Args:
            kind: str, the `model_type` of the whole.
            text_type: str, the `model_type` to try first for the language half, or "".
            find: function (dict of families, TransformerConfig, `model_type` to try first) -> (`model_type`, `Family`,
                dict of settings).

        Raises:
            ValueError: if the architecture computes something else than the model.
        """
        text_kind, _, text = find(self.text_families, model.config, text_type or self.text_kind)
        values = {"model_type": kind, **self.write(model, {"model_type": text_kind, **text})}
        for name, theirs in self.read(values, "config.json").items():
            ours = getattr(model, name)
            if name == "vision":
                ours, theirs = computed(ours), computed(theirs)
            if ours != theirs:
                raise ValueError(f"{kind} has {name}={theirs!r}, and the model {ours!r}.")
        return values
