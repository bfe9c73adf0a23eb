"""One frozen description of a Transformer language model, from which its size and cost follow.

Letters in formulas: L layers, D d_model, H heads, K key/value heads, h head_dim, F dff, V vocab, T context.
"""

import dataclasses

from kerasllm.layers.checks import (
    LENGTH_DEPENDENT,
    check_attention,
    check_heads,
    check_norms,
    check_positions,
    check_positive,
    check_remat,
    check_sizes,
)
from kerasllm.layers.feed_forward import get_activation
from kerasllm.layers.option_names import OUR_NAMES
from kerasllm.layers.per_layer import PER_LAYER, is_per_layer, join_layers, split_by_layer
from kerasllm.words import advice, explain_keywords


@explain_keywords(OUR_NAMES)
@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """The architecture of a language model. Validated when made; every field is plain data.

    Args:
        vocab_size: int, number of token ids.
        num_layers: int, number of blocks.
        d_model: int, width of the residual stream.
        num_heads: int, query heads.
        dff: int, inner width of the feed-forward layers.
        max_length: int, the longest context in tokens.
        num_kv_heads, head_dim, positions, qk_norm, qkv_bias, attention_scale, attention_soft_cap: see
            `layers.MultiHeadAttention`.
        attention_window, rope_theta, partial_rotary_factor, rope_scaling: see there too; each for all layers, or a
            sequence with a value for each layer, but not beside an encoder.
        norm, norm_placement, norm_epsilon, norm_scale, parallel, shared_norm, attention_bias, remat: see
            `layers.TransformerBlock`.
        activation, gated, use_bias: see `layers.FeedForward`.
        dropout, attention_dropout: floats, in training; see `layers.TransformerBlock`.
        tie_embeddings: bool. The output layer is the embedding, transposed.
        output_bias: bool. Add a bias to the logits, as Marian does; a `MaskedLM` has one wherever its layers have.
        logit_soft_cap: float or None, the size that logits approach but never reach, by a tanh, as in Gemma 2
            (https://arxiv.org/abs/2408.00118).
        scale_embeddings: bool. Multiply embeddings by the square root of `d_model`, as the original Transformer does.
        embedding_norm: bool. Normalise embeddings once positions are added, as BERT and BART do.
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

    vocab_size: int
    num_layers: int
    d_model: int
    num_heads: int
    dff: int
    max_length: int = 1024
    num_kv_heads: int | None = None
    head_dim: int | None = None
    attention_window: int | tuple | None = None
    positions: str | None = "rotary"
    rope_theta: float | tuple = 10000.0
    partial_rotary_factor: float | tuple = 1.0
    rope_scaling: dict | tuple | None = None
    qk_norm: bool | str = False
    qkv_bias: bool | None = None
    attention_scale: float | None = None
    attention_soft_cap: float | None = None
    norm: str = "layer"
    norm_placement: str = "pre"
    norm_epsilon: float = 1e-5
    norm_scale: bool = True
    parallel: bool = False
    shared_norm: bool = True
    remat: str | None = None
    activation: str = "gelu_tanh"
    gated: bool = False
    use_bias: bool = True
    attention_bias: bool | None = None
    dropout: float = 0.0
    attention_dropout: float | None = None
    tie_embeddings: bool = True
    output_bias: bool = False
    logit_soft_cap: float | None = None
    scale_embeddings: bool = False
    embedding_norm: bool = False
    num_token_types: int = 0
    num_task_types: int = 0
    num_encoder_layers: int | None = None
    source_vocab_size: int | None = None
    decoder_start_id: int | None = None
    forced_bos_id: int | None = None

    def __post_init__(self):
        sizes = ("vocab_size", "num_layers", "d_model", "num_heads", "dff", "max_length")
        optional = ("num_encoder_layers", "source_vocab_size")
        check_sizes(**{name: getattr(self, name) for name in sizes})
        check_sizes(**{name: getattr(self, name) for name in optional if getattr(self, name) is not None})
        check_heads(self.d_model, self.num_heads, self.num_kv_heads, self.head_dim)
        self._check_layers()
        check_attention(self.qk_norm, self.attention_scale, self.attention_soft_cap)
        check_norms(self.norm, self.norm_placement, self.parallel)
        check_remat(self.remat)
        get_activation(self.activation)
        for name in ("dropout", "attention_dropout"):
            if not 0 <= (getattr(self, name) or 0) < 1:
                raise ValueError(f"`{name}` must be at least 0 and less than 1, got {getattr(self, name)!r}.")
        check_positive(logit_soft_cap=self.logit_soft_cap)
        for name in ("decoder_start_id", "forced_bos_id"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < self.vocab_size:
                raise ValueError(f"`{name}` must be an id below {self.vocab_size}, got {getattr(self, name)!r}.")
        if self.parallel and self.num_encoder_layers:
            raise ValueError("A parallel block has no cross-attention; use parallel=False with an encoder.")

    def _check_layers(self):
        """Checks what may differ from layer to layer, and keeps it in one form: a tuple, or a value for all."""
        by_layer = split_by_layer({name: getattr(self, name) for name in PER_LAYER}, self.num_layers)
        for options in by_layer:
            check_positions(self.positions, self.max_length, self._head_dim, **options)
        for name in PER_LAYER:
            object.__setattr__(self, name, join_layers([options[name] for options in by_layer]))
            if is_per_layer(getattr(self, name)) and self.num_encoder_layers:
                raise ValueError(f"`{name}` must be the same in all layers of a model with an encoder.")
        kinds = {(scaling or {}).get("rope_type") for scaling in self.by_layer("rope_scaling")}
        if self.num_encoder_layers and not kinds.isdisjoint(LENGTH_DEPENDENT):
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
        missing = [name for name in known[:5] if name not in fields]
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

    def block_options(self):
        """Keyword arguments for `layers.Transformer`, besides its four numbers."""
        names = (
            "max_length", "num_kv_heads", "head_dim", "positions", *PER_LAYER, "qk_norm", "qkv_bias", "attention_scale",
            "attention_soft_cap", "norm", "norm_placement", "norm_epsilon", "norm_scale", "parallel", "shared_norm",
            "remat", "activation", "gated", "use_bias", "attention_bias", "dropout", "attention_dropout",
        )  # fmt: skip
        return {"input_norm": self.embedding_norm, **{name: getattr(self, name) for name in names}}

    @property
    def _head_dim(self):
        return self.head_dim or self.d_model // self.num_heads

    def num_parameters(self, embeddings=True):
        """The number of weights of a `CausalLM`, or with `num_encoder_layers` of a `Seq2SeqLM`, counted by formula.

        Args:
            embeddings: bool. False leaves out token and position tables, but not an untied output layer, which
                multiplies like any other matrix.
        """
        D, F, h, H = self.d_model, self.dff, self._head_dim, self.num_heads
        K = self.num_kv_heads or H
        bias = int(self.use_bias)
        attention_bias = bias if self.attention_bias is None else int(self.attention_bias)
        qkv_bias = attention_bias if self.qkv_bias is None else int(self.qkv_bias)
        norm = D * (self.norm_scale + (self.norm == "layer" and self.use_bias))
        sublayer_norms = norm * (2 if self.norm_placement == "sandwich" else 1)
        qk_norm = h * self.norm_scale * ((H + K) if self.qk_norm == "full" else 2 * bool(self.qk_norm))
        attention = (D + qkv_bias) * (H + 2 * K) * h + (H * h + attention_bias) * D + qk_norm
        feed_forward = (D + bias) * F * (2 if self.gated else 1) + (F + bias) * D
        block = attention + feed_forward + sublayer_norms * (1 if self.parallel and self.shared_norm else 2)
        stacks = 1 + bool(self.num_encoder_layers)
        total = (self.num_layers + (self.num_encoder_layers or 0)) * block
        total += stacks * norm * ((self.norm_placement != "post") + self.embedding_norm)
        total += ((not self.tie_embeddings) * D + self.output_bias) * self.vocab_size
        if self.num_encoder_layers:
            total += self.num_layers * (attention + sublayer_norms)
        if embeddings:
            total += (self.vocab_size + (self.source_vocab_size or 0)) * D
            total += stacks * D * self.max_length * (self.positions == "learned")
            total += stacks * 32 * H * (self.positions == "relative")
        return total

    def flops_per_token(self, context=None):
        """Floating-point operations to train on one token, forward and backward: 6 N + 12 L H h T.

        N leaves out embeddings, for looking up is free. The second term is attention over the whole square of T x T,
        as PaLM's appendix B counts (https://arxiv.org/abs/2204.02311).

        Args:
            context: int, tokens in a window; None means `max_length`.
        """
        attention = 12 * self.num_layers * self.num_heads * self._head_dim * (context or self.max_length)
        return 6 * self.num_parameters(embeddings=False) + attention

    def memory_bytes(self, batch_size, context=None, bytes_per_activation=4):
        """An estimate of the memory that training takes: weights, gradients, Adam's two moments, activations.

        Activations are counted as what the backward pass needs of each block: about 10 tensors of width D, 3 of the
        feed-forward's width and 3 of the attention scores; then logits, their softmax and its gradient in float32.

        Args:
            batch_size: int, rows in a batch.
            context: int, tokens in a row; None means `max_length`.
            bytes_per_activation: 4 in float32, 2 in mixed precision.
        """
        T = context or self.max_length
        widths = 10 * self.d_model + 3 * self.dff * (2 if self.gated else 1) + 3 * self.num_heads * T
        activations = batch_size * T * self.num_layers * widths * bytes_per_activation
        logits = 3 * batch_size * T * self.vocab_size * 4
        return 16 * self.num_parameters() + activations + logits
