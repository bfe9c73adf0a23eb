"""What attention needs beside its tensors: made once in a forward pass, for all layers that see alike.

Shapes: B batch, T query time, S key time, n pairs of channels that are turned.
"""

import dataclasses

from keras import ops

from kerasllm.layers.dot_product import block_ranges
from kerasllm.layers.masks import WHOLE, Mask, Sight
from kerasllm.layers.rotary import text_lengths
from kerasllm.layers.tiles import has_kernel, is_long


@dataclasses.dataclass(frozen=True)  # and no tuple: Keras looks into those, and wants nothing but tensors there
class Prepared:
    """See `prepare`.

    Attributes:
        mask: Mask, or the Sight of attention in tiles.
        in_blocks: bool. Attention goes block by block.
        is_all_new: bool. There is nothing in a cache that new tokens could see.
        key_index: int (S,), the places of keys.
        angles: cosines and sines, (T, n) or (B, 1, T, n), or None.
    """

    mask: Mask | Sight
    in_blocks: bool
    is_all_new: bool
    key_index: object
    angles: tuple | None


def prepare(
    layer,
    x,
    context=None,
    *,
    mask=None,
    context_mask=None,
    attention_mask=None,
    document_ids=None,
    position_ids=None,
    span_ids=None,
    has_bias=False,
    cache=None,
    cache_index=0,
    return_attention_scores=False,
    keeps_scores=False,
    training=None,
):
    """What a call of a `MultiHeadAttention` needs beside its tensors.

    Args:
        layer: MultiHeadAttention.
        has_bias: bool, whether the call has a `position_bias`.
        keeps_scores: bool, whether the scores are wanted all at once, beside those that `return_attention_scores` asks
            for.
        x, context, **options: see `MultiHeadAttention`.

    Returns:
        Prepared.
    """
    T = ops.shape(x)[1]
    query_index = cache_index + ops.arange(T, dtype="int32")
    is_plain = attention_mask is None and not (has_bias or return_attention_scores)
    has_spans = span_ids is not None and layer.causal
    causal, window, angles, is_all_new = layer.causal, layer.attention_window, None, True
    if layer.is_cross_attention:
        causal, window, document_ids, mask, has_spans = False, None, None, context_mask, False
        S = ops.shape(context)[1] if cache is None else ops.shape(cache.key)[2]
        key_index = ops.arange(S, dtype="int32")
    else:
        if layer.rotation is not None:
            position_ids = query_index if position_ids is None else position_ids
            lengths = _lengths(layer.rotation, position_ids, mask, document_ids, cache, cache_index)
            angles = layer.rotation.table(position_ids, lengths, layer.compute_dtype)
        is_all_new = cache is None or (is_plain and isinstance(cache_index, int) and cache_index == 0)
        if is_all_new:
            key_index = ops.arange(T, dtype="int32")
            mask = mask if mask is None or cache is None else mask[:, :T]
        else:
            is_plain, key_index = False, cache.places(cache_index, T)
            mask = cache.columns(mask, key_index)
            attention_mask = None if attention_mask is None else cache.columns(attention_mask, key_index)
    S = ops.shape(key_index)[0]
    is_plain = is_plain and not keeps_scores and not has_spans
    spans = (span_ids, _spans_of_keys(span_ids, key_index, cache_index)) if has_spans else None
    if is_plain and (is_long(T, S) or has_kernel(layer, training)):
        return Prepared(Sight.of(T, causal, window, mask, document_ids), False, is_all_new, key_index, angles)
    in_blocks = is_plain and bool(training)
    ranges = block_ranges(T, S, causal, window) if in_blocks else WHOLE
    seen = Mask(query_index, key_index, causal, window, mask, document_ids, attention_mask, spans, ranges)
    return Prepared(seen, in_blocks, is_all_new, key_index, angles)


def _spans_of_keys(span_ids, key_index, cache_index):
    """The numbers of the spans of keys, (B, S); what was in a cache before is of none."""
    T, places = ops.shape(span_ids)[1], key_index - cache_index
    of_keys = ops.take(span_ids, ops.clip(places, 0, T - 1), axis=1)
    return ops.where((places >= 0) & (places < T), of_keys, 0)


def _lengths(rotation, position_ids, mask, document_ids, cache, cache_index):
    """Those of the texts of tokens, where rotary positions ask for them."""
    if not rotation.depends_on_length:
        return None
    if mask is not None and cache is not None:  # which is for all places of the cache
        shape = (ops.shape(mask)[0], ops.shape(position_ids)[-1])
        mask = ops.slice(mask, (0, cache_index), shape)
    return text_lengths(position_ids, mask, document_ids)
