"""Options of attention, which all that is made of it takes too."""

import dataclasses

from kerasllm.layers.dot_product import block_ranges
from kerasllm.layers.options import check_choice, check_positive
from kerasllm.layers.positions import PositionOptions
from kerasllm.layers.rotary import check_rotated_channels
from kerasllm.layers.tiles import is_long

QK_NORMS = (False, True, "full")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionOptions(PositionOptions):
    """What queries, keys and scores are. What is said of positions and windows does not concern cross-attention.

    Args:
        num_kv_heads: int or None. Fewer key/value heads than query heads: grouped-query attention
            (https://arxiv.org/abs/2305.13245), and multi-query attention with 1 (https://arxiv.org/abs/1911.02150).
            None means `num_heads`.
        head_dim: int or None, width of a head; None means `d_model // num_heads`.
        attention_window: int or None. A token sees only tokens less than this many places away.
        qk_norm: bool, RMS normalisation of each query and key head (https://arxiv.org/abs/2302.05442); or "full", that
            of all heads as one, as in OLMo 2 (https://arxiv.org/abs/2501.00656).
        qkv_bias: bool or None, biases in the projections of query, key and value; None means as in the others.
        attention_scale: float or None, by which products of queries and keys are multiplied; None means
            `head_dim ** -0.5`. The larger it is, the smaller query kernels are at first.
        attention_soft_cap: float or None, the size that those products then approach but never reach, by a tanh, as in
            Gemma 2 (https://arxiv.org/abs/2408.00118).
    """

    num_kv_heads: int | None = None
    head_dim: int | None = None
    attention_window: int | None = None
    qk_norm: bool | str = False
    qkv_bias: bool | None = None
    attention_scale: float | None = None
    attention_soft_cap: float | None = None

    def check(self, d_model=None, num_heads=None):
        super().check(d_model, num_heads)
        if self.head_dim is None and d_model % num_heads:
            raise ValueError(
                f"`d_model` ({d_model}) must be divisible by `num_heads` ({num_heads}), as each head takes an equal "
                "share: choose another number of heads, or give `head_dim`."
            )
        if self.num_kv_heads is not None and (self.num_kv_heads < 1 or num_heads % self.num_kv_heads):
            raise ValueError(
                f"`num_heads` ({num_heads}) must be divisible by `num_kv_heads` ({self.num_kv_heads}): each key/value "
                f"head serves an equal group of query heads."
            )
        window = self.attention_window
        if window is not None and (not isinstance(window, int) or window < 1):
            raise ValueError(f"`attention_window` must be at least 1 (a token sees itself), got {window!r}.")
        if self.positions == "rotary":
            head_dim = self.head_dim or d_model // num_heads
            check_rotated_channels(head_dim, self.partial_rotary_factor, self.rope_scaling)
        check_choice("qk_norm", self.qk_norm, QK_NORMS)
        check_positive(attention_scale=self.attention_scale, attention_soft_cap=self.attention_soft_cap)

    def attention_parameters(self, d_model, num_heads, use_bias, norm_scale):
        """The number of weights of an attention layer, of which `use_bias` and `norm_scale` say whether it has some."""
        H, K, h = num_heads, self.num_kv_heads or num_heads, self.head_dim or d_model // num_heads
        qkv_bias = use_bias if self.qkv_bias is None else self.qkv_bias
        norms = {False: 0, True: 2 * h, "full": (H + K) * h}[self.qk_norm] * norm_scale
        return (d_model + qkv_bias) * (H + 2 * K) * h + (H * h + use_bias) * d_model + norms

    def attention_flops(self, d_model, num_heads, context):
        """Operations on one token, forward and backward, as PaLM's appendix B counts: https://arxiv.org/abs/2204.02311"""
        return 12 * num_heads * (self.head_dim or d_model // num_heads) * context

    def attention_kept(self, d_model, num_heads, context, causal, dropout=0.0):
        """Numbers for each token that training keeps of attention for its gradient, from what the projection of
        queries, keys and values gives on to what the output projection reads.

        Args:
            d_model, num_heads, context: int.
            causal: bool.
            dropout: float, of probabilities.
        """
        K, h = self.num_kv_heads or num_heads, self.head_dim or d_model // num_heads
        queries, keys = num_heads * h, K * h
        rotated = self.positions == "rotary"
        if is_long(context, context):  # tile by tile: what goes in and comes out
            return 3 * queries + 2 * keys
        pairs = self.attention_pairs(context, causal)
        # Where all have as many heads, queries, keys and values are one piece of memory, which values keep whole.
        projected = queries + 2 * keys if num_heads == K else keys
        own_keys = keys if rotated or num_heads != K else 0
        parts = block_ranges(context, context, causal, self.attention_window)
        slices = sum(length_of(part, context) for _, part in parts if length_of(part, context) < context) / context
        scores = num_heads * pairs * (1 + bool(dropout) + (self.attention_soft_cap is not None))
        return projected + own_keys + 3 * queries + 2 * keys * slices + scores

    def attention_pairs(self, context, causal):
        """The keys that a token's query is multiplied with, on average over a context."""
        if is_long(context, context):
            seen = context if self.attention_window is None else min(self.attention_window, context)
            return (seen + 1) / 2 if causal and seen == context else seen
        parts = block_ranges(context, context, causal, self.attention_window)
        return sum(length_of(queries, context) * length_of(keys, context) for queries, keys in parts) / context


def length_of(part, whole):
    """How many places of so many a slice has."""
    return len(range(*part.indices(whole)))
