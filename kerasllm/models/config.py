"""One frozen description of a Transformer language model, from which its size and cost follow.

Letters in formulas: L layers, D d_model, H heads, K key/value heads, h head_dim, F dff, V vocab, T context.
"""

import dataclasses

from kerasllm.layers.block_options import BlockOptions
from kerasllm.layers.option_names import OUR_NAMES
from kerasllm.layers.options import (
    check_positive,
    check_sizes,
    is_per_layer,
    join_layers,
    split_by_group,
    split_by_layer,
)
from kerasllm.layers.rotary import LENGTH_DEPENDENT
from kerasllm.words import advice, explain_keywords


@dataclasses.dataclass(frozen=True)
class _Sizes:
    """What a config may be given without names, in this order."""

    vocab_size: int
    num_layers: int
    d_model: int
    num_heads: int
    dff: int
    max_length: int = 1024


@explain_keywords(OUR_NAMES)
@dataclasses.dataclass(frozen=True)
class TransformerConfig(BlockOptions, _Sizes):
    """The architecture of a language model. Validated when made; every field is plain data.

    Args:
        vocab_size: int, number of token ids.
        num_layers: int, number of blocks.
        d_model: int, width of the residual stream.
        num_heads: int, query heads.
        dff: int, inner width of the feed-forward layers.
        max_length: int, the longest context in tokens.
        positions, rope_theta, num_kv_heads, norm, gated, dropout and so on: the options of layers, see
            `layers.BlockOptions`. Each but `positions` may be a sequence with a value for each layer, but not beside
            an encoder.
        tie_embeddings: bool. The output layer is the embedding, transposed.
        output_bias: bool. Add a bias to the logits, as Marian does; a `MaskedLM` has one wherever its layers have.
        logit_soft_cap: float or None, the size that logits approach but never reach, by a tanh, as in Gemma 2
            (https://arxiv.org/abs/2408.00118).
        scale_embeddings: bool. Multiply embeddings by the square root of `d_model`, as the original Transformer does.
        embedding_norm: bool. Normalise embeddings once positions are added, as BERT and BART do.
        embedding_size: int or None, width of the embeddings of tokens, types and positions where they are projected to
            `d_model` then, as in ALBERT (https://arxiv.org/abs/1909.11942) and ELECTRA; not for a `CausalLM` or a
            `Seq2SeqLM`.
        num_layer_groups: int or None. Layers beside each other share their weights, in so many groups: 1 for all, as in
            ALBERT; None for none. Not beside an encoder.
        num_token_types: int, kinds of tokens that a `MaskedLM` tells apart, such as BERT's sentences A and B; or 0.
        num_task_types: int, tasks that it tells apart, as ERNIE 2 does (https://arxiv.org/abs/1907.12412); or 0.
        num_encoder_layers: int or None, blocks of a `Seq2SeqLM`'s encoder; `num_layers` are then the decoder's. None
            means no encoder, and in a `Seq2SeqLM` as many as the decoder has.
        source_vocab_size: int or None, ids of a `Seq2SeqLM`'s source texts; None means they share `vocab_size` and the
            embedding with its target texts.
        decoder_start_id, forced_bos_id: ints or None, ids that a `Seq2SeqLM`'s targets begin with where the tokenizer's
            start token is not it, and the first that it then writes, such as the language of its text.

    Raises:
        ValueError: if the numbers do not fit together.

    Example:
        >>> config = TransformerConfig(vocab_size=65, num_layers=4, d_model=128, num_heads=4, dff=512, max_length=64)
        >>> config.num_parameters()
        802560
    """

    max_length: int = 1024
    tie_embeddings: bool = True
    output_bias: bool = False
    logit_soft_cap: float | None = None
    scale_embeddings: bool = False
    embedding_norm: bool = False
    embedding_size: int | None = None
    num_layer_groups: int | None = None
    num_token_types: int = 0
    num_task_types: int = 0
    num_encoder_layers: int | None = None
    source_vocab_size: int | None = None
    decoder_start_id: int | None = None
    forced_bos_id: int | None = None

    def __post_init__(self):
        optional = ("num_encoder_layers", "source_vocab_size", "embedding_size")
        check_sizes(**_of(self, [field.name for field in dataclasses.fields(_Sizes)]))
        check_sizes(**{name: size for name, size in _of(self, optional).items() if size is not None})
        for options in self.options_by_layer():
            options.check(self.d_model, self.num_heads)
        for name in BlockOptions.names():  # a sequence in one form: a tuple, or a value for all
            object.__setattr__(self, name, join_layers(self.by_layer(name)))
        split_by_group(BlockOptions.of(self), self.num_layers, self.num_layer_groups)
        self._check_encoder()
        check_positive(logit_soft_cap=self.logit_soft_cap)
        for name in ("decoder_start_id", "forced_bos_id"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < self.vocab_size:
                raise ValueError(f"`{name}` must be an id below {self.vocab_size}, got {getattr(self, name)!r}.")

    def _check_encoder(self):
        if not self.num_encoder_layers:
            return
        for name in BlockOptions.names():
            if is_per_layer(getattr(self, name)):
                raise ValueError(f"`{name}` must be the same in all layers of a model with an encoder.")
        if self.parallel:
            raise ValueError("A parallel block has no cross-attention; use parallel=False with an encoder.")
        if (self.rope_scaling or {}).get("rope_type") in LENGTH_DEPENDENT:
            raise ValueError(
                f"`rope_scaling` of type {' or '.join(map(repr, LENGTH_DEPENDENT))} depends on the length of a text, "
                "which in a model with an encoder is not that of the other side: take another type."
            )

    @classmethod
    def preset(cls, name, **overrides):
        """The config of a published model or family, with fields overridden by name.

        Args:
            name: str, such as "gpt2", "llama-2-7b" or "palm-laptop"; `models.presets.PRESETS` has them all.
            **overrides: fields to change, for example `vocab_size` or `num_layers`.

        Raises:
            ValueError: if there is no such preset, or no such field.

        Example:
            >>> TransformerConfig.preset("gpt2").num_parameters()
            124439808
        """
        from kerasllm.models.presets import preset_fields

        return cls.from_dict({**preset_fields(name), **overrides})

    @classmethod
    def from_dict(cls, fields):
        """The config from a dict of its fields, as `to_dict` returns it."""
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(fields) - set(known))
        if unknown:
            told = next(filter(None, (advice(name, known, OUR_NAMES) for name in unknown)), None)
            instead = told or f". The fields are {', '.join(known)}."
            raise ValueError(f"Unknown TransformerConfig field {', '.join(unknown)}{instead}")
        needed = [field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING]
        missing = [name for name in needed if name not in fields]
        if missing:
            raise ValueError(f"TransformerConfig needs {', '.join(missing)} too.")
        return cls(**fields)

    def to_dict(self):
        """All fields, as plain JSON types."""
        fields = dataclasses.asdict(self)
        return {name: list(value) if is_per_layer(value) else value for name, value in fields.items()}

    def by_layer(self, name):
        """The values of a field that may differ by layer, one for each of `num_layers`."""
        value = getattr(self, name)
        return value if is_per_layer(value) else (value,) * self.num_layers

    def options_by_layer(self):
        """The `layers.BlockOptions` of each of `num_layers`."""
        return [BlockOptions(**of_layer) for of_layer in split_by_layer(BlockOptions.of(self), self.num_layers)]

    @property
    def embedding_width(self):
        """int, the width of embeddings: `embedding_size`, or `d_model`."""
        return self.embedding_size or self.d_model

    def num_parameters(self, embeddings=True, of_tokens=None):
        """The number of weights of a `CausalLM`, or with `num_encoder_layers` of a `Seq2SeqLM`, counted by formula.

        Args:
            embeddings: bool. False leaves out token and position tables, but not an untied output layer, which
                multiplies like any other matrix.
            of_tokens: int or None. Of the experts of a mixture, count as many as so many tokens read at most: 1 gives
                what are called its active parameters.
        """
        D, E, H, F = self.d_model, self.embedding_width, self.num_heads, self.dff
        layers = self.options_by_layer()
        first, last = layers[0], layers[-1]
        has_encoder = bool(self.num_encoder_layers)
        _, of_groups = split_by_group({"options": layers}, self.num_layers, self.num_layer_groups)
        blocks = [group["options"] for group in of_groups]
        total = sum(options.block_parameters(D, H, F, has_encoder, of_tokens) for options in blocks)
        total += (self.num_encoder_layers or 0) * first.block_parameters(D, H, F, of_tokens=of_tokens)
        total += (E + first.use_bias) * D if self.embedding_size else 0
        outside = self.embedding_norm * first.norm_parameters(E, first.use_bias)
        outside += (self.positions == "disentangled") * first.norm_parameters(D, first.use_bias)
        outside += (last.norm_placement != "post") * last.norm_parameters(D, last.use_bias)
        if embeddings:
            outside += self.position_parameters(D, H, E)
            total += (self.vocab_size + (self.source_vocab_size or 0)) * E
        return (
            total + (1 + has_encoder) * outside + ((not self.tie_embeddings) * E + self.output_bias) * self.vocab_size
        )

    def flops_per_token(self, context=None):
        """Floating-point operations to train on one token, forward and backward: 6 N + 12 L H h T.

        N leaves out embeddings, for looking up is free, and experts that a token does not read. The second term is
        attention over the whole square of T x T, as PaLM's appendix B counts (https://arxiv.org/abs/2204.02311).

        Args:
            context: int, tokens in a window; None means `max_length`.
        """
        T = context or self.max_length
        attention = sum(layer.attention_flops(self.d_model, self.num_heads, T) for layer in self.options_by_layer())
        as_often_as_used = dataclasses.replace(self, num_layer_groups=None)
        return 6 * as_often_as_used.num_parameters(embeddings=False, of_tokens=1) + attention

    def memory_bytes(self, batch_size, context=None, bytes_per_activation=4):
        """The memory that a training step takes at its peak, with AdamW: `models.memory` counts it, by part too.

        `planning.plan` adds what a machine takes besides, and knows of chunks, micro-batches and adapters.

        Args:
            batch_size: int, rows in a batch.
            context: int, tokens in a row; None means `max_length`.
            bytes_per_activation: 4 in float32, 2 in mixed precision.
        """
        from kerasllm.models.memory import TrainingMemory

        precision = "float32" if bytes_per_activation == 4 else "mixed_bfloat16"
        return sum(TrainingMemory(self, batch_size, context, precision=precision).by_part().values())


def _of(holder, names):
    return {name: getattr(holder, name) for name in names}
