"""How a Transformer knows the order of tokens: learned, sinusoidal and relative positions (rotary ones: `rotary.py`).

Shapes: B batch, H heads, T query time, S key time, D d_model.
"""

import dataclasses
import math

import keras
from keras import ops

from kerasllm.layers.options import Options, check_choice, check_sizes
from kerasllm.layers.rotary import check_rotation

POSITIONS = (
    *("rotary", "learned", "sinusoidal", "fairseq_sinusoidal"),
    *("relative", "learned_relative", "disentangled", None),
)
LEARNED, BIASED = ("learned", "learned_relative"), ("relative", "learned_relative")
NUM_BUCKETS = 32  # of relative positions


@dataclasses.dataclass(frozen=True, kw_only=True)
class PositionOptions(Options):
    """How tokens know their places.

    Args:
        positions: "rotary", in the attention of each block; "learned", "sinusoidal" or "fairseq_sinusoidal"
            (M2M-100's), added to the input of a `Transformer`; "relative", one T5-style bias shared by all its blocks;
            "learned_relative", both of these, as in MPNet (https://arxiv.org/abs/2004.09297); "disentangled",
            DeBERTa's (https://arxiv.org/abs/2006.03654), of whose distances queries and keys are made as of tokens, in
            encoders, with an `attention_scale` of (3 * head_dim) ** -0.5 there as three products are added; or None.
        max_length: int or None, the longest sequence, from where on disentangled distances share the last bucket;
            needed for learned and disentangled positions only.
        position_buckets: int, into how many buckets disentangled distances fall on each side, half of them by one.
        rope_theta: float, base of the rotary wavelengths.
        partial_rotary_factor: float from 0 to 1, the share of each head's channels, from the first on, that rotary
            positions rotate, as in GPT-NeoX (https://arxiv.org/abs/2204.06745).
        rope_scaling: dict or None. Scales rotary positions for longer contexts than those of the training, as Hugging
            Face configs say it: {"rope_type": "linear", "factor": 2.0}, or "dynamic", "yarn", "longrope", "llama3" or
            "proportional" with their numbers. The angles of "dynamic" and "longrope" depend on the length of the
            text, the largest position + 1 of its tokens that `mask` does not hide; each row is a text, and with
            `document_ids` each document. A cache keeps keys turned as they were when it was written: where these
            angles change (`Rotation.changes_at`), it has to be filled anew for what a call without it gives.
    """

    positions: str | None = "rotary"
    max_length: int | None = None
    position_buckets: int = 256
    rope_theta: float = 10000.0
    partial_rotary_factor: float = 1.0
    rope_scaling: dict | None = None

    def check(self, d_model=None, num_heads=None):
        super().check(d_model, num_heads)
        check_choice("positions", self.positions, POSITIONS)
        if self.positions in LEARNED and self.max_length is None:
            raise ValueError("Learned positions need `max_length`, the longest sequence to make a table for.")
        if self.positions == "disentangled":
            check_sizes(position_buckets=self.position_buckets, max_length=self.max_length)
        check_rotation(self.rope_theta, self.rope_scaling)

    def position_parameters(self, d_model, num_heads, embedding_size):
        """The number of weights of positions outside the blocks."""
        of_table = embedding_size * self.max_length if self.positions in LEARNED else 0
        of_distances = 2 * self.position_buckets * d_model if self.positions == "disentangled" else 0
        return of_table + of_distances + (NUM_BUCKETS * num_heads if self.positions in BIASED else 0)


def input_positions(positions, max_length, name="position_embedding", dtype=None):
    """The layer that adds positions to embeddings, or None for a kind that acts inside attention."""
    if positions in LEARNED:
        return LearnedPositions(max_length, name=name, dtype=dtype)
    if positions == "sinusoidal":
        return SinusoidalPositions(name=name, dtype=dtype)
    if positions == "fairseq_sinusoidal":
        return SinusoidalPositions(first=2, to_the_longest=True, name=name, dtype=dtype)
    return None


def positions_in_documents(document_ids):
    """Positions that restart at 0 where a new document begins.

    Args:
        document_ids: int (B, T).

    Returns:
        int32 (B, T). `[[1, 1, 2, 2, 2]]` gives `[[0, 1, 0, 1, 2]]`.
    """
    T = ops.shape(document_ids)[1]
    index = ops.arange(T, dtype="int32")
    begins = ops.pad(document_ids[:, 1:] != document_ids[:, :-1], ((0, 0), (1, 0)))
    begins = ops.where(begins, index, 0)
    if isinstance(T, int):
        last_begin = ops.associative_scan(ops.maximum, begins, axis=1)
    else:  # which the scan would have to know when the graph is made
        last_begin = ops.max(ops.where(index[:, None] >= index, begins[:, None, :], 0), axis=-1)
    return index - ops.reshape(last_begin, (-1, T))


@keras.saving.register_keras_serializable("kerasllm")
class LearnedPositions(keras.layers.Layer):
    """Adds a trained vector for each position, as GPT-2 and BERT do.

    Args:
        max_length: int, the number of positions.

    Call arguments:
        x: float (B, T, D).
        position_ids: int (T,) or (B, T); 0, 1, 2 … when absent.

    Returns:
        float (B, T, D).
    """

    def __init__(self, max_length, **kwargs):
        super().__init__(**kwargs)
        self.max_length = max_length
        self.supports_masking = True

    def build(self, x_shape):
        self.embeddings = self.add_weight(
            name="embeddings", shape=(self.max_length, x_shape[-1]), initializer=keras.initializers.RandomNormal(0.02)
        )

    def call(self, x, position_ids=None):
        length = x.shape[1]
        if length is not None and length > self.max_length:
            raise ValueError(
                f"A sequence of {length} tokens is longer than the {self.max_length} learned positions. Shorten it, "
                f"or make the model with a larger `max_length`."
            )
        table = ops.convert_to_tensor(self.embeddings)
        if position_ids is None:
            return x + table[: ops.shape(x)[1]]
        return x + ops.take(table, position_ids, axis=0)

    def compute_output_shape(self, x_shape):
        return x_shape

    def get_config(self):
        return {**super().get_config(), "max_length": self.max_length}


@keras.saving.register_keras_serializable("kerasllm")
class SinusoidalPositions(keras.layers.Layer):
    """Adds sines and cosines of the position at D/2 wavelengths, from 2π up to almost 20,000π.

    Args:
        first: int, what position 0 counts as. fairseq counts from 2.
        to_the_longest: bool. The longest wavelength is 20,000π itself, as in tensor2tensor and fairseq.

    Call arguments:
        x: float (B, T, D), D even.
        position_ids: int (T,) or (B, T); 0, 1, 2 … when absent.

    Returns:
        float (B, T, D).

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.5. Sines fill the first half and
    cosines the second, which is the paper's layout up to an order of the channels.
    """

    def __init__(self, first=0, to_the_longest=False, **kwargs):
        super().__init__(**kwargs)
        self.first = first
        self.to_the_longest = to_the_longest
        self.supports_masking = True

    def build(self, x_shape):
        if x_shape[-1] % 2:
            raise ValueError(f"Sinusoidal positions need an even width, half for sines, got {x_shape[-1]}.")

    def call(self, x, position_ids=None):
        if position_ids is None:
            position_ids = ops.arange(ops.shape(x)[1], dtype="int32")
        half = x.shape[-1] // 2
        frequencies = 10000.0 ** (-ops.arange(half, dtype="float32") / (half - self.to_the_longest))
        angles = ops.cast(position_ids + self.first, "float32")[..., None] * frequencies
        return x + ops.cast(ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1), x.dtype)

    def compute_output_shape(self, x_shape):
        return x_shape

    def get_config(self):
        return {**super().get_config(), "first": self.first, "to_the_longest": self.to_the_longest}


@keras.saving.register_keras_serializable("kerasllm")
class RelativePositionBias(keras.layers.Layer):
    """A trained number for each head and bucket of distance, added to attention scores.

    Near distances have a bucket each, far ones share logarithmically wider ones.

    Args:
        num_heads: int.
        causal: bool. If False, half of the buckets are for keys after the query.
        num_buckets: int.
        max_distance: int, from where on all distances share the last bucket.

    Call arguments:
        query_index: int (T,).
        key_index: int (S,).

    Returns:
        float (1, H, T, S).

    Reference: T5, Raffel et al. 2020, https://arxiv.org/abs/1910.10683, section 2.1.
    """

    def __init__(self, num_heads, causal=True, num_buckets=NUM_BUCKETS, max_distance=128, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.causal = causal
        self.num_buckets = num_buckets
        self.max_distance = max_distance

    def build(self, *_):
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.num_buckets, self.num_heads),
            initializer=keras.initializers.RandomNormal(0.02),
        )

    def call(self, query_index, key_index):
        buckets = self._bucket(ops.cast(query_index[:, None] - key_index[None, :], "int32"))
        bias = ops.cast(ops.take(self.embeddings, buckets, axis=0), self.compute_dtype)
        return ops.transpose(bias, (2, 0, 1))[None]

    def _bucket(self, distance):
        buckets, offset = self.num_buckets, 0
        if not self.causal:
            buckets //= 2
            offset = ops.where(distance < 0, buckets, 0)
            distance = ops.abs(distance)
        distance = ops.maximum(distance, 0)
        exact = buckets // 2
        ratio = ops.log(ops.cast(ops.maximum(distance, 1), "float32") / exact) / math.log(self.max_distance / exact)
        far = exact + ops.cast(ratio * (buckets - exact), "int32")
        return offset + ops.where(distance < exact, distance, ops.minimum(far, buckets - 1))

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "causal": self.causal,
            "num_buckets": self.num_buckets,
            "max_distance": self.max_distance,
        }
