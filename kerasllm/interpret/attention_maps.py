"""Where heads look, in a whole model.

Shapes: H heads, T query tokens, S key tokens.
"""

import dataclasses

from kerasllm.interpret import figures
from kerasllm.interpret.drawings import AttentionView
from kerasllm.interpret.pictures import Picture
from kerasllm.interpret.reading import read
from kerasllm.interpret.recording import activations
from kerasllm.models import Seq2SeqLM


@dataclasses.dataclass(frozen=True)
class AttentionMap:
    """Where the heads of a layer look.

    Attributes:
        name: str, "block_0/attention", or of a `Seq2SeqLM` "encoder/block_0/attention",
            "decoder/block_0/cross_attention" and so on.
        probabilities: float32 (H, T, S).
        queries, keys: lists of T and S str, the tokens that look and those that are looked at.
    """

    name: str
    probabilities: object
    queries: list
    keys: list


class Attention(list, Picture):
    """Where a model's heads look: a list of `AttentionMap`, a layer each. See `attention`."""

    def figure(self, layer=None, head=None):
        """A `matplotlib.figure.Figure`: of all heads of the model small, of those of a layer, or of one.

        Args:
            layer: int or str, the number or the name of a layer's map; None for all.
            head: int, or None for all.
        """
        if layer is None:
            return figures.draw(AttentionView(self))
        names = [each.name for each in self]
        return figures.draw(AttentionView([self[names.index(layer) if isinstance(layer, str) else layer]], head))

    def _drawing(self):
        return AttentionView(self)


def attention(model, tokenizer, text, target=None):
    """Where all heads of a model look as it reads a text.

    Args:
        model: a model of `kerasllm.models`.
        tokenizer: the model's `Tokenizer`, or a pair (source, target).
        text: str, or token ids; of a `Seq2SeqLM`, the source.
        target: str or None, what follows; None for what a `Seq2SeqLM` writes.

    Returns:
        `Attention`, a list of `AttentionMap`.

    Raises:
        TypeError: for other models.
        ValueError: if the text is longer than the model's context.

    Example:
        >>> maps = interpret.attention(model, tokenizer, "The class of a thing")
        >>> maps[0].probabilities.shape
        (4, 6, 6)
        >>> maps.figure(layer=0, head=1).savefig("head.png")
    """
    return attention_of(model, read(model, tokenizer, text, target))


def attention_of(model, text):
    """The `Attention` of a `reading.Text`."""
    found = activations(model, text.inputs, "probabilities", chunk_size=float("inf"))
    is_pair = isinstance(model, Seq2SeqLM)
    maps = Attention()
    for name, probabilities in found.items():
        if name.startswith("vision/"):  # of patches, which are no tokens
            continue
        stack, _, where = name.replace("/probabilities", "").partition("/")
        queries = keys = text.sides["token_ids" if not is_pair else f"{_SIDES[stack]}_ids"]
        if "cross_attention" in where:
            keys = text.sides["source_ids"]
        maps.append(AttentionMap(f"{stack}/{where}" if is_pair else where, probabilities[0], queries, keys))
    return maps


_SIDES = {"encoder": "source", "decoder": "target"}
