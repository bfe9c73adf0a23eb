"""One Transformer block: attention and feed-forward with norms and residual connections.

Shapes: B batch, T query time, S key time, D d_model.
"""

import keras

from kerasllm import backend
from kerasllm.layers.attention import MultiHeadAttention
from kerasllm.layers.attention_options import AttentionOptions
from kerasllm.layers.block_options import BlockOptions
from kerasllm.layers.cache import BlockCache
from kerasllm.layers.composite import Composite
from kerasllm.layers.dropout import Dropout
from kerasllm.layers.experts import ExpertOptions, MixtureOfExperts
from kerasllm.layers.feed_forward import FeedForward, FeedForwardOptions
from kerasllm.layers.normalization import make_norm
from kerasllm.layers.option_names import explain_options
from kerasllm.layers.rematerialization import rematerialized
from kerasllm.layers.sequence_layer import SequenceLayer, parts_of, result, spec_of
from kerasllm.layers.taps import listeners, tap


@keras.saving.register_keras_serializable("kerasllm")
@explain_options(BlockOptions)
class TransformerBlock(Composite, SequenceLayer):
    """Self-attention, cross-attention if there is a context, and a feed-forward layer.

    Args:
        d_model: int, width of input and output.
        num_heads: int, query heads.
        dff: int, inner width of the feed-forward layer.
        causal: bool. A token sees itself and earlier ones only.
        kernel_initializer: initializer of kernels.
        residual_initializer: initializer of the kernels whose output joins the residual stream; None means
            `kernel_initializer`.
        **options: `BlockOptions`, such as `num_kv_heads`, `norm`, `gated` or `dropout`; and `name` and `dtype` of
            `keras.layers.Layer`. `positions` are "rotary" or None: others are those of a `Transformer`.

    Call arguments:
        x: float (B, T, D).
        context: float (B, S, any width) or None. A block that is first called with a context has cross-attention.
        mask, x_mask, context_mask, attention_mask, document_ids, position_ids, span_ids, position_bias,
            distance_embeddings, cache_index: see `MultiHeadAttention`; `attention_mask` and what follows concern
            self-attention.
        cache: from `init_cache`: keys and values of earlier tokens, and of the context where there is one, which is
            then not needed.
        prepared: from `prepare`, in place of masks, `document_ids` and `position_ids`, for blocks that share them.
        last_only: bool. The output is that of the last token, at less cost than that of all.
        return_attention_scores: bool.

    Returns:
        float (B, T, D), or (B, 1, D) with `last_only`; with `return_attention_scores` the named pair (output,
        attention_scores), whose second is a list, the probabilities (B, H, T, S) over the input and, where there is
        one, the context. With a cache, the named pair (this, cache) with the updated one.

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
        kernel_initializer="glorot_uniform",
        residual_initializer=None,
        **options,
    ):
        own = BlockOptions.take(options)
        super().__init__(**options)
        own.set_on(self, d_model, num_heads)
        self.d_model = d_model
        self.num_heads = num_heads
        self.dff = dff
        self.causal = causal
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.residual_initializer = keras.initializers.get(residual_initializer)
        self.supports_masking = True

        self.attention = self._attention_layer("attention", causal, self.positions)
        kind, of_kind = (
            (FeedForward, FeedForwardOptions) if self.num_experts is None else (MixtureOfExperts, ExpertOptions)
        )
        self.feed_forward = kind(
            d_model, dff, use_bias=self.use_bias, name="feed_forward", **of_kind.of(self), **self._kernel_options()
        )
        self.residual_dropout = Dropout(self.dropout, name="residual_dropout", dtype=self.dtype_policy)

    def _attention_layer(self, name, causal=False, positions=None):
        return MultiHeadAttention(
            self.d_model,
            self.num_heads,
            causal=causal,
            norm_epsilon=self.norm_epsilon,
            norm_scale=self.norm_scale,
            use_bias=self.use_bias if self.attention_bias is None else self.attention_bias,
            dropout=self.dropout if self.attention_dropout is None else self.attention_dropout,
            name=name,
            **{**AttentionOptions.of(self), "positions": positions},
            **self._kernel_options(),
        )

    def _kernel_options(self):
        return {
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
        self._input_width = x_shape[-1]
        norms = (None, None) if self.skip_attention_norm else self._norms("attention", x_shape)
        self.attention_norm, self.attention_output_norm = norms
        self.attention.build(x_shape)
        self.cross_attention = None
        if context_shape is not None:
            self.cross_attention_norm, self.cross_attention_output_norm = self._norms("cross_attention", x_shape)
            self.cross_attention = self._attention_layer("cross_attention")
            self.cross_attention.build(x_shape, context_shape)
        if not (self.parallel and self.shared_norm):
            self.feed_forward_norm, self.feed_forward_output_norm = self._norms("feed_forward", x_shape)
        self.feed_forward.build(x_shape)

    def _norms(self, sublayer, shape):
        """The norm of what enters a sublayer, or of the sum that leaves it, and that of its own output, or None."""
        own = self._norm(f"{sublayer}_norm", shape) if self.norm_placement != "output" else None
        of_output = None
        if self.norm_placement in ("sandwich", "output"):
            of_output = self._norm(f"{sublayer}_output_norm", shape)
        return own, of_output

    def _norm(self, name, shape):
        layer = make_norm(self, name, self.dtype_policy)
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
        span_ids=None,
        position_bias=None,
        distance_embeddings=None,
        cache=None,
        cache_index=0,
        prepared=None,
        last_only=False,
        return_attention_scores=False,
        training=None,
    ):
        options = {"return_attention_scores": return_attention_scores, "training": training}
        options |= {"cache": cache, "cache_index": cache_index}
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
                **options,
            )
        keeps_all = not training or cache is not None or return_attention_scores or bool(listeners())
        forward, remat = self._forward, None if keeps_all else self.remat
        if remat == "block":
            dropout = self.residual_dropout if self.dropout else self.attention.attention_dropout
            forward = rematerialized(forward, self, dropout)
        options |= {"prepared": prepared, "last_only": last_only, "remat": remat}
        return forward(x, context, position_bias, distance_embeddings, **options)

    def _forward(
        self, x, context, position_bias, distances, *, prepared, remat, cache, cache_index, last_only, **options
    ):
        (of_own, of_context), training = prepared, options["training"]
        cache = BlockCache(None) if cache is None else cache
        x = tap(backend.keep_in_rows(x), self, "input")
        normed = self._enter(x, self.attention_norm)
        attended, probabilities, own_cache = parts_of(
            self._sublayer("attention", remat)(
                normed,
                position_bias=position_bias,
                distance_embeddings=distances,
                prepared=of_own,
                cache=cache.own,
                cache_index=cache_index,
                **options,
            )
        )
        scores = [probabilities]
        if last_only:
            x, normed, attended = x[:, -1:], normed[:, -1:], attended[:, -1:]
        feed = self._sublayer("feed_forward", remat)
        if self.parallel:
            if not self.shared_norm:
                normed = self._normed(x, self.feed_forward_norm)
            x = x + self.residual_dropout(attended + feed(normed, training=training), training=training)
        else:
            x = self._leave(x, attended, self.attention_norm, self.attention_output_norm, training)
            if of_context is not None:
                normed = self._enter(tap(x, self, "after_attention"), self.cross_attention_norm)
                attend = self._sublayer("cross_attention", remat)
                attended = attend(normed, context, prepared=of_context, cache=cache.context or None, **options)
                attended, probabilities, _ = parts_of(attended)
                scores.append(probabilities)
                x = self._leave(x, attended, self.cross_attention_norm, self.cross_attention_output_norm, training)
            x = tap(x, self, "before_feed_forward")
            fed = feed(self._enter(x, self.feed_forward_norm), training=training)
            x = self._leave(x, fed, self.feed_forward_norm, self.feed_forward_output_norm, training)
        new_cache = None if own_cache is None else cache._replace(own=own_cache)
        x = tap(backend.keep_in_rows(x), self, "output")
        return result(x, scores if options["return_attention_scores"] else None, new_cache)

    def _sublayer(self, name, remat):
        """A layer inside, or what calls it so that it is computed again."""
        layer = getattr(self, name)
        if remat is None or remat != name.removeprefix("cross_"):
            return layer
        through = ["position_bias", "distance_embeddings"]
        return rematerialized(layer, layer, getattr(layer, "attention_dropout", None), through)

    def _enter(self, x, norm):
        """What a sublayer reads."""
        return self._normed(x, norm) if norm is not None and self.norm_placement != "post" else x

    def _leave(self, x, added, norm, output_norm, training):
        """The residual stream after a sublayer."""
        if output_norm is not None:
            added = self._normed(added, output_norm)
        x = x + self.residual_dropout(added, training=training)
        return self._normed(x, norm) if self.norm_placement == "post" else x

    def _normed(self, x, norm):
        return tap(norm(x), self, norm.name)

    @property
    def kind(self):
        """What blocks that are to share what `prepare` makes must have in common."""
        return self.attention.kind, self.cross_attention and self.cross_attention.kind

    def prepare(self, x, context=None, *, context_mask=None, cache=None, cache_index=0, **options):
        """What a call needs beside its tensors, made once for all blocks of one `kind`: for self-attention and, where
        there is a context, for cross-attention. Arguments are those of `layers.prepared.prepare`."""
        if context is not None and self.cross_attention is None:
            raise ValueError(f"{self.name} was built without a context, so it has no cross-attention to read one.")
        cache = cache or BlockCache(None)
        own = self.attention.prepare(x, cache=cache.own, cache_index=cache_index, **options)
        if context is None and not cache.context:
            return own, None
        known = {name: options[name] for name in ("return_attention_scores", "training")}
        of_context = {"context_mask": context_mask, "cache": cache.context or None}
        return own, self.cross_attention.prepare(x, context, **of_context, **known)

    def init_cache(self, batch_size, length, context=None, full=False):
        """A `BlockCache` for `length` tokens: that of self-attention, see `MultiHeadAttention.init_cache`, and with a
        context (B, S, any width) its keys and values."""
        own = self.attention.init_cache(batch_size, length, full)
        return BlockCache(own, () if context is None else self.cross_attention.project_context(context))

    def compute_output_shape(self, x_shape, context_shape=None):
        return x_shape

    def compute_output_spec(
        self, x, context=None, cache=None, last_only=False, return_attention_scores=False, **kwargs
    ):
        shape = (x.shape[0], 1, x.shape[2]) if last_only else x.shape
        scores = None
        if return_attention_scores:
            own = x.shape[1] if cache is None else cache.own.seen_by(x.shape[1])
            keys = [own, *([] if context is None else [context.shape[1]])]
            shapes = [(x.shape[0], self.attention.num_heads, x.shape[1], key_time) for key_time in keys]
            scores = [keras.KerasTensor(shape, self.compute_dtype) for shape in shapes]
        return result(keras.KerasTensor(shape, self.compute_dtype), scores, spec_of(cache))

    def get_config(self):
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in ("d_model", "num_heads", "dff", "causal")},
            **BlockOptions.of(self),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "residual_initializer": keras.initializers.serialize(self.residual_initializer),
        }
