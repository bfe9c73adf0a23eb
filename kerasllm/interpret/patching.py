"""Activation patching: what of one run brings a prediction back in another.

Shapes: T time, H heads, L layers, R rows of a batch, V vocab.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from keras import ops

from kerasllm.interpret.drawings import HeatMap
from kerasllm.interpret.editing import edit, names
from kerasllm.interpret.pictures import Picture
from kerasllm.interpret.recording import activations, as_array
from kerasllm.interpret.residual_stream import layers_of, main_transformer
from kerasllm.layers import taps
from kerasllm.layers.options import check_choice

GRIDS = ("residual", "attention", "feed_forward", "heads")


class _Site(NamedTuple):
    """What is patched in one run: the tap, as `activations` calls it; and of it a position or a head, or all."""

    tap: str
    position: int | None = None
    head: int | None = None


@dataclasses.dataclass(frozen=True)
class Patching(Picture):
    """What patching does to a metric. See `patch`.

    Attributes:
        values: float64, the metric with each site patched: (layers, positions), (layers, heads), or (sites,).
        rows, columns: lists of str, what the axes of `values` are; of single sites, `columns` is empty.
        clean, corrupted: float, the metric of the two runs.
    """

    values: np.ndarray
    rows: list
    columns: list
    clean: float
    corrupted: float

    @property
    def restored(self):
        """How much of the difference between the runs each site brings back: 0 for none, 1 for all of it."""
        return (self.values - self.corrupted) / (self.clean - self.corrupted)

    def _drawing(self):
        values = self.restored if self.columns else self.restored[:, None]
        title = "how much of the difference is restored: all of it is the darkest blue, unless something is more"
        return HeatMap(values, self.rows, self.columns or ["restored"], signed=True, title=title)


def patch(model, clean, corrupted, metric, sites="residual", *, columns=None, batch_size=32):
    """Runs a model on corrupted inputs, with what happens at one place taken from its run on clean ones, for each of
    many places.

    Args:
        model: `CausalLM`, `MaskedLM` or `Seq2SeqLM`; of the last, grids are those of the decoder.
        clean, corrupted: token ids of one text each, int (1, T), or dicts of inputs, as in a call of the model; of one
            length, so that places are the same.
        metric: a function from logits, a NumPy array (1, T, V), to a float, such as how much likelier one answer is
            than another.
        sites: "residual", the residual stream before each layer and behind the last, at each position; "attention" or
            "feed_forward", what these add there; "heads", what each head reads, at all positions. Or a list, each of
            a name or several that are patched together: see `interpret.names`.
        columns: list of T str or None, what to call positions, such as tokens.
        batch_size: int, runs at once.

    Returns:
        `Patching`.

    Raises:
        TypeError: for a model without logits of tokens.
        ValueError: if texts differ in length, or are several; for a site that is not there.

    Example:
        >>> found = interpret.patch(model, clean, corrupted, lambda logits: logits[0, -1, yes] - logits[0, -1, no])
        >>> found.restored.shape
        (3, 10)

    Reference: Meng et al. 2022, https://arxiv.org/abs/2202.05262; Heimersheim and Nanda 2024,
    https://arxiv.org/abs/2404.15255
    """
    transformer = main_transformer(model)
    clean, corrupted = _as_dict(model, clean), _as_dict(model, corrupted)
    T = _length(model, clean, corrupted)
    if isinstance(sites, str):
        check_choice("sites", sites, GRIDS)
        chosen, rows, columns = _grid(transformer, sites, T, columns)
    else:
        rows, columns = [site if isinstance(site, str) else " + ".join(site) for site in sites], []
        chosen = [_named_sites(model, site) for site in sites]
    wanted = sorted({site.tap.partition(":")[0] for together in chosen for site in together})
    known = activations(model, clean, wanted, chunk_size=float("inf"))
    if not isinstance(sites, str):
        chosen = [_of_all_passes(together, known) for together in chosen]
    values = []
    for begin in range(0, len(chosen), batch_size):
        logits = _patched(model, corrupted, known, chosen[begin : begin + batch_size])
        values += [float(metric(row[None])) for row in logits]
    runs = (float(metric(as_array(model(inputs, training=False)))) for inputs in (clean, corrupted))
    return Patching(np.array(values).reshape([len(rows), *([len(columns)] if columns else [])]), rows, columns, *runs)


def _as_dict(model, inputs):
    inputs = inputs if isinstance(inputs, dict) else {"token_ids": inputs}
    return {name: np.asarray(value) for name, value in inputs.items()}


def _length(model, clean, corrupted):
    """How many positions there are."""
    shapes = [{name: value.shape for name, value in inputs.items()} for inputs in (clean, corrupted)]
    if shapes[0] != shapes[1] or any(shape[0] != 1 for shape in shapes[0].values()):
        raise ValueError(f"`patch` compares one text with another of as many tokens, got {shapes[0]} and {shapes[1]}.")
    return shapes[0]["target_ids" if "target_ids" in shapes[0] else "token_ids"][1]


def _grid(transformer, kind, T, columns):
    """The sites of a grid, each a tuple, and what its rows and columns are called."""
    layers = list(layers_of(transformer))
    if kind == "heads":
        rows = [f"block_{i}" for i in range(len(layers))]
        tap_names = [f"{transformer.name}/{block.name}/attention/heads{end}" for block, end in layers]
        H = max(block.num_heads for block, _ in layers)
        return [(_Site(tap, head=head),) for tap in tap_names for head in range(H)], rows, [str(i) for i in range(H)]
    columns = [str(i) for i in range(T)] if columns is None else list(columns)
    if len(columns) != T:
        raise ValueError(f"`columns` has a word for each of {T} positions, got {len(columns)}.")
    what = "input" if kind == "residual" else f"{kind}/output"
    rows = [f"block_{i}/{what}" for i in range(len(layers))]
    tap_names = [f"{transformer.name}/{block.name}/{what}{end}" for block, end in layers]
    if kind == "residual":
        last, end = layers[-1]
        rows.append(f"block_{len(layers) - 1}/output")
        tap_names.append(f"{transformer.name}/{last.name}/output{end}")
    return [(_Site(tap, position=position),) for tap in tap_names for position in range(T)], rows, columns


def _named_sites(model, patterns):
    patterns = [patterns] if isinstance(patterns, str) else patterns
    found = [
        _Site(name) for pattern in patterns for name in names(model) if taps.matches(f"{model.path}/{name}", pattern)
    ]
    if not found:
        raise ValueError(
            f"Nothing inside {model.name} is called {patterns}; interpret.names(model) lists what there is."
        )
    return tuple(found)


def _of_all_passes(together, known):
    """The same sites, of all layers that share the block of each."""
    wanted = {site.tap for site in together}
    return tuple(_Site(name) for name in known if name.partition(":")[0] in wanted)


def _patched(model, corrupted, known, rows):
    """Logits of the corrupted inputs, a row for each tuple of sites: float32 (R, T, V)."""
    passes = {}
    for number, together in enumerate(rows):
        for site in together:
            name, _, which = site.tap.partition(":")
            array = known[site.tap]
            masks = passes.setdefault(name, {}).setdefault(
                int(which or 0), np.zeros((len(rows), *array.shape[1:]), bool)
            )
            at = masks[number]
            if site.head is not None:
                at[site.head] = True
            elif site.position is not None:
                at[..., site.position, :] = True
            else:
                at[:] = True
    functions = {name: _replacing(known, name, masks) for name, masks in passes.items()}
    inputs = {name: np.repeat(value, len(rows), axis=0) for name, value in corrupted.items()}
    with edit(model, functions):
        return as_array(model(inputs, training=False))


def _replacing(known, name, masks):
    """A function that puts what is known where masks, by number of the pass, say so."""
    count = iter(range(10**9))

    def replaced(x):
        number = next(count)
        if number not in masks:
            return x
        array = known[f"{name}:{number}" if number else name]
        return ops.where(masks[number], ops.cast(array, x.dtype), x)

    return replaced
