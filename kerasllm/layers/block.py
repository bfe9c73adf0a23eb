"""One Transformer block: attention and feed-forward with norms and residual connections.

Shapes: B batch, T query time, S key time, D d_model.
"""

import keras

from kerasllm.layers.attention import MultiHeadAttention
from kerasllm.layers.feed_forward import FeedForward

NORMS = ("layer", "rms")
NORM_PLACEMENTS = ("pre", "post")


@keras.saving.register_keras_serializable("kerasllm")
class TransformerBlock(keras.layers.Layer):
    """Self-attention, cross-attention if there is a context, and a feed-forward layer.

    Args:
        d_model: int, width of input and output.
        num_heads: int, query heads.
        dff: int, inner width of the feed-forward layer.
        causal: bool. A token sees itself and earlier ones only.
        dropout: float, in training, on attention probabilities and on what each sublayer adds.
        num_kv_heads, head_dim, positions, max_length, rope_theta, attention_window, qk_norm:
            see `MultiHeadAttention`. Cross-attention takes its heads and norms, but no positions.
        norm: "layer" or "rms" (https://arxiv.org/abs/1910.07467).
        norm_placement: "pre" normalises what enters a sublayer (https://arxiv.org/abs/2002.04745), "post" the sum
            that leaves it, as the original Transformer did.
        norm_epsilon: float.
        parallel: bool. Attention and feed-forward read the same normalised input and are added together, as in PaLM
            (https://arxiv.org/abs/2204.02311). Only with "pre" and without a context.
        activation, gated: see `FeedForward`.
        use_bias: bool, biases in projections and layer norms.
        kernel_initializer: initializer of kernels.
        residual_initializer: initializer of the kernels whose output joins the residual stream; None means
            `kernel_initializer`.

    Call arguments:
        x: float (B, T, D).
        context: float (B, S, any width) or None. A block that is first called with a context has cross-attention.
        mask, x_mask, context_mask, attention_mask, document_ids, position_ids, position_bias, cache, cache_index:
            see `MultiHeadAttention`; `attention_mask` and what follows concern self-attention.

    Returns:
        float (B, T, D), and with a cache the pair (output, updated cache).

    Example:
        >>> block = kerasllm.layers.TransformerBlock(d_model=64, num_heads=4, dff=256)
        >>> block(np.ones((2, 10, 64))).shape
        TensorShape([2, 10, 64])
    """

    def __init__(
        self,
        d_model,
        num_heads,
        dff,
        *,
        causal=True,
        dropout=0.0,
        num_kv_heads=None,
        head_dim=None,
        positions="rotary",
        max_length=None,
        rope_theta=10000.0,
        attention_window=None,
        qk_norm=False,
        norm="layer",
        norm_placement="pre",
        norm_epsilon=1e-5,
        parallel=False,
        activation="gelu",
        gated=False,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        residual_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_norms(norm, norm_placement, parallel)
        self.d_model = d_model
        self.num_heads = num_heads
        self.dff = dff
        self.causal = causal
        self.dropout = dropout
        self.norm = norm
        self.norm_placement = norm_placement
        self.norm_epsilon = norm_epsilon
        self.parallel = parallel
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.residual_initializer = keras.initializers.get(residual_initializer)
        self.supports_masking = True

        self._head_options = {"num_kv_heads": num_kv_heads, "head_dim": head_dim, "qk_norm": qk_norm}
        self._position_options = {
            "positions": positions,
            "max_length": max_length,
            "rope_theta": rope_theta,
            "attention_window": attention_window,
        }
        self._feed_forward_options = {"activation": activation, "gated": gated}
        common = self._common_options()
        self.attention = MultiHeadAttention(
            d_model,
            num_heads,
            causal=causal,
            dropout=dropout,
            name="attention",
            **self._head_options,
            **self._position_options,
            **common,
        )
        self.feed_forward = FeedForward(d_model, dff, name="feed_forward", **self._feed_forward_options, **common)
        self.residual_dropout = keras.layers.Dropout(dropout, name="residual_dropout", dtype=self.dtype_policy)

    def _common_options(self):
        return {
            "use_bias": self.use_bias,
            "kernel_initializer": self.kernel_initializer,
            "output_initializer": self.residual_initializer,
            "dtype": self.dtype_policy,
        }

    def build(self, x_shape, context_shape=None):
        if x_shape[-1] != self.d_model:
            raise ValueError(
                f"A block with d_model={self.d_model} adds its output to its input, so the input must have width "
                f"{self.d_model}, got {x_shape[-1]}. (`Transformer` projects inputs of any width.)"
            )
        if context_shape is not None and self.parallel:
            raise ValueError("A parallel block has no cross-attention; use parallel=False with a context.")
        self.attention_norm = self._norm("attention_norm", x_shape)
        self.attention.build(x_shape)
        self.cross_attention = None
        if context_shape is not None:
            self.cross_attention_norm = self._norm("cross_attention_norm", x_shape)
            self.cross_attention = MultiHeadAttention(
                self.d_model,
                self.num_heads,
                dropout=self.dropout,
                name="cross_attention",
                **self._head_options,
                **self._common_options(),
            )
            self.cross_attention.build(x_shape, context_shape)
        if not self.parallel:
            self.feed_forward_norm = self._norm("feed_forward_norm", x_shape)
        self.feed_forward.build(x_shape)

    def _norm(self, name, shape):
        layer = make_norm(self.norm, self.norm_epsilon, self.use_bias, name, self.dtype_policy)
        layer.build(shape)
        return layer

    def call(
        self,
        x,
        context=None,
        *,
        mask=None,
        x_mask=None,
        context_mask=None,
        attention_mask=None,
        document_ids=None,
        position_ids=None,
        position_bias=None,
        cache=None,
        cache_index=0,
        training=None,
    ):
        if context is not None and self.cross_attention is None:
            raise ValueError(f"{self.name} was built without a context, so it has no cross-attention to read one.")

        normed = self._enter(x, self.attention_norm)
        attended = self.attention(
            normed,
            attention_mask=attention_mask,
            mask=x_mask if mask is None else mask,
            document_ids=document_ids,
            position_ids=position_ids,
            position_bias=position_bias,
            cache=cache,
            cache_index=cache_index,
            training=training,
        )
        if cache is not None:
            attended, cache = attended
        if self.parallel:
            x = x + self.residual_dropout(attended + self.feed_forward(normed), training=training)
        else:
            x = self._leave(x, attended, self.attention_norm, training)
            if context is not None:
                normed = self._enter(x, self.cross_attention_norm)
                attended = self.cross_attention(normed, context, context_mask=context_mask, training=training)
                x = self._leave(x, attended, self.cross_attention_norm, training)
            normed = self._enter(x, self.feed_forward_norm)
            x = self._leave(x, self.feed_forward(normed), self.feed_forward_norm, training)
        return x if cache is None else (x, cache)

    def _enter(self, x, norm):
        """What a sublayer reads."""
        return norm(x) if self.norm_placement == "pre" else x

    def _leave(self, x, added, norm, training):
        """The residual stream after a sublayer."""
        x = x + self.residual_dropout(added, training=training)
        return x if self.norm_placement == "pre" else norm(x)

    def init_cache(self, batch_size, length):
        """See `MultiHeadAttention.init_cache`."""
        return self.attention.init_cache(batch_size, length)

    def compute_output_spec(self, x, context=None, cache=None, **kwargs):
        output = keras.KerasTensor(x.shape, self.compute_dtype)
        if cache is None:
            return output
        return output, tuple(keras.KerasTensor(part.shape, part.dtype) for part in cache)

    def get_config(self):
        return {
            **super().get_config(),
            "d_model": self.d_model,
            "num_heads": self.num_heads,
            "dff": self.dff,
            "causal": self.causal,
            "dropout": self.dropout,
            **self._head_options,
            **self._position_options,
            "norm": self.norm,
            "norm_placement": self.norm_placement,
            "norm_epsilon": self.norm_epsilon,
            "parallel": self.parallel,
            **self._feed_forward_options,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "residual_initializer": keras.initializers.serialize(self.residual_initializer),
        }


def check_norms(norm, norm_placement, parallel):
    """Refuses norms that do not exist, or do not fit a parallel block."""
    if norm not in NORMS:
        raise ValueError(f"`norm` must be one of {NORMS}, got {norm!r}.")
    if norm_placement not in NORM_PLACEMENTS:
        raise ValueError(f"`norm_placement` must be one of {NORM_PLACEMENTS}, got {norm_placement!r}.")
    if parallel and norm_placement != "pre":
        raise ValueError(f"A parallel block needs norm_placement='pre', got {norm_placement!r}.")


def make_norm(kind, epsilon, use_bias, name, dtype):
    """Keras' layer normalisation, or RMS normalisation; `use_bias=False` leaves out the offset."""
    if kind == "rms":
        norm = keras.layers.RMSNormalization(epsilon=epsilon, name=name, dtype=dtype)
        norm.supports_masking = True  # Keras' own drops masks, with a warning.
        return norm
    return keras.layers.LayerNormalization(epsilon=epsilon, center=use_bias, name=name, dtype=dtype)
