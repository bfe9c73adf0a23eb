"""Which tensors of a checkpoint make a weight of ours, and back."""

import functools
import math
import re
from typing import NamedTuple

import numpy as np


class Source(NamedTuple):
    """The tensors of which a weight is made, side by side along its last axis.

    Attributes:
        names: tuple of str.
        transposed: bool. torch's linear layers keep (out, in), where Keras keeps (in, out).
        offset: float, added: Gemma's norms keep a scale less 1.
        first_row: int, rows of a table that come before those of ours.
        as_row: int. The tensor has so many axes of length 1 before those of ours.
        as_number: bool. The tensor is a number, where ours is a row of one.
        patch: int. The tensor is the kernel of a convolution over patches of so many pixels, (out, channels, height,
            width), where ours is (height width channels, out); or 0.
        factor: float, by which the tensors are multiplied.
        heads: int. The tensor has query, key and value of each of so many heads side by side, where ours has all
            queries first; or 0.
        interleaved: tuple of int, or (): the width of the heads of those tensors whose rotary pairs are neighbours,
            where ours are half a head apart; 0 for others.
        mirrored: tuple of int, or (): the width of the heads of those tensors whose rotary pairs turn the other way; 0
            for others.
        stacked: int. The weight is a stack of so many, whose tensors follow each other in `names`; or 0.
    """

    names: tuple
    transposed: bool = False
    offset: float = 0.0
    first_row: int = 0
    as_row: int = 0
    as_number: bool = False
    patch: int = 0
    factor: float = 1.0
    heads: int = 0
    interleaved: tuple = ()
    mirrored: tuple = ()
    stacked: int = 0

    def read(self, read, rows=slice(None)):
        """Rows of the weight, from a function (name) -> array."""
        if self.stacked:
            return np.stack([layer.read(read) for layer in self._layers()[rows]])
        parts = [self._of_our_rank(read(name)) for name in self.names]
        parts = self._reordered([(part.T if self.transposed else part)[rows] for part in parts], 1)
        weight = np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
        weight = weight * np.asarray(self.factor, weight.dtype) if self.factor != 1 else weight
        return weight + np.asarray(self.offset, weight.dtype) if self.offset else weight

    def _layers(self):
        """The sources of what is stacked."""
        each = len(self.names) // self.stacked
        return [self._replace(names=self.names[i * each :][:each], stacked=0) for i in range(self.stacked)]

    def _of_our_rank(self, array):
        """A tensor with as many axes as ours."""
        if self.as_number:
            return array.reshape(1)
        if self.patch:
            return array.transpose(2, 3, 1, 0).reshape(-1, len(array))
        return array[(0,) * self.as_row or slice(self.first_row, None)]

    def shape(self, shapes):
        """The weight's shape, from those of its tensors; None where they do not fit together."""
        if self.stacked:
            layers, each = self._layers(), len(self.names) // self.stacked
            of_layers = {layer.shape(shapes[i * each :][:each]) for i, layer in enumerate(layers)}
            one = of_layers.pop()
            return None if of_layers or one is None else (len(layers), *one)
        if self.as_number:
            shapes = [shape or (1,) for shape in shapes]
        if self.patch:
            sides = (self.patch, self.patch)
            shapes = [(math.prod(shape[1:]), shape[0]) if shape[2:] == sides else () for shape in shapes]
        ones = (1,) * self.as_row
        shapes = [shape[len(ones) :] if shape[: len(ones)] == ones else () for shape in shapes]
        shapes = [(shape[0] - self.first_row, *shape[1:]) if shape else shape for shape in shapes]
        shapes = [shape[::-1] if self.transposed else shape for shape in shapes]
        if not all(shapes) or len({shape[:-1] for shape in shapes}) > 1:
            return None
        return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))

    def write(self, weight, widths):
        """The tensors by name, of a weight whose parts have these widths."""
        if self.stacked:
            return {
                name: part
                for layer, of_layer in zip(self._layers(), weight, strict=True)
                for name, part in layer.write(of_layer, widths).items()
            }
        weight = weight - np.asarray(self.offset, weight.dtype) if self.offset else weight
        weight = weight / np.asarray(self.factor, weight.dtype) if self.factor != 1 else weight
        if self.first_row:
            weight = np.pad(weight, ((self.first_row, 0), (0, 0)))
        weight = weight[(None,) * self.as_row]
        if self.as_number:
            weight = weight.reshape(())
        if self.patch:
            weight = weight.reshape(self.patch, self.patch, -1, weight.shape[-1]).transpose(3, 2, 0, 1)
        parts = np.split(weight, np.cumsum(widths)[:-1], axis=-1) if len(self.names) > 1 else [weight]
        parts = [part.T if self.transposed else part for part in self._reordered(parts, -1)]
        return dict(zip(self.names, parts, strict=True))

    def part(self, index):
        """The source of one of its tensors alone."""
        of_part = {name: getattr(self, name)[index : index + 1] for name in ("names", "interleaved", "mirrored")}
        return self._replace(**of_part)

    def _reordered(self, parts, step):
        """Parts with their channels in our order, from that of the tensors, or with a step of -1 the other way."""
        if self.heads:
            parts = [swapped(part, *(self.heads, 3)[::step], -1) for part in parts]
        if self.interleaved:
            widths = zip(parts, self.interleaved, strict=True)
            parts = [swapped(part, -1, *(h // 2, 2)[::step], 1) if h else part for part, h in widths]
        if self.mirrored:
            parts = [_mirrored(part, h) if h else part for part, h in zip(parts, self.mirrored, strict=True)]
        return parts


def swapped(array, *shape):
    """An array whose last axis, seen in a shape, has the axes before the last of that shape exchanged: (2, 3, 1) makes
    of the channels 0, 1, 2, 3, 4, 5 the channels 0, 3, 1, 4, 2, 5."""
    return array.reshape(*array.shape[:-1], *shape).swapaxes(-3, -2).reshape(array.shape)


def _mirrored(array, h):
    """An array whose last axis is of heads of width h, with the sign of the second half of each turned."""
    signs = np.where(np.arange(array.shape[-1]) % h < h // 2, 1, -1)
    return array * signs.astype(array.dtype)


def plain(name):
    """A tensor that is kept as here."""
    return Source((name,))


def constant(value):
    """What stands in for a weight that a checkpoint does not have."""
    return Source((), offset=value)


def linear(name, *parts, bias=False):
    """The kernels of torch's linear layers, or their biases: `linear("attention.{}_proj", "q", "k", "v")`."""
    names = tuple(name.format(part) for part in parts) if parts else (name,)
    return Source(tuple(f"{name}.{'bias' if bias else 'weight'}" for name in names), transposed=not bias)


def stacked(count, name, *parts):
    """The kernels of so many torch's linear layers in a stack: `stacked(8, "experts.{}", "gate_proj", "up_proj")`."""
    names = tuple(f"{name.format(i)}.{part}.weight" for i in range(count) for part in parts)
    return Source(names, transposed=True, stacked=count)


def dense(ours, name, *parts):
    """The rows of a table for the kernel and the bias of a `Dense`."""
    return {f"{ours}/kernel": linear(name, *parts), f"{ours}/bias": linear(name, *parts, bias=True)}


def layer_norm(ours, name):
    return {f"{ours}/gamma": plain(f"{name}.weight"), f"{ours}/beta": plain(f"{name}.bias")}


def placed(table, ours, theirs=""):
    """The rows of a table for a part of a model, with what its names begin with there, in ours and in theirs."""
    return {
        f"{ours}{name}": source._replace(names=tuple(f"{theirs}{part}" for part in source.names))
        for name, source in table.items()
    }


def in_blocks(table, ours, theirs):
    """The rows of a block for any block: "#" stands for its number, in names of ours and of theirs."""
    return {
        f"{ours}/{name}": source._replace(names=tuple(f"{theirs}.{part}" for part in source.names))
        for name, source in table.items()
    }


def source_of(table, name):
    """The source of a weight, by its name in our model.

    Args:
        table: dict from names of ours, with "#" for numbers of blocks, to sources.
        name: str, a name that `models.weights.weight_names` gives.
    """
    indices = re.findall(r"(?<=_)\d+(?=/)", name)
    source = table[re.sub(r"(?<=_)\d+(?=/)", "#", name)]
    return source._replace(names=tuple(functools.reduce(_with_index, indices, part) for part in source.names))


def _with_index(name, index):
    return name.replace("#", index, 1)


def widths_of(name, shape, config):
    """How wide the parts of a weight are that several tensors make."""
    if "query_key_value" in name and name.startswith("vision/"):
        return [shape[-1] // 3] * 3
    if "query_key_value" in name:
        h = config.head_dim or config.d_model // config.num_heads
        K = config.num_kv_heads or config.num_heads
        return [config.num_heads * h, K * h, K * h]
    return [shape[-1] // 2] * 2
