"""Which parts of a model made a logit: all of them, so that they add up to it.

Shapes: B batch, T time, D d_model, H heads, h head_dim, V vocab, E width of embeddings.

The residual stream is a sum of what the embedding, each head and each feed-forward layer put there, and between it and
the logit stand norms and, in some models, a head. Each of these is taken as the linear map that it is for this input:
a norm divides by the deviation that it found, an activation multiplies by what it multiplied with. So a logit is a sum
of products of a direction with each part, and the direction is followed backwards through the layers.
"""

import keras
import numpy as np
from keras import ops

from kerasllm.interpret.drawings import Bars
from kerasllm.interpret.pictures import Picture
from kerasllm.interpret.recording import activations, as_array
from kerasllm.interpret.residual_stream import layers_of, main_transformer
from kerasllm.models import MaskedLM

_SHOWN = 20  # parts in a picture
_STREAM = {"attention": "input", "cross_attention": "after_attention", "feed_forward": "before_feed_forward"}


class Attribution(dict, Picture):
    """What parts of a model add to a logit: a dict from their names to float64 (B,). See `attribute_logit`."""

    def largest(self, count=10):
        """The parts that add or take away most, in the mean of all rows: list of pairs (name, float)."""
        means = {name: float(np.mean(value)) for name, value in self.items()}
        return sorted(means.items(), key=lambda pair: -abs(pair[1]))[:count]

    def _drawing(self):
        return Bars(self.largest(_SHOWN), "added to the logit by each part, of those that add or take most")


def attribute_logit(model, inputs, position=-1, token=None, *, contrast=None, padding_mask=None):
    """What each part of a model adds to a logit, in a straight line: what later layers make of it is theirs.

    Args:
        model: `CausalLM`, `MaskedLM` or `Seq2SeqLM`, of which it is the decoder that is looked at.
        inputs: token ids, int (B, T), or a dict of inputs, as in a call of the model.
        position: int, whose logits: of a causal model those of the token that follows it.
        token: int or int (B,), the token whose logit it is; None for the likeliest.
        contrast: int or int (B,) or None. Another token: parts add up to how much larger the first one's logit is.
        padding_mask: bool (B, T) or None. False hides a token from all others.

    Returns:
        `Attribution`, a dict from parts to what they add, float64 (B,): "embedding" (positions included), and of each
        layer "block_0/attention/head_0" and so on, "block_0/feed_forward" and "block_0/bias", what the bias of
        attention and offsets of norms add; "bias" is that of what follows the layers. A `Seq2SeqLM` has
        "block_0/cross_attention/head_0" too. Their sum is the logit.

    Raises:
        TypeError: for a model without logits of tokens.
        ValueError: for a position or a token that is not there.

    Example:
        >>> parts = interpret.attribute_logit(model, token_ids)
        >>> parts["block_0/feed_forward"].shape
        (1,)

    Reference: Elhage et al. 2021, https://transformer-circuits.pub/2021/framework
    """
    transformer = main_transformer(model)
    layers = list(layers_of(transformer))
    wanted = {f"{transformer.name}/embedding", f"{transformer.name}/{transformer.blocks[-1].name}/output", "logits"}
    wanted |= {f"{transformer.name}/{block.name}/{name}" for block, _ in layers for name in _needed(block)}
    found = activations(model, inputs, sorted(wanted), padding_mask=padding_mask, chunk_size=float("inf"))
    B, T, V = found["logits"].shape
    if not -T <= position < T:
        raise ValueError(f"`position` is that of one of {T} tokens, got {position}.")
    at = {name: x.astype("float64").take(position, axis=x.ndim - 2) for name, x in found.items()}
    token = at["logits"].argmax(axis=-1) if token is None else _ids("token", token, B, V)
    last, end = layers[-1]
    stream = at[f"{transformer.name}/{last.name}/output{end}"]
    direction, bias = _into_logits(model, transformer.final_norm, stream, token)
    if contrast is not None:
        others = _into_logits(model, transformer.final_norm, stream, _ids("contrast", contrast, B, V))
        direction, bias = direction - others[0], bias - others[1]
    parts = {"bias": bias}
    for number, (block, end) in reversed(list(enumerate(layers))):
        values = {name: at[f"{transformer.name}/{block.name}/{name}{end}"] for name in _needed(block)}
        direction, of_block = _through_block(block, values, direction)
        parts = {f"block_{number}/{name}": value for name, value in of_block.items()} | parts
    return Attribution({"embedding": _dot(direction, at[f"{transformer.name}/embedding"])} | parts)


def _ids(name, given, B, V):
    ids = np.broadcast_to(np.asarray(given), (B,))
    if ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= V:
        raise ValueError(f"`{name}` is a token id from 0 to {V - 1}, got {given!r:.80}.")
    return ids


def _sublayers(block):
    return [name for name in _STREAM if getattr(block, name) is not None]


def _needed(block):
    """The names of taps that say what a block did."""
    sublayers = _sublayers(block)
    needed = [f"{name}/output" for name in sublayers]
    needed += [f"{name}/heads" for name in sublayers if name != "feed_forward"]
    return needed + ([] if block.parallel else [_STREAM[name] for name in sublayers])


def _through_block(block, at, direction):
    """The direction (B, D) in front of a block, and what its parts add.

    Args:
        block: `layers.TransformerBlock`.
        at: dict from the names of `_needed` to float64 (B, ...).
        direction: float64 (B, D), behind the block.
    """
    parts, bias = {}, 0.0
    for name in reversed(_sublayers(block)):
        added, of_added = at[f"{name}/output"], direction
        if block.norm_placement == "post":
            norm = getattr(block, f"{name}_norm")
            direction, offset = _through_norm(norm, at[_STREAM[name]] + added, direction)
            of_added, bias = direction, bias + offset
        output_norm = getattr(block, f"{name}_output_norm", None)
        if output_norm is not None:
            of_added, offset = _through_norm(output_norm, added, direction)
            bias = bias + offset
        if name == "feed_forward":
            parts = {name: _dot(of_added, added)} | parts
            continue
        by_head, offset = _by_head(getattr(block, name), at[f"{name}/heads"], of_added)
        parts = {f"{name}/head_{i}": value for i, value in enumerate(by_head.T)} | parts
        bias = bias + offset
    return direction, parts | {"bias": bias + np.zeros(len(direction))}


def _by_head(attention, heads, direction):
    """What each head (B, H, h) adds along a direction (B, D), (B, H), and what the bias of their output does."""
    B, H, h = heads.shape
    alone = np.concatenate([np.einsum("bih,ij->bijh", heads, np.eye(H)).reshape(B * H, H * h), np.zeros((1, H * h))])
    outputs = as_array(attention.output_projection(alone.astype("float32"))).astype("float64")
    offset, outputs = outputs[-1], (outputs[:-1] - outputs[-1]).reshape(B, H, -1)
    return np.einsum("bhd,bd->bh", outputs, direction), direction @ offset


def _through_norm(norm, x, direction):
    """The direction (B, D) in front of a norm of x (B, D), and what its offset adds, (B,)."""
    is_centred = not isinstance(norm, keras.layers.RMSNormalization)
    scale, offset = (norm.gamma, norm.beta) if is_centred else (norm.scale, None)
    x = x - x.mean(axis=-1, keepdims=True) if is_centred else x
    added = 0.0 if offset is None else direction @ as_array(offset).astype("float64")
    direction = direction if scale is None else direction * as_array(scale).astype("float64")
    direction = direction / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + norm.epsilon)
    return direction - direction.mean(axis=-1, keepdims=True) if is_centred else direction, added


def _into_logits(model, final_norm, stream, token):
    """The direction (B, D) of the residual stream (B, D) behind all layers that makes the logit of tokens, int (B,),
    and what is added to the logit whatever the stream is, (B,)."""
    x = _run(final_norm, stream) if final_norm is not None else stream
    before = activated = normed = x
    if isinstance(model, MaskedLM):
        before = _run(model.head_dense, x)
        activated = _run(model.head_activation, before)
        normed = _run(model.head_norm, activated)
    direction, bias = _of_tokens(model, normed, token)
    if isinstance(model, MaskedLM):
        direction, offset = _through_norm(model.head_norm, activated, direction)
        direction = direction * np.divide(activated, before, out=np.zeros_like(before), where=before != 0)
        outputs = _run(model.head_dense, np.concatenate([np.eye(x.shape[1]), np.zeros((1, x.shape[1]))]))
        bias = bias + offset + direction @ outputs[-1]
        direction = direction @ (outputs[:-1] - outputs[-1]).T
    if final_norm is not None:
        direction, offset = _through_norm(final_norm, stream, direction)
        bias = bias + offset
    return direction, bias


def _of_tokens(model, x, token):
    """The direction in which the output layer looks for tokens in x (B, E), and its biases (B,)."""
    layer = model.output_layer()
    direction = as_array(ops.take(layer.weights, token, axis=0)).astype("float64")
    if layer.low_rank is not None:
        narrow, wide = (as_array(part).astype("float64") for part in layer.low_rank)
        direction = direction + wide[token] @ narrow.T
    if layer.soft_cap is not None:
        logits = _dot(direction, x)[:, None] / layer.soft_cap
        direction = direction * np.divide(np.tanh(logits), logits, out=np.ones_like(logits), where=logits != 0)
    bias = np.zeros(len(x)) if layer.bias is None else as_array(layer.bias).astype("float64")[token]
    return direction, bias


def _run(function, x):
    return as_array(function(ops.convert_to_tensor(x.astype("float32")))).astype("float64")


def _dot(x, y):
    return np.einsum("bd,bd->b", x, y)
