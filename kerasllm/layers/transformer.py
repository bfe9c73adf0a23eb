"""The Transformer: a stack of blocks that stands between an embedding and an output layer.

Shapes: B batch, T query time, S key time, D d_model, H heads.
"""

import keras
from keras import ops

from kerasllm import backend
from kerasllm.layers.block import TransformerBlock
from kerasllm.layers.block_options import BlockOptions
from kerasllm.layers.composite import Composite
from kerasllm.layers.dense import Dense, clone_initializer
from kerasllm.layers.disentangled import DistanceEmbedding, check_blocks
from kerasllm.layers.dropout import Dropout
from kerasllm.layers.likeness import call_alike, call_in_runs
from kerasllm.layers.normalization import make_norm
from kerasllm.layers.option_names import explain_options
from kerasllm.layers.options import check_sizes, is_per_layer, split_by_group
from kerasllm.layers.positions import (
    BIASED,
    PositionOptions,
    RelativePositionBias,
    input_positions,
    positions_in_documents,
)
from kerasllm.layers.sequence_layer import SequenceLayer, parts_of, result, spec_of
from kerasllm.layers.taps import tap


@keras.saving.register_keras_serializable("kerasllm")
@explain_options(BlockOptions)
class Transformer(Composite, SequenceLayer):
    """A stack of `TransformerBlock`s that knows positions; causal, rotary and pre-norm unless told otherwise.

    Args:
        num_layers: int, number of blocks.
        d_model: int, width of the blocks. An input of another width is projected to it.
        num_heads: int, query heads.
        dff: int, inner width of the feed-forward layers.
        causal: bool. A token sees itself and earlier ones only, so that the model can learn to predict the next one.
            False for an encoder.
        input_norm: bool. Normalise the input, positions included, as BERT and BART do.
        final_norm: bool. Normalise the output too, unless blocks are "post". False for what reads an inner layer.
        embedding_size: int or None, width of the input where it is projected to `d_model` only once positions are added
            and it is normalised, as in ALBERT and ELECTRA.
        num_layer_groups: int or None. So many groups of layers beside each other are one block each, which is called
            for each of its layers: 1 shares all weights, as in ALBERT (https://arxiv.org/abs/1909.11942). None: each
            layer has its own. What passes `taps` then passes once for each layer.
        kernel_initializer: initializer of kernels.
        residual_initializer: initializer of the kernels whose output joins the residual stream; None means
            `kernel_initializer`.
        **options: `BlockOptions`, such as `positions`, `num_kv_heads`, `norm`, `gated` or `dropout`, which is on the
            input too; and `name` and `dtype` of `keras.layers.Layer`. Each but `positions` and `max_length` may be a
            sequence with a value for each layer, such as `attention_window=(512, None)` for two layers of which the
            second sees everything.

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
        span_ids: int (B, T) or None. Tokens of one number other than 0 see each other, whichever comes first, as those
            of a picture may among causal text.
        cache: list of a `BlockCache` for each block, from `init_cache`; keys and values of earlier tokens and, where
            there is one, of the context, which is then not needed. Or the same in `backend.buffers`, heads joined.
        cache_index: int scalar, how many tokens the cache holds.
        last_only: bool. The output is that of the last token, at less cost than that of all.
        return_attention_scores: bool.

    Returns:
        float (B, T, D), or (B, 1, D) with `last_only`; with `return_attention_scores` the named pair (output,
        attention_scores), whose second is a list of what each `TransformerBlock` gives. With a cache, the named pair
        (this, cache) with the updated one.

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
        input_norm=False,
        final_norm=True,
        embedding_size=None,
        num_layer_groups=None,
        kernel_initializer="glorot_uniform",
        residual_initializer=None,
        **options,
    ):
        own = BlockOptions.take(options)
        super().__init__(**options)
        check_sizes(num_layers=num_layers, d_model=d_model, num_heads=num_heads, dff=dff)
        PositionOptions(
            positions=own.positions, max_length=own.max_length, position_buckets=own.position_buckets
        ).set_on(self)
        self.num_layers = num_layers
        self.d_model = d_model
        self.num_heads = num_heads
        self.dff = dff
        self.causal = causal
        self.input_norm = input_norm
        self.has_final_norm = final_norm
        self.embedding_size = embedding_size
        self.num_layer_groups = num_layer_groups
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.residual_initializer = keras.initializers.get(residual_initializer)
        self.supports_masking = True
        of_blocks = BlockOptions.of(own)
        self._block_options = {name: tuple(v) if is_per_layer(v) else v for name, v in of_blocks.items()}
        in_blocks = {**self._block_options, "positions": "rotary" if own.positions == "rotary" else None}
        groups, of_groups = split_by_group(in_blocks, num_layers, num_layer_groups)
        blocks = [
            TransformerBlock(
                d_model,
                num_heads,
                dff,
                causal=causal,
                kernel_initializer=self.kernel_initializer,
                residual_initializer=self.residual_initializer,
                name=f"block_{i}",
                dtype=self.dtype_policy,
                **of_group,
            )
            for i, of_group in enumerate(of_groups)
        ]
        self.blocks = [blocks[group] for group in groups]  # one for each layer
        backend.track(self, blocks)
        if self.positions == "disentangled":
            check_blocks(self.blocks)

    def build(self, x_shape, context_shape=None):
        self._input_width = x_shape[-1]
        first, last = self.blocks[0], self.blocks[-1]
        inner_shape = (*x_shape[:-1], self.d_model)
        is_late = self.embedding_size is not None
        if is_late and x_shape[-1] != self.embedding_size:
            raise ValueError(f"{self.name} takes vectors of width {self.embedding_size}, got {x_shape[-1]}.")
        self.input_projection = None
        if is_late or x_shape[-1] != self.d_model:
            self.input_projection = Dense(
                self.d_model,
                use_bias=is_late and first.use_bias,
                kernel_initializer=clone_initializer(self.kernel_initializer),
                name="input_projection",
                dtype=self.dtype_policy,
            )
            self.input_projection.build(x_shape)
        self.position_embedding = input_positions(self.positions, self.max_length, dtype=self.dtype_policy)
        first_shape = x_shape if is_late else inner_shape
        if self.position_embedding is not None:
            self.position_embedding.build(first_shape)
        if self.positions in BIASED:
            self.relative_bias = RelativePositionBias(
                self.num_heads, self.causal, name="relative_bias", dtype=self.dtype_policy
            )
            self.relative_bias.build()
        if self.positions == "disentangled":
            self.distance_embedding = DistanceEmbedding(
                self.d_model,
                self.position_buckets,
                self.max_length,
                name="distance_embedding",
                dtype=self.dtype_policy,
            )
            self.distance_embedding.build()
            self.distance_norm = self._norm(first, "distance_norm", (None, self.d_model))
        self.normalise_input = None
        if self.input_norm:
            self.normalise_input = self._norm(first, "input_norm", first_shape)
        self.input_dropout = Dropout(first.dropout, name="input_dropout", dtype=self.dtype_policy)
        for block in dict.fromkeys(self.blocks):
            block.build(inner_shape, context_shape)
        self.final_norm = None
        if self.has_final_norm and last.norm_placement != "post":
            self.final_norm = self._norm(last, "final_norm", inner_shape)

    def _norm(self, block, name, shape):
        """A norm like those of a block."""
        norm = make_norm(block, name, self.dtype_policy)
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
        span_ids=None,
        cache=None,
        cache_index=0,
        last_only=False,
        return_attention_scores=False,
        training=None,
    ):
        index = cache_index + ops.arange(ops.shape(x)[1], dtype="int32")
        if position_ids is None:
            position_ids = index if document_ids is None else positions_in_documents(document_ids)
        is_late = self.embedding_size is not None
        if self.input_projection is not None and not is_late:
            x = self.input_projection(x)
        if self.position_embedding is not None:
            x = self.position_embedding(x, position_ids)
        if self.normalise_input is not None:
            x = self.normalise_input(x)
        x = self.input_dropout(x, training=training)
        x = tap(self.input_projection(x) if is_late else x, self, "embedding")
        options = {
            "cache_index": cache_index,
            "return_attention_scores": return_attention_scores,
            "training": training,
        }
        if cache is not None and backend.are_buffers(cache):
            x = call_in_runs(self.blocks, x, cache, mask, position_ids, cache_index)
            return result(x if self.final_norm is None else self.final_norm(x), None, cache)
        distances = self._distances(ops.shape(x)[1], training) if self.positions == "disentangled" else None
        shared, scores, new_cache = {}, [], []
        for i, block in enumerate(self.blocks):
            of_block = None if cache is None else cache[i]
            kind = block.kind, of_block and type(of_block.own)
            if kind not in shared:
                prepared = block.prepare(
                    x,
                    context,
                    mask=x_mask if mask is None else mask,
                    context_mask=context_mask,
                    attention_mask=attention_mask,
                    document_ids=document_ids,
                    position_ids=position_ids,
                    span_ids=span_ids,
                    has_bias=self.positions in BIASED or distances is not None,
                    cache=of_block,
                    **options,
                )
                bias = self.relative_bias(index, prepared[0].key_index) if self.positions in BIASED else None
                shared[kind] = {"prepared": prepared, "position_bias": bias, "distance_embeddings": distances}
            is_last = i == self.num_layers - 1
            x, of_scores, of_block = parts_of(
                call_alike(
                    *(block, x, of_block),
                    context=context,
                    last_only=last_only and is_last,
                    **shared[kind],
                    **options,
                )
            )
            scores.append(of_scores)
            new_cache.append(of_block)
        if self.final_norm is not None:
            x = tap(self.final_norm(x), self, "final_norm")
        return result(x, scores if return_attention_scores else None, None if cache is None else new_cache)

    def _distances(self, T, training):
        """Vectors of the distances T, T - 1 … -T of tokens: (2 T + 1, D)."""
        vectors = self.distance_norm(self.distance_embedding(T - ops.arange(2 * T + 1, dtype="int32")))
        return self.input_dropout(vectors, training=training)

    def set_remat(self, remat):
        """Gives `remat` another value, or one for each layer; a model is to be compiled anew then."""
        self._block_options["remat"] = tuple(remat) if is_per_layer(remat) else remat
        groups, of_groups = split_by_group({"remat": remat}, self.num_layers, self.num_layer_groups)
        for block, group in zip(self.blocks, groups, strict=True):
            block.remat = of_groups[group]["remat"]

    def init_cache(self, batch_size, length, context=None, full=False):
        """A list of the `BlockCache` of each block, empty, for `length` tokens: see `TransformerBlock.init_cache`."""
        if self.positions == "disentangled":
            raise ValueError("Disentangled positions are those of whole texts, which are read without a cache.")
        return [block.init_cache(batch_size, length, context, full) for block in self.blocks]

    def compute_output_shape(self, x_shape, context_shape=None):
        return (*x_shape[:-1], self.d_model)

    def compute_output_spec(
        self, x, context=None, cache=None, last_only=False, return_attention_scores=False, **kwargs
    ):
        B, T, _ = x.shape
        output, scores = keras.KerasTensor((B, 1 if last_only else T, self.d_model), self.compute_dtype), None
        if return_attention_scores:
            inner, caches = (
                keras.KerasTensor((B, T, self.d_model), self.compute_dtype),
                cache or [None] * len(self.blocks),
            )
            specs = [
                block.compute_output_spec(inner, context, of_block, return_attention_scores=True)
                for block, of_block in zip(self.blocks, caches, strict=True)
            ]
            scores = [parts_of(spec)[1] for spec in specs]
        return result(output, scores, spec_of(cache))

    def get_config(self):
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "d_model": self.d_model,
            "num_heads": self.num_heads,
            "dff": self.dff,
            "causal": self.causal,
            "input_norm": self.input_norm,
            "final_norm": self.has_final_norm,
            "embedding_size": self.embedding_size,
            "num_layer_groups": self.num_layer_groups,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "residual_initializer": keras.initializers.serialize(self.residual_initializer),
            **self._block_options,
        }
