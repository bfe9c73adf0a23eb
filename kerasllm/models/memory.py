"""What training a model takes of memory, counted from its config: by part, at the moment when it is most.

Counted is what the training step of `training.TokenModel` holds: see `layers.BlockOptions.block_kept` for the blocks.
Letters: L layers, D d_model, V vocab, N weights.
"""

import dataclasses
import functools

from kerasllm.layers.options import check_choice, check_sizes
from kerasllm.training.policies import POLICIES

FLOAT = 4  # bytes
OPTIMIZERS = ("adamw", "muon")
PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "workspace")


@dataclasses.dataclass(frozen=True)
class TrainingMemory:
    """How a model is trained, as far as memory depends on it.

    Args:
        config: TransformerConfig, of a model without an encoder.
        batch_size: int, rows in a batch.
        context: int, tokens in a row; None means `max_length`.
        causal: bool. False for a `MaskedLM`.
        precision: str, the dtype policy, one of `training.policies.POLICIES`.
        loss_chunk: int or None, the `chunk_size` of the loss.
        micro_batches: int, parts that a step takes its batch in.
        optimizer: str, "adamw" or "muon".
        average: bool, whether the optimizer keeps an average of the weights too.
        adapter_rank: int or None, the rank of low-rank adapters on all inner layers, which alone are trained then.
        evaluates: bool, whether whole batches are measured too, as in validation: those are not taken in parts.
        kernel_bytes: float, bytes of a number in the kernels of inner layers: less where they are quantised.

    Raises:
        ValueError: if a value is not possible.
    """

    config: object
    batch_size: int
    context: int | None = None
    causal: bool = True
    precision: str = "float32"
    loss_chunk: int | None = None
    micro_batches: int = 1
    optimizer: str = "adamw"
    average: bool = False
    adapter_rank: int | None = None
    evaluates: bool = False
    kernel_bytes: float = FLOAT

    def __post_init__(self):
        context = self.context or self.config.max_length
        object.__setattr__(self, "context", context)
        check_sizes(batch_size=self.batch_size, context=context, micro_batches=self.micro_batches)
        for name in ("loss_chunk", "adapter_rank"):
            if getattr(self, name) is not None:
                check_sizes(**{name: getattr(self, name)})
        check_choice("precision", self.precision, POLICIES)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        if self.config.num_encoder_layers:
            raise ValueError("Memory is counted of models without an encoder, and this config has one.")
        if context > self.config.max_length:
            raise ValueError(f"`context` ({context}) is more than the {self.config.max_length} tokens of `max_length`.")

    @functools.cached_property
    def layers(self):
        """The `layers.BlockOptions` of each layer."""
        return self.config.options_by_layer()

    def by_part(self):
        """A dict of bytes by `PARTS`, at the moment of a step when their sum is highest."""
        return max(self._moments(), key=lambda parts: sum(parts.values()))

    @property
    def numbers_trained(self):
        """int, the weights that are trained."""
        return self.config.num_parameters() if self.adapter_rank is None else self._adapter_parameters

    @property
    def kept_bytes(self):
        """float, bytes of activations that a step keeps, those of all its micro-batches."""
        return sum(self._activations()[0]) * self.micro_batches

    def _moments(self):
        """The same at each of the moments that may be the one: when logits are there, when the gradient of a block is
        made, from the last to the first, when weights are updated, and when there are logits of a whole batch."""
        layers, (kept, under_way) = self.layers, self._activations()
        table = 0 if self.adapter_rank else self.config.vocab_size * self.config.embedding_width * FLOAT
        trained = self.numbers_trained * FLOAT
        of_block = (trained - table * self._tables) / len(layers)
        copies = 0 if self.precision in ("float32", "bfloat16") else 2 * self._float_parameters
        # Loops over micro-batches and chunks add to sums, and TensorFlow keeps the zeros that these begin with.
        sums = trained if self.micro_batches > 1 else 0
        zeros = sums + (table if self.loss_chunk else 0)
        # Weights that are not trained are there twice once TensorFlow trains others beside them, as was seen.
        zeros += self.weight_bytes() - trained if self.adapter_rank else 0
        logits, by_table = self._logits(table)
        yield self._moment(max(sums, by_table), sum(kept), logits, copies + zeros)
        for i in reversed(range(len(layers))):
            made = table + of_block * (len(layers) - 1 - i)
            yield self._moment(max(sums, made), sum(kept[: i + 2]), 0, copies + zeros + under_way[i])
        # The gradient of an embedding comes as rows, whose sums make a table; what is clipped is a copy.
        yield self._moment(trained, 0, 0, zeros + max(table, of_block))
        if self.evaluates and self.loss_chunk is None:
            yield self._moment(
                0, 0, 2 * self.batch_size * self.context * self.config.vocab_size * FLOAT, copies + zeros
            )

    def _moment(self, gradients, activations, logits, workspace):
        numbers = (self.weight_bytes(), gradients, self._optimizer_bytes(), activations, logits, workspace)
        return {name: round(number) for name, number in zip(PARTS, numbers, strict=True)}

    @property
    def tokens_at_once(self):
        """int, tokens that are computed at once: of a micro-batch."""
        return -(-self.batch_size // self.micro_batches) * self.context

    @property
    def _number_bytes(self):
        return FLOAT if self.precision == "float32" else 2

    def _activations(self):
        """Bytes that are kept of the embedding, of each block, and of what stands before the output layer; and those
        that each block needs besides while its gradient is made."""
        config, size = self.config, self._number_bytes
        D, H = config.d_model, config.num_heads
        of_blocks = [
            options.block_kept(config.d_model, config.num_heads, config.dff, self.context, self.causal, size)
            for options in self.layers
        ]
        first = self.layers[0]
        if self.adapter_rank and size < FLOAT:  # adapters compute in float32, and keep what they read
            of_blocks = [
                (kept, more + read) if options.remat == "block" else (kept + read, more)
                for options, (kept, more) in zip(self.layers, of_blocks, strict=True)
                for read in [FLOAT / size * (2 * D + H * (options.head_dim or D // H) + config.dff)]
            ]
        embedded = config.d_model * (1 + config.embedding_norm + bool(first.dropout) / size)
        kept = [embedded, *(kept for kept, _ in of_blocks), config.d_model]
        return [each * self.tokens_at_once * size for each in kept], [
            each * self.tokens_at_once * size for _, each in of_blocks
        ]

    def _logits(self, table):
        """Bytes of logits and what their gradient is made of, and of the gradient by the table that makes them."""
        V = self.config.vocab_size
        if self.loss_chunk is None:
            return 2 * self.tokens_at_once * V * FLOAT, 0
        chunk = min(self.loss_chunk, self.tokens_at_once) * V * FLOAT
        # A product is added to the sum of those of the chunks before, beside one tensor of logits.
        return chunk + max(chunk, table), table

    @property
    def _tables(self):
        """How many tables as large as the vocabulary are trained."""
        return 1 if self.config.tie_embeddings else 2

    def weight_bytes(self):
        """float, bytes of weights."""
        size = 2 if self.precision == "bfloat16" else FLOAT
        adapters = self._adapter_parameters * FLOAT if self.adapter_rank else 0
        inner = self._inner_parameters
        return (self.config.num_parameters() - inner) * size + inner * min(size, self.kernel_bytes) + adapters

    @property
    def _inner_parameters(self):
        sizes = self.config.d_model, self.config.num_heads, self.config.dff
        return sum(options.block_parameters(*sizes) for options in self.layers)

    @property
    def _float_parameters(self):
        """Weights that are floats: of kernels in fewer bits, floats are made of some outputs at a time."""
        return self.config.num_parameters() - self._inner_parameters * (self.kernel_bytes < 2)

    def _optimizer_bytes(self):
        trained = self.numbers_trained
        velocities = trained
        if self.optimizer == "muon":
            velocities = self.config.vocab_size * self.config.embedding_width * self._tables
        return (trained + velocities + self.average * trained) * FLOAT

    @property
    def _adapter_parameters(self):
        return self.adapter_rank * sum(
            options.linear_widths(self.config.d_model, self.config.num_heads, self.config.dff)
            for options in self.layers
        )
