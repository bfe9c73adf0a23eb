"""Adapters put into a model, switched, merged and taken out."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import keras

from kerasllm.adapters.places import EMBEDDING, OUTPUT, chosen, is_tied, listed
from kerasllm.layers.adaptable import Adaptable
from kerasllm.layers.composite import forget_compiled, layers_inside
from kerasllm.layers.embedding import ReversibleEmbedding
from kerasllm.layers.low_rank import KINDS, LowRank, Slice
from kerasllm.layers.low_rank_tables import LowRankTables
from kerasllm.layers.named_adapters import NamedAdapters, without_adapters
from kerasllm.layers.taps import matches
from kerasllm.layers.token_rows import TokenRows


def add(
    model: keras.Model,
    rank: int = 16,
    alpha: float = 32,
    kind: str = "lora",
    layers: str | Sequence[str] | None = None,
    dropout: float = 0.0,
    train_also: str | Sequence[str] = (),
    name: str = "default",
    train_tokens: Iterable[int] = (),
) -> None:
    """Gives layers adapters, which alone are trained from then on; compile the model after it.

    Every weight else is frozen, biases and norms too. Adapters are float32 whatever the model's precision, and change
    nothing before they are trained.

    Args:
        model: a built Keras model with layers of kerasllm.
        rank: int, the width of what an adapter goes through.
        alpha: float. What an adapter adds is multiplied by alpha / rank, or with "rslora" by alpha / sqrt(rank).
        kind: "lora" (https://arxiv.org/abs/2106.09685), "rslora" (https://arxiv.org/abs/2312.03732) or "dora"
            (https://arxiv.org/abs/2402.09353), which trains the length of each output's weights as well.
        layers: names, or ends of names, in which `*` stands for anything: ours, such as "query", "feed_forward/*" or
            "block_0/*", or those of Hugging Face, such as "q_proj"; or whole ones with "/" before, as "/transformer/*",
            which leaves "vision/transformer/…" out. None for all of attention and feed-forward layers.
            "token_embedding" is the embedding, and "output_layer" the output layer where that has a table of its own;
            else it changes with the embedding.
        dropout: float, share of an adapter's inputs dropped in training, but of the embedding and the output layer.
        train_also: names of layers or ends of them, which are trained as they are, such as "final_norm". What they
            learn stays when adapters are switched off or taken out.
        name: str, of the adapter, of which a model may have several: the one added last is in use.
        train_tokens: ids of tokens, such as new ones, whose rows of the embedding and of the output layer are trained
            with it, and no others. They come and go with the adapter.

    Raises:
        ValueError: if a number is out of its range, a name matches nothing or is taken, a layer is quantized by Keras'
            own `quantize`, or "dora" is asked for a table that embedding and output layer share; nothing has changed.

    Example:

    >>> kerasllm.adapters.add(model, rank=8, layers=["query", "value"])
    >>> model.compile(kerasllm.optimizers.AdamW(1e-4))
    >>> model.fit(dataset)
    """
    if type(rank) is not int or rank < 1:
        raise ValueError(f"`rank` must be an integer of at least 1, got {rank!r}.")
    if kind not in KINDS:
        raise ValueError(f"`kind` must be {', '.join(map(repr, KINDS[:-1]))} or {KINDS[-1]!r}, got {kind!r}.")
    if not alpha > 0:
        raise ValueError(f"`alpha` must be above 0, got {alpha!r}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"`dropout` must be at least 0 and below 1, got {dropout!r}.")
    check_name(model, name)
    found = [
        (place, [Slice(part, width, *((rank, alpha) if part in parts else ())) for part, width in place.widths.items()])
        for place, parts in chosen(model, layers)
    ]
    members, rows = low_rank_members(model, found, kind, dropout, name), token_rows(model, train_tokens, name)
    if rows.keys() & members.keys():
        raise ValueError(
            "`train_tokens` has rows of the embedding trained, which `layers` adapts as a whole: give one."
        )
    attach(model, name, {**members, **rows}, train_also)


def low_rank_members(model, found, kind, dropout, name):
    """Members for `attach`.

    Args:
        model: Keras model.
        found: list of pairs (`Place`, list of its `Slice`s).
        kind, dropout, name: as for `add`.
    """
    tables = {place.path: slices[0] for place, slices in found if place.path in (EMBEDDING, OUTPUT)}
    members = {
        place.path: LowRank(slices, kind, dropout, name=name) for place, slices in found if place.path not in tables
    }
    if tables:
        tied = is_tied(model)
        if tied and kind == "dora":
            raise ValueError(
                f"The embedding of {model.name} has one table with its output layer, of which DoRA would train other "
                "lengths for each: adapt it by 'lora' or 'rslora', or name other layers."
            )
        parts = tables.get(EMBEDDING), tables.get(OUTPUT)
        members[model.token_embedding.name] = LowRankTables(*parts, kind, tied, name=name)
    return members


def token_rows(model, ids, name):
    """Members for `attach` of the rows of tokens; none without ids."""
    ids = sorted({int(index) for index in ids})
    if not ids:
        return {}
    embedding = getattr(model, "token_embedding", None)
    if not isinstance(embedding, ReversibleEmbedding):
        raise ValueError(f"{model.name} has no embedding of tokens of kerasllm, so rows of it cannot be trained.")
    if ids[0] < 0 or ids[-1] >= embedding.input_dim:
        raise ValueError(f"Tokens to train have ids from 0 to {embedding.input_dim - 1}, got {ids!s:.60}.")
    return {embedding.name: TokenRows(ids, embedding.tie_weights, name=name)}


def attach(model, name, members, train_also=()):
    """Puts adapters of one name into a model, in use, and freezes the rest.

    Args:
        model: Keras model.
        name: str.
        members: dict from paths of layers to their `LowRank`s, `LowRankTables` or `TokenRows` of that name.
        train_also: as in `add`.
    """
    layers = {path: layer for path, layer, _ in layers_inside(model)}
    also = _named(layers, train_also)
    _check_takes({path: layers[path] for path in members})
    _set_trainable(model, False)
    for path, layer in layers.items():
        before = _adapters(layer)
        if path not in members:
            if before is not None:
                before.active = None
                _train_only(before, None)
            continue
        layer.set_adapter(NamedAdapters([*(before.members if before else ()), members[path]], active=name))
        if isinstance(layer, ReversibleEmbedding):
            members[path].measure(layer)
        elif members[path].kind == "dora":  # A quantized kernel is made floats for it.
            members[path].measure(layer.kernel)
    for layer in also:
        layer.trainable = True
    forget_compiled(model)


def names(model: keras.Model) -> list[str]:
    """The names of a model's adapters, in the order in which they were added."""
    found = [member.name for adapters in _all_adapters(model) for member in adapters.members]
    return list(dict.fromkeys(found))


def use(model: keras.Model, name: str) -> None:
    """Has a model use, and train, the adapter of that name; compile it anew before it is trained.

    Raises:
        ValueError: if there is none of that name.

    Example:

    >>> kerasllm.adapters.use(model, "poems")
    """
    check_has(model, name)
    for adapters in _all_adapters(model):
        adapters.active = None if adapters.member(name) is None else name
        _train_only(adapters, name)
    forget_compiled(model, keep_decoders=True)


@contextlib.contextmanager
def disabled(model: keras.Model) -> Iterator[None]:
    """Within it a model computes what it does without adapters, bit by bit; so do `generate`, `evaluate` and `predict`.

    Functions of your own that are compiled (`tf.function`, `jax.jit`) go on as they were made.

    Example:

    >>> with kerasllm.adapters.disabled(model):
    ...     before = kerasllm.generate(model, tokenizer, "Once upon a time")
    """
    forget_compiled(model, keep_decoders=True)
    try:
        with without_adapters(model):
            yield
    finally:
        forget_compiled(model, keep_decoders=True)


def merge(model: keras.Model) -> None:
    """Puts the adapter in use into the kernels, where it costs nothing any more, and takes all adapters out.

    All weights of the model are trainable again then.

    Raises:
        ValueError: if the model has no adapter in use, or one over a kernel in another form, such as a quantized one.
    """
    name = name_in_use(model)
    adapted = [(path, layer) for path, layer, _ in layers_inside(model) if _adapters(layer) is not None]
    for path, layer in adapted:
        if getattr(layer, "kernel_layer", None) is not None and layer.adapter.active:
            raise ValueError(
                f"The kernel of {path} is in another form, into which the adapter {name!r} cannot go without loss: "
                "merge it into the model as it was before."
            )
    for _, layer in adapted:
        if layer.adapter.active and isinstance(layer, ReversibleEmbedding):
            layer.adapter.member(name).merge_into(layer)
        elif layer.adapter.active:
            layer.kernel.assign(keras.ops.cast(layer.adapter.member(name).merged(layer.kernel), layer.kernel.dtype))
    model.base = None  # whose weights these are no longer
    remove(model)


def remove(model: keras.Model, name: str | None = None) -> None:
    """Takes adapters out of a model, which then computes what it did before them.

    Once none is left, all weights of the model are trainable again.

    Args:
        model: Keras model.
        name: str, the adapter to take out; None for all.

    Raises:
        ValueError: if there is none of that name, or none at all.
    """
    check_has(model, name)
    for _, layer, _ in list(layers_inside(model)):
        adapters = _adapters(layer)
        if adapters is not None:
            kept = [] if name is None else [member for member in adapters.members if member.name != name]
            active = adapters.active if adapters.active != name else None
            if len(kept) < len(adapters.members):
                layer.set_adapter(NamedAdapters(kept, active) if kept else None)
    if not names(model):
        _set_trainable(model, True)
    forget_compiled(model)


def name_in_use(model):
    """The name of the adapter in use."""
    check_has(model, None)
    active = {adapters.active for adapters in _all_adapters(model)} - {None}
    if not active:
        raise ValueError(f"No adapter of {model.name} is in use: choose one by `use`, {listed('it has', names(model))}")
    return active.pop()


def check_has(model, name):
    """Refuses a model that lacks an adapter; with None, one that has none."""
    found = names(model)
    if not found:
        raise ValueError(f"{model.name} has no adapters: kerasllm.adapters.add gives it some.")
    if name is not None and name not in found:
        raise ValueError(f"{model.name} has no adapter {name!r}: {listed('it has', found)}")


def members_of(model, name):
    """Triples (path, layer, member as for `attach`) of the adapter of that name."""
    for path, layer, _ in layers_inside(model):
        if (adapters := _adapters(layer)) is not None and adapters.member(name) is not None:
            yield path, layer, adapters.member(name)


def _adapters(layer):
    adapter = layer.adapter if isinstance(layer, Adaptable) else None
    return adapter if isinstance(adapter, NamedAdapters) else None


def _all_adapters(model):
    found = (_adapters(layer) for _, layer, _ in layers_inside(model))
    return [adapters for adapters in found if adapters is not None]


def _set_trainable(model, is_trainable):
    """Has all that belongs to a model trained, or nothing. (TensorFlow takes a `model.trainable` that is True already
    for no change, and passes it on to no layer.)"""
    model.trainable = True
    for layer in model._flatten_layers(include_self=False):
        layer.trainable = is_trainable
    for weight in model._trainable_variables:  # those that belong to no layer
        weight.trainable = is_trainable


def _train_only(adapters, name):
    adapters.trainable = True
    for member in adapters.members:
        member.trainable = member.name == name


def check_name(model, name):
    """Refuses what cannot be the name of one more adapter."""
    if not isinstance(name, str) or not name or "/" in name or "." in name:
        raise ValueError(f"The name of an adapter is a word without '/' and '.', got {name!r}.")
    if name in names(model):
        raise ValueError(f"{model.name} has an adapter {name!r} already: give this one another name, or remove it.")


def _check_takes(layers):
    for path, layer in layers.items():
        if layer.quantization_mode is not None:
            raise ValueError(f"{path} is quantized by {layer.quantization_mode!r}, so it cannot be given an adapter.")
        if layer.lora_enabled:
            raise ValueError(f"{path} has LoRA by `enable_lora`, which an adapter cannot stand beside.")
        if layer.adapter is not None and _adapters(layer) is None:
            raise ValueError(f"{path} has an adapter by `set_adapter`: take it out by `set_adapter(None)` first.")


def _named(layers: dict, patterns: str | Iterable[str]):
    """The layers of those names or ends of names."""
    found = []
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        of_pattern = [layer for path, layer in layers.items() if matches(path, pattern)]
        if not of_pattern:
            raise ValueError(f"`train_also` names {pattern!r}, which no layer is called: {listed('there are', layers)}")
        found += of_pattern
    return found
