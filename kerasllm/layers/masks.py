"""Which keys a query may attend to, as boolean masks (True: may attend).

Shapes: B batch, T query time, S key time. Every mask broadcasts to (B, heads, T, S).
"""

from typing import NamedTuple

import keras
from keras import ops

WHOLE = [(slice(None), slice(None))]
_NO_ID = -(2**31)


class MaskBlock(NamedTuple):
    """Some of the queries, with those keys that they may see.

    Attributes:
        queries, keys: slices of time.
        visible: bool, broadcastable to (B, H, queries, keys), or None where every query sees every key.
    """

    queries: slice
    keys: slice
    visible: object


class Mask:
    """All that hides keys from queries: made once in a forward pass, for all layers that see alike.

    Args:
        query_index: int (T,), the place of each query in the sequence.
        key_index: int (S,), the place of each key.
        causal: bool. Hide the keys that come after the query.
        window: int or None. See only keys less than `window` places away (the query's own place included).
        key_mask: bool (B, S) or None. False hides padding.
        document_ids: int (B, T) or None. A query sees its own document only.
        attention_mask: bool (B, T, S), or broadcastable to (B, H, T, S), or None.
        span_ids: pair of int (B, T) and (B, S), or None. Queries see later keys too that have their number, unless that
            is 0.
        ranges: pairs of slices, queries and the keys of which they may see some; all of both by default.

    Attributes:
        blocks: list of `MaskBlock`.
    """

    def __init__(
        self,
        query_index,
        key_index,
        causal=False,
        window=None,
        key_mask=None,
        document_ids=None,
        attention_mask=None,
        span_ids=None,
        ranges=WHOLE,
    ):
        if attention_mask is not None and len(attention_mask.shape) == 3:
            attention_mask = attention_mask[:, None]
        self.blocks = []
        for queries, keys in ranges:
            visible = _visible(
                query_index[queries],
                key_index[keys],
                causal,
                window,
                None if key_mask is None else key_mask[:, keys],
                None if document_ids is None else (document_ids[:, queries], document_ids[:, keys]),
                None if span_ids is None else (span_ids[0][:, queries], span_ids[1][:, keys]),
            )
            self.blocks.append(MaskBlock(queries, keys, _combined(visible, attention_mask)))

    @property
    def whole(self):
        """The mask of all queries, where it is not in blocks."""
        (block,) = self.blocks
        return block.visible


class Sight(NamedTuple):
    """Which keys queries see: what a `Mask` says, in so few numbers that it can be found out again for some of them.

    Attributes:
        causal: bool.
        window: int or None.
        query_ids, key_ids: int32 (B, T) and (B, S), or None. A query sees the keys of its own id.
    """

    causal: bool
    window: int | None
    query_ids: object = None
    key_ids: object = None

    @classmethod
    def of(cls, T, causal, window, key_mask, document_ids):
        """Of so many queries; see `Mask`."""
        if key_mask is None and document_ids is None:
            return cls(causal, window)
        if document_ids is None:
            query_ids, key_ids = ops.zeros((ops.shape(key_mask)[0], T), "int32"), ops.zeros((), "int32")
        else:
            query_ids = key_ids = ops.cast(document_ids, "int32")
        if key_mask is not None:
            key_ids = ops.where(ops.cast(key_mask, "bool"), key_ids, _NO_ID)
        return cls(causal, window, query_ids, key_ids)


def _visible(query_index, key_index, causal, window, key_mask, document_ids, span_ids):
    distance = query_index[:, None] - key_index[None, :]
    parts = []
    if causal:
        is_behind = (distance >= 0)[None, None]
        parts.append(is_behind if span_ids is None else ops.logical_or(is_behind, _in_one_span(*span_ids)))
    if window is not None:
        parts.append((distance < window if causal else ops.abs(distance) < window)[None, None])
    if key_mask is not None:
        parts.append(ops.cast(key_mask, "bool")[:, None, None, :])
    if document_ids is not None:
        of_queries, of_keys = document_ids
        parts.append((of_queries[:, :, None] == of_keys[:, None, :])[:, None])
    return _combined(*parts)


def _in_one_span(of_queries, of_keys):
    is_one = (of_queries[:, :, None] == of_keys[:, None, :]) & (of_queries != 0)[:, :, None]
    return is_one[:, None]


def _combined(*masks):
    """The logical and of those masks that are not None, or None."""
    masks = [mask for mask in masks if mask is not None]
    if not masks:
        return None
    result = masks[0]
    for mask in masks[1:]:
        result = ops.logical_and(result, mask)
    return result


def penalty(mask, dtype):
    """Turns a boolean mask into what is subtracted from attention scores.

    Hidden keys lose a large finite number rather than infinity, so that a row with every key hidden still has a
    finite softmax. Subtracted, not added: on CPU, TensorFlow fuses a product and the addition of a constant into a
    kernel that is 400 times slower (measured: 12.6 s against 27 ms for scores of shape (16, 6, 256, 256)).
    """
    hidden = 3e4 if keras.backend.standardize_dtype(dtype) == "float16" else 1e9
    return ops.cast(ops.where(mask, 0.0, hidden), dtype)
