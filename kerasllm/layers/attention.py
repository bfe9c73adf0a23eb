"""Multi-head attention: one layer for self-attention, cross-attention, grouped keys and cached decoding.

Shapes: B batch, T query time, S key time, D d_model, H query heads, K key/value heads, h head_dim.
Inside, activations are (B, H, T, h) and multiply with plain `matmul`: on a CPU that is much faster than einsum
over (B, T, H, h). Kernels are 2-D `Dense`, with query, key and value in one matrix.
"""

import keras

from kerasllm.layers.attention_options import AttentionOptions
from kerasllm.layers.cache import KeyValueCache, empty_cache
from kerasllm.layers.composite import Composite
from kerasllm.layers.dense import Dense, clone_initializer
from kerasllm.layers.disentangled import distance_scores
from kerasllm.layers.dot_product import attend, attend_in_blocks
from kerasllm.layers.dropout import Dropout
from kerasllm.layers.heads import join_heads, normed_heads, projected_heads, scaled_queries, split_heads
from kerasllm.layers.masks import Sight
from kerasllm.layers.normalization import RMSNormalization
from kerasllm.layers.option_names import ATTENTION_CALL_WORDS, ATTENTION_WORDS, explain_options
from kerasllm.layers.options import check_sizes
from kerasllm.layers.prepared import prepare
from kerasllm.layers.rotary import Rotation, turned
from kerasllm.layers.sequence_layer import SequenceLayer, result, spec_of
from kerasllm.layers.taps import is_tapped, tap
from kerasllm.layers.tiles import attend_in_tiles

_ARGUMENTS = ("d_model", "num_heads", "causal", "use_bias", "norm_epsilon", "norm_scale", "dropout")


@keras.saving.register_keras_serializable("kerasllm")
@explain_options(AttentionOptions, **ATTENTION_WORDS)
class MultiHeadAttention(Composite, SequenceLayer):
    """Multi-head attention, over the input itself or over a context.

    Args:
        d_model: int, width of the output.
        num_heads: int, query heads.
        causal: bool. A token sees itself and earlier ones only. Has no effect on cross-attention.
        positions: "rotary" or None. (Other positions are those of a `Transformer`.)
        use_bias: bool, biases in the projections.
        norm_epsilon: float, added to the mean square in `qk_norm`.
        norm_scale: bool, a trained scale in `qk_norm`.
        dropout: float, share of attention probabilities dropped in training.
        kernel_initializer: initializer of the query, key and value kernel.
        output_initializer: initializer of the output kernel; None means `kernel_initializer`.
        **options: `AttentionOptions`, such as `num_kv_heads`, `attention_window` or `rope_theta`; and `name` and
            `dtype` of `keras.layers.Layer`.

    Call arguments:
        x: float (B, T, any width).
        context: float (B, S, any width) or None. Given: cross-attention, whose keys and values come from here.
        attention_mask: bool (B, T, S), or broadcastable to (B, H, T, S), or None. True where a query may see a key, on
            top of everything else that hides keys.
        mask: bool (B, S) or None. False hides a key of self-attention; a Keras mask arrives here by itself. With a
            cache, give one for all its places.
        x_mask: where Keras hands in that mask when more tensors than `x` are given; leave it alone.
        context_mask: bool (B, S) or None, the same for cross-attention.
        document_ids: int (B, T) or None. Tokens see their own document only; 0 is padding.
        position_ids: int (T,) or (B, T) or None; 0, 1, 2 … when absent.
        span_ids: int (B, T) or None. Tokens of one number other than 0 see each other, whichever comes first.
        position_bias: float, broadcastable to (B, H, T, S), added to the scores.
        distance_embeddings: float (2 T + 1, any width) or None, vectors of the distances T, T - 1 … -T of a query from
            a key, for disentangled attention.
        cache: in self-attention from `init_cache`: keys and values of earlier tokens, to which the new ones are added.
            In cross-attention from `project_context`, in place of the context.
        cache_index: int scalar, how many tokens the cache holds.
        prepared: from `prepare`, in place of masks, `document_ids` and `position_ids`, for layers that share them.
        return_attention_scores: bool.

    Returns:
        float (B, T, D); with `return_attention_scores` the named pair (output, attention_scores), whose second are the
        probabilities (B, H, T, S). With a cache, the named pair (this, cache) with the updated one.

    Raises:
        ValueError: if the numbers do not fit together.

    Example:
        >>> layer = kerasllm.layers.MultiHeadAttention(d_model=64, num_heads=4, num_kv_heads=2, causal=True)
        >>> layer(np.ones((2, 10, 64))).shape
        TensorShape([2, 10, 64])

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762
    """

    def __init__(
        self,
        d_model,
        num_heads,
        *,
        causal=False,
        positions=None,
        use_bias=True,
        norm_epsilon=1e-5,
        norm_scale=True,
        dropout=0.0,
        kernel_initializer="glorot_uniform",
        output_initializer=None,
        **options,
    ):
        options["positions"] = positions
        own = AttentionOptions.take(options)
        super().__init__(**options)
        check_sizes(d_model=d_model, num_heads=num_heads)
        own.set_on(self, d_model, num_heads)
        if positions not in ("rotary", None):
            raise ValueError(f"`positions` are 'rotary' or None here, and in a `Transformer` {positions!r} too.")
        self.d_model = d_model
        self.num_heads = num_heads
        self.num_kv_heads = self.num_kv_heads or num_heads
        self.head_dim = self.head_dim or d_model // num_heads
        self.causal = causal
        self.rotation = None
        if positions == "rotary" and self.partial_rotary_factor:
            self.rotation = Rotation(self.head_dim, self.rope_theta, self.partial_rotary_factor, self.rope_scaling)
        self.norm_epsilon = norm_epsilon
        self.norm_scale = norm_scale
        self.use_bias = use_bias
        self.dropout = dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_initializer = keras.initializers.get(output_initializer)
        self.supports_masking = True

    def __call__(self, *args, **kwargs):
        for name in kwargs.keys() & ATTENTION_CALL_WORDS.keys():
            raise TypeError(f"MultiHeadAttention has no `{name}`: {ATTENTION_CALL_WORDS[name]}.")
        if len(args) > 2:
            raise TypeError(
                "MultiHeadAttention takes one context, for keys and values alike: call it as layer(query, context)."
            )
        return super().__call__(*args, **kwargs)

    def build(self, x_shape, context_shape=None):
        self._input_width = x_shape[-1]
        query_width, kv_width = self.num_heads * self.head_dim, 2 * self.num_kv_heads * self.head_dim
        self.is_cross_attention = context_shape is not None
        if self.is_cross_attention:
            self.query = self._projection(query_width, "query", x_shape)
            self.key_value = self._projection(kv_width, "key_value", context_shape)
        else:
            self.query_key_value = self._projection(query_width + kv_width, "query_key_value", x_shape)
        self.output_projection = self._projection(self.d_model, "output", (*x_shape[:-1], query_width))
        self.query_norm = self.key_norm = None
        if self.qk_norm:
            self.query_norm = self._head_norm("query_norm", self.num_heads)
            self.key_norm = self._head_norm("key_norm", self.num_kv_heads)
        self.attention_dropout = Dropout(self.dropout, name="attention_dropout", dtype=self.dtype_policy)

    def _head_norm(self, name, heads):
        norm = RMSNormalization(self.norm_scale, epsilon=self.norm_epsilon, name=name, dtype=self.dtype_policy)
        norm.build((None, None, heads * self.head_dim if self.qk_norm == "full" else self.head_dim))
        return norm

    def _projection(self, width, name, input_shape):
        is_output = name == "output"
        own_initializer = self.output_initializer if is_output else None
        initializer = clone_initializer(own_initializer or self.kernel_initializer)
        if self.attention_scale is not None and name.startswith("query"):
            factor = self.head_dim**-0.5 / self.attention_scale  # Scores begin as large as they do otherwise.
            initializer = scaled_queries(initializer, self.num_heads * self.head_dim, factor)
        layer = Dense(
            width,
            use_bias=self.use_bias if is_output or self.qkv_bias is None else self.qkv_bias,
            kernel_initializer=initializer,
            name=name,
            dtype=self.dtype_policy,
        )
        layer.build(input_shape)
        return layer

    def call(
        self,
        x,
        context=None,
        *,
        attention_mask=None,
        mask=None,
        x_mask=None,
        context_mask=None,
        document_ids=None,
        position_ids=None,
        span_ids=None,
        position_bias=None,
        distance_embeddings=None,
        cache=None,
        cache_index=0,
        prepared=None,
        return_attention_scores=False,
        training=None,
    ):
        self._check_context(context, cache)
        if prepared is None:
            prepared = self.prepare(
                x,
                context,
                mask=x_mask if mask is None else mask,
                context_mask=context_mask,
                attention_mask=attention_mask,
                document_ids=document_ids,
                position_ids=position_ids,
                span_ids=span_ids,
                has_bias=position_bias is not None or distance_embeddings is not None,
                cache=cache,
                cache_index=cache_index,
                return_attention_scores=return_attention_scores,
                training=training,
            )
        if self.is_cross_attention:
            query = self._normed(split_heads(self.query(x), self.num_heads), self.query_norm)
            key, value = self.project_context(context) if cache is None else cache
        else:
            query, key, value = self._heads(x)
        query, key, value = tap(query, self, "query"), tap(key, self, "key"), tap(value, self, "value")
        if prepared.angles is not None:
            query, key = turned(query, *prepared.angles), turned(key, *prepared.angles)
        if cache is not None and not self.is_cross_attention:
            keys, values, cache = cache.extended(key, value, cache_index)
            key, value = (key, value) if prepared.is_all_new else (keys, values)

        scale = self.head_dim**-0.5 if self.attention_scale is None else self.attention_scale
        query = query * scale
        if distance_embeddings is not None:
            of_query, of_key, _ = self._heads(distance_embeddings[None])
            position_bias = distance_scores(query, key, of_query * scale, of_key)
        last = {"soft_cap": self.attention_soft_cap, "dropout": self.attention_dropout, "training": training}
        if isinstance(prepared.mask, Sight):
            output = attend_in_tiles(query, key, value, prepared.mask, **last)
        elif prepared.in_blocks:
            output = attend_in_blocks(query, key, value, prepared.mask, **last)
        else:
            output, probabilities = attend(query, key, value, prepared.mask.whole, position_bias, **last, layer=self)
        output = self.output_projection(join_heads(tap(output, self, "heads")))
        output = tap(output, self, "output")
        return result(output, probabilities if return_attention_scores else None, cache)

    def _check_context(self, context, cache):
        is_cross = self.is_cross_attention
        if is_cross != (context is not None) and not (is_cross and cache is not None):
            built, called = ("with", "without") if is_cross else ("without", "with")
            raise ValueError(
                f"{self.name} was built {built} a context and is now called {called} one. Self-attention and "
                f"cross-attention need a layer each."
            )

    @property
    def kind(self):
        """What layers that are to share what `prepare` makes must have in common."""
        rotation = None if self.rotation is None else self.rotation.kind
        return self.causal, self.attention_window, rotation, self.compute_dtype

    def prepare(self, x, context=None, **options):
        """What a call needs beside its tensors, made once for all layers of one `kind`: see `prepared.prepare`."""
        return prepare(self, x, context, keeps_scores=is_tapped(self, "scores", "probabilities"), **options)

    def _heads(self, x):
        """Queries (B, H, T, h), keys and values (B, K, T, h) of self-attention."""
        heads = self.num_heads, self.num_kv_heads, self.num_kv_heads
        query, key, value = projected_heads(self.query_key_value, x, self.head_dim, *heads)
        return self._normed(query, self.query_norm), self._normed(key, self.key_norm), value

    def project_context(self, context):
        """Keys and values of a context, (B, K, S, h) each: the `cache` of cross-attention, to be made once and read in
        many calls."""
        heads = self.num_kv_heads, self.num_kv_heads
        key, value = projected_heads(self.key_value, context, self.head_dim, *heads)
        return KeyValueCache(self._normed(key, self.key_norm), value)

    def _normed(self, heads, norm):
        return normed_heads(heads, norm, as_one=self.qk_norm == "full")

    def init_cache(self, batch_size, length, full=False):
        """An empty cache for `length` tokens.

        Args:
            batch_size, length: int.
            full: bool. Keep all of them, in place of those alone that a window leaves to be seen.

        Returns:
            `KeyValueCache` or `RingCache`, of (batch_size, K, length or less, h).
        """
        window = self.attention_window if self.causal and not full else None
        return empty_cache(batch_size, self.num_kv_heads, length, self.head_dim, self.compute_dtype, window)

    def compute_output_spec(self, x, context=None, cache=None, return_attention_scores=False, **kwargs):
        output = keras.KerasTensor((*x.shape[:-1], self.d_model), self.compute_dtype)
        scores = None
        if return_attention_scores:
            key_time = (x if context is None else context).shape[1] if cache is None else cache.seen_by(x.shape[1])
            scores = keras.KerasTensor((x.shape[0], self.num_heads, x.shape[1], key_time), self.compute_dtype)
        return result(output, scores, spec_of(cache))

    def get_config(self):
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in _ARGUMENTS},
            **AttentionOptions.of(self),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "output_initializer": keras.initializers.serialize(self.output_initializer),
        }
