"""The Transformer: a stack of blocks that stands between an embedding and an output layer.

Shapes: B batch, T query time, S key time, D d_model, H heads.
"""

import keras
from keras import ops

from kerasllm import backend
from kerasllm.layers.block import TransformerBlock
from kerasllm.layers.checks import check_heads, check_positions, check_sizes
from kerasllm.layers.composite import Composite
from kerasllm.layers.dense import clone_initializer
from kerasllm.layers.dropout import Dropout
from kerasllm.layers.normalization import make_norm
from kerasllm.layers.option_names import explain_options
from kerasllm.layers.per_layer import PER_LAYER, is_per_layer, split_by_layer
from kerasllm.layers.positions import (
    RelativePositionBias,
    input_positions,
    positions_in_documents,
)
from kerasllm.layers.sequence_layer import SequenceLayer


@keras.saving.register_keras_serializable("kerasllm")
@explain_options(also=TransformerBlock)
class Transformer(Composite, SequenceLayer):
    """A stack of `TransformerBlock`s that knows positions; causal, rotary and pre-norm unless told otherwise.

    Args:
        num_layers: int, number of blocks.
        d_model: int, width of the blocks. An input of another width is projected to it.
        num_heads: int, query heads.
        dff: int, inner width of the feed-forward layers.
        causal: bool. A token sees itself and earlier ones only, so that the model can learn to predict the next one.
            False for an encoder.
        positions: "rotary" in each block; "learned", "sinusoidal" or "fairseq_sinusoidal" (M2M-100's), added to the
            input; "relative", one T5-style bias shared by all blocks; or None.
        max_length: int, the longest sequence; needed for learned positions only.
        dropout: float, in training, on the input and inside the blocks.
        input_norm: bool. Normalise the input, positions included, as BERT and BART do.
        **block: further options of `TransformerBlock`, such as `num_kv_heads`, `norm`, `gated` or
            `attention_window`; and of `keras.layers.Layer`: `name`, `dtype`. `attention_window`, `rope_theta`,
            `partial_rotary_factor` and `rope_scaling` may be sequences with a value for each layer, such as
            `attention_window=(512, None)` for two layers of which the second sees everything.

    Call arguments:
        x: float (B, T, any width), for example the output of an `Embedding`, whose `mask_zero` is honoured.
        context: float (B, S, any width) or None. Given on the first call: every block has cross-attention to it.
        mask: bool (B, S) or None. False hides a token from all others; a Keras mask arrives here by itself.
        x_mask: where Keras hands in that mask when more tensors than `x` are given; leave it alone.
        context_mask: bool (B, S) or None, the same for the context.
        attention_mask: bool (B, T, S), or broadcastable to (B, H, T, S), or None. True where a token may see another.
        document_ids: int (B, T) or None. Tokens see their own document only, and positions restart in each;
            0 is padding.
        position_ids: int (T,) or (B, T) or None; 0, 1, 2 … when absent.
        cache: list of a tuple for each block, from `init_cache`; keys and values of earlier tokens and, where there is
            one, of the context, which is then not needed.
        cache_index: int scalar, how many tokens the cache holds.
        last_only: bool. The output is that of the last token, at less cost than that of all.
        return_attention_scores: bool.

    Returns:
        float (B, T, D), or (B, 1, D) with `last_only`. With `return_attention_scores`, a tuple with a list of what each
        `TransformerBlock` returns after it; and with a cache the updated cache last.

    Raises:
        ValueError: if the numbers do not fit together, or a sequence is longer than the learned positions.

    Example:
        >>> model = keras.Sequential([
        ...     keras.layers.Embedding(1000, 32),
        ...     kerasllm.layers.Transformer(num_layers=2, d_model=64, num_heads=4, dff=256),
        ...     keras.layers.Dense(1000),
        ... ])
        >>> model(np.ones((2, 10), "int32")).shape
        TensorShape([2, 10, 1000])

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; as a decoder alone, Radford et al. 2018, GPT.
    """

    def __init__(
        self,
        num_layers,
        d_model,
        num_heads,
        dff,
        *,
        causal=True,
        positions="rotary",
        max_length=None,
        dropout=0.0,
        input_norm=False,
        name=None,
        dtype=None,
        **block,
    ):
        super().__init__(name=name, dtype=dtype, trainable=block.pop("trainable", True))
        check_sizes(num_layers=num_layers, d_model=d_model, num_heads=num_heads, dff=dff)
        check_heads(d_model, num_heads, block.get("num_kv_heads"), block.get("head_dim"))
        check_positions(positions, max_length)
        self.num_layers = num_layers
        self.d_model = d_model
        self.num_heads = num_heads
        self.dff = dff
        self.causal = causal
        self.positions = positions
        self.max_length = max_length
        self.dropout = dropout
        self.input_norm = input_norm
        self.supports_masking = True
        self._by_layer = {name: tuple(block[name]) for name in PER_LAYER if is_per_layer(block.get(name))}
        self.blocks = [
            TransformerBlock(
                d_model,
                num_heads,
                dff,
                causal=causal,
                positions="rotary" if positions == "rotary" else None,
                dropout=dropout,
                name=f"block_{i}",
                dtype=self.dtype_policy,
                **options,
            )
            for i, options in enumerate(split_by_layer(block, num_layers))
        ]
        backend.track(self, self.blocks)

    def build(self, x_shape, context_shape=None):
        self._input_width = x_shape[-1]
        block = self.blocks[0]
        inner_shape = (*x_shape[:-1], self.d_model)
        self.input_projection = None
        if x_shape[-1] != self.d_model:
            self.input_projection = keras.layers.Dense(
                self.d_model,
                use_bias=False,
                kernel_initializer=clone_initializer(block.kernel_initializer),
                name="input_projection",
                dtype=self.dtype_policy,
            )
            self.input_projection.build(x_shape)
        self.position_embedding = input_positions(self.positions, self.max_length, dtype=self.dtype_policy)
        if self.position_embedding is not None:
            self.position_embedding.build(inner_shape)
        if self.positions == "relative":
            self.relative_bias = RelativePositionBias(
                self.num_heads, self.causal, name="relative_bias", dtype=self.dtype_policy
            )
            self.relative_bias.build()
        self.normalise_input = None
        if self.input_norm:
            self.normalise_input = self._norm("input_norm", inner_shape)
        self.input_dropout = Dropout(self.dropout, name="input_dropout", dtype=self.dtype_policy)
        for block in self.blocks:
            block.build(inner_shape, context_shape)
        self.final_norm = None
        if block.norm_placement != "post":
            self.final_norm = self._norm("final_norm", inner_shape)

    def _norm(self, name, shape):
        block = self.blocks[0]
        norm = make_norm(block.norm, block.norm_epsilon, block.norm_scale, block.use_bias, name, self.dtype_policy)
        norm.build(shape)
        return norm

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
        cache=None,
        cache_index=0,
        last_only=False,
        return_attention_scores=False,
        training=None,
    ):
        index = cache_index + ops.arange(ops.shape(x)[1], dtype="int32")
        if position_ids is None:
            position_ids = index if document_ids is None else positions_in_documents(document_ids)
        if self.input_projection is not None:
            x = self.input_projection(x)
        if self.position_embedding is not None:
            x = self.position_embedding(x, position_ids)
        position_bias = None
        if self.positions == "relative":
            key_index = index if cache is None else ops.arange(ops.shape(cache[0][0])[2], dtype="int32")
            position_bias = self.relative_bias(index, key_index)
        if self.normalise_input is not None:
            x = self.normalise_input(x)
        x = self.input_dropout(x, training=training)

        scores, new_cache = [], []
        for i, block in enumerate(self.blocks):
            x = block(
                x,
                context=context,
                mask=x_mask if mask is None else mask,
                context_mask=context_mask,
                attention_mask=attention_mask,
                document_ids=document_ids,
                position_ids=position_ids,
                position_bias=position_bias,
                cache=None if cache is None else cache[i],
                cache_index=cache_index,
                last_only=last_only and block is self.blocks[-1],
                return_attention_scores=return_attention_scores,
                training=training,
            )
            if cache is not None:
                *x, block_cache = x
                new_cache.append(block_cache)
            if return_attention_scores:
                x, block_scores = x
                scores.append(block_scores)
            elif cache is not None:
                (x,) = x
        if self.final_norm is not None:
            x = self.final_norm(x)
        results = [x, *([scores] if return_attention_scores else []), *([new_cache] if cache is not None else [])]
        return tuple(results) if len(results) > 1 else x

    def init_cache(self, batch_size, length, context=None):
        """Zeros for the keys and values of `length` tokens, a pair of (B, K, length, h) for each block; with a context
        (B, S, any width) its keys and values too, (B, K, S, h)."""
        return [block.init_cache(batch_size, length, context) for block in self.blocks]

    def compute_output_shape(self, x_shape, context_shape=None):
        return (*x_shape[:-1], self.d_model)

    def compute_output_spec(
        self, x, context=None, cache=None, last_only=False, return_attention_scores=False, **kwargs
    ):
        B, T, _ = x.shape
        results = [keras.KerasTensor((B, 1 if last_only else T, self.d_model), self.compute_dtype)]
        block_cache = None if cache is None else cache[0]
        if return_attention_scores:
            inner = keras.KerasTensor((B, T, self.d_model), self.compute_dtype)
            spec = self.blocks[0].compute_output_spec(inner, context, block_cache, return_attention_scores=True)
            results.append([spec[1] for _ in self.blocks])
        if cache is not None:
            results.append([tuple(keras.KerasTensor(part.shape, part.dtype) for part in pair) for pair in cache])
        return tuple(results) if len(results) > 1 else results[0]

    def get_config(self):
        block = self.blocks[0].get_config()
        return {
            **{name: value for name, value in block.items() if not name.endswith("_parts")},  # those are its own
            **self._by_layer,
            **super().get_config(),
            "num_layers": self.num_layers,
            "positions": self.positions,
            "max_length": self.max_length,
            "input_norm": self.input_norm,
        }
