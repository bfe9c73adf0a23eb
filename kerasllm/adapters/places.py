"""Where adapters can be put: the dense layers of a model, slice by slice, its embedding and its output layer, under the
names that they have here and in Hugging Face's format."""

import re
from typing import NamedTuple

from kerasllm.huggingface.choosing import family_of
from kerasllm.huggingface.names import source_of
from kerasllm.layers import FeedForward, MultiHeadAttention
from kerasllm.layers.composite import layers_inside
from kerasllm.layers.dense import Dense
from kerasllm.layers.embedding import ReversibleEmbedding
from kerasllm.layers.taps import matches
from kerasllm.models.headless import HeadlessModel

EMBEDDING, OUTPUT = "token_embedding", "output_layer"  # what the places of tables are called
_NAMES_SHOWN = 12


class Place(NamedTuple):
    """A dense layer, or a table of an embedding.

    Attributes:
        path: str, such as "transformer/block_0/attention/query_key_value", or `EMBEDDING` or `OUTPUT`.
        layer: the `Dense`, or the `ReversibleEmbedding`.
        is_inner: bool, whether it is one of attention or of a feed-forward layer.
        widths: dict from the names of its slices, such as "query", to their outputs; {"": all} where it has one.
        inputs: int, of the kernel; those of the table of an embedding are ids.
        source: the `Source` of its kernel, with a tensor for each slice; None where Hugging Face's format has none.
    """

    path: str
    layer: Dense | ReversibleEmbedding
    is_inner: bool
    widths: dict
    inputs: int
    source: object = None

    @property
    def modules(self):
        """The names of the slices in Hugging Face's format; None for those that have none."""
        names = self.source.names if self.source else [None] * len(self.widths)
        return dict(zip(self.widths, (name and name.removesuffix(".weight") for name in names), strict=True))

    def name_of(self, part):
        """The path of a slice: "transformer/block_0/attention/query"."""
        return f"{self.path.rpartition('/')[0]}/{part}".lstrip("/") if part else self.path

    def matches(self, part, patterns):
        """Whether any pattern is a name of a slice, or the end of one."""
        names = {self.path, self.name_of(part), (self.modules[part] or "").replace(".", "/")}
        return any(matches(name, pattern.replace(".", "/")) for name in names for pattern in patterns)


def family_of_model(model):
    """The family of Hugging Face of a model, and the table of its weights; (None, {}) where there is none."""
    origin, config = getattr(model, "origin", None), getattr(model, "config", None)
    try:
        _, family, settings = family_of(type(model), config, origin and origin.model_type)
    except (ValueError, TypeError):
        return None, {}
    table = family.weights(config, settings)
    if not family.root:
        return family, table
    # PEFT has the Transformer of a text embedder by itself.
    bare = {name: source for name, source in table.items() if source.names and source.names[0].startswith(family.root)}
    bare = {
        name: source._replace(names=tuple(tensor.removeprefix(family.root) for tensor in source.names))
        for name, source in bare.items()
    }
    return family, bare


def places_of(model):
    """The `Place`s of a model, in order. A kernel that is one tensor in Hugging Face's format is one slice."""
    _, table = family_of_model(model)
    return [
        _place(path, layer, holder, table) for path, layer, holder in layers_inside(model) if isinstance(layer, Dense)
    ]


def _place(path, layer, holder, table):
    source = _source(table, f"{path}/kernel")
    widths = {"": layer.units} if source and len(source.names) == 1 else _widths(layer, holder)
    is_inner = isinstance(holder, MultiHeadAttention | FeedForward)
    return Place(path, layer, is_inner, widths, layer.input_spec.axes[-1], source)


def _source(table, name):
    try:
        return source_of(table, name)
    except KeyError:  # A subclass has layers of its own.
        return None


def tables_of(model):
    """The `Place`s of the embedding of a model and of its output layer, where that has a table of its own.

    Models with an encoder, whose sides share tables or not, have none.
    """
    layer = getattr(model, "token_embedding", None)
    if not isinstance(layer, ReversibleEmbedding) or getattr(model, "has_encoder", False):
        return []
    _, table = family_of_model(model)
    V, D = layer.input_dim, layer.output_dim
    places = [Place(EMBEDDING, layer, False, {"": D}, V, _source(table, f"{layer.name}/embeddings"))]
    if not layer.tie_weights:
        places.append(Place(OUTPUT, layer, False, {"": V}, D, _source(table, f"{layer.name}/reverse_embeddings")))
    return places


def output_module(model):
    """What the output layer of a model is called in Hugging Face's format; None where it has none."""
    _, table = family_of_model(model)
    source = None if isinstance(model, HeadlessModel) else _source(table, f"{EMBEDDING}/reverse_embeddings")
    return source and source.names[0].removesuffix(".weight")


def is_tied(model):
    """Whether the output layer of a model has the table of its embedding."""
    return model.token_embedding.tie_weights and not isinstance(model, HeadlessModel)


def _widths(layer, holder):
    if isinstance(holder, MultiHeadAttention) and layer.name in ("query_key_value", "key_value"):
        own = {} if layer.name == "key_value" else {"query": holder.num_heads * holder.head_dim}
        return {**own, **dict.fromkeys(("key", "value"), holder.num_kv_heads * holder.head_dim)}
    if isinstance(holder, FeedForward) and holder.gated and layer is holder.inner:
        return dict.fromkeys(("gate", "up"), holder.dff)
    return {"": layer.units}


def chosen(model, patterns):
    """The slices that patterns name: a list of pairs (`Place`, set of names of slices).

    Args:
        model: Keras model.
        patterns: a str or several; None for all of attention and feed-forward layers.

    Raises:
        ValueError: if a pattern matches nothing.
    """
    places = [*places_of(model), *tables_of(model)]
    if patterns is None:
        found = [(place, set(place.widths)) for place in places if place.is_inner]
    else:
        patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
        for pattern in patterns:
            if not any(place.matches(part, [pattern]) for place in places for part in place.widths):
                _check_output(model, places, pattern)
                raise ValueError(f"No layer of {model.name} to adapt is called {pattern!r}: {_all(places)}")
        found = [(place, {part for part in place.widths if place.matches(part, patterns)}) for place in places]
    found = [(place, parts) for place, parts in found if parts]
    if not found:
        raise ValueError(f"No layer of {model.name} to adapt was named: {_all(places)}")
    return found


def _check_output(model, places, pattern):
    """Refuses a pattern of the output layer where that has the table of the embedding."""
    has_output = any(place.path == EMBEDDING for place in places) and is_tied(model)
    names = [OUTPUT, output_module(model) or OUTPUT] if has_output else []
    if any(matches(name.replace(".", "/"), pattern.replace(".", "/")) for name in names):
        raise ValueError(
            f"The output layer of {model.name}, {pattern!r}, has the table of its embedding: name {EMBEDDING!r}, and "
            "both are adapted as one."
        )


def _all(places):
    names = [place.name_of(part) for place in places for part in place.widths]
    return listed("it has", [re.sub(r"^.*block_\d+/", "", name) for name in names])


def listed(what, names):
    """A clause that names what there is, each once."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"{what} {', '.join(names[:_NAMES_SHOWN])}{more}." if names else f"{what} none."
