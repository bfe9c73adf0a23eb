"""DeBERTa's disentangled attention (He et al. 2020, https://arxiv.org/abs/2006.03654, section 3): beside what a query
gives a key, what it gives the distance between them, and what the distance gives the key.

Shapes: B batch, T time, D d_model, H heads, h head_dim.
"""

import keras
import numpy as np
from keras import ops

from kerasllm import backend


@keras.saving.register_keras_serializable("kerasllm")
class DistanceEmbedding(keras.layers.Layer):
    """A trained vector for each bucket of distance, which queries and keys are made of as of tokens.

    Half of the buckets on each side are of one distance, others of logarithmically more.

    Args:
        output_dim: int, D.
        position_buckets: int, on each side.
        max_distance: int, from where on all distances share the last bucket.

    Call arguments:
        distances: int (N,), of a query from a key: its place less that of the key.

    Returns:
        float (N, D).

    Reference: He et al. 2021, DeBERTaV3, https://arxiv.org/abs/2111.09543, whose published models have such buckets.
    """

    def __init__(self, output_dim, position_buckets, max_distance, **kwargs):
        super().__init__(**kwargs)
        self.output_dim = output_dim
        self.position_buckets = position_buckets
        self.max_distance = max_distance
        self._rows = _rows(position_buckets, max_distance)

    def build(self, *_):
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(2 * self.position_buckets, self.output_dim),
            initializer=keras.initializers.RandomNormal(0.02),
        )

    def call(self, distances):
        longest = len(self._rows) // 2
        rows = ops.take(self._rows, ops.clip(distances, -longest, longest) + longest)
        return ops.take(ops.convert_to_tensor(self.embeddings), rows, axis=0)

    def compute_output_shape(self, distances_shape):
        return (*distances_shape, self.output_dim)

    def get_config(self):
        names = ("output_dim", "position_buckets", "max_distance")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _rows(position_buckets, max_distance):
    """The row of the table for each distance from -n to n, beyond which all are in the last buckets."""
    distance, middle = np.arange(max(max_distance, position_buckets) + 1), position_buckets // 2
    with np.errstate(divide="ignore", invalid="ignore"):  # where all distances have a bucket of their own
        share = np.log(np.maximum(distance, middle) / middle) / np.log((max_distance - 1) / middle)
    bucket = np.where(distance <= middle, distance, np.nan_to_num(middle + np.ceil(share * (middle - 1))))
    bucket = np.clip(bucket, 0, position_buckets).astype("int32")
    behind = np.minimum(bucket, position_buckets - 1)  # There is no row for the last of these.
    return np.concatenate([position_buckets - bucket[:0:-1], position_buckets + behind])


def check_blocks(blocks):
    """Refuses blocks whose attention is not of this kind."""
    for attention in (block.attention for block in blocks):
        if attention.causal:
            raise ValueError("Disentangled positions are those of encoders: give causal=False, or other positions.")
        if attention.num_kv_heads != attention.num_heads:
            raise ValueError(
                f"Disentangled positions need a key head for each query head, got {attention.num_kv_heads} for "
                f"{attention.num_heads}."
            )


def distance_scores(query, key, of_query, of_key):
    """What queries give distances from keys, and what the distances give the keys.

    Args:
        query: float (B, H, T, h), scaled.
        key: float (B, H, T, h).
        of_query, of_key: float (1, H, 2 T + 1, h), the same of the distances T, T - 1 … -T.

    Returns:
        float (B, H, T, T), for the scores of queries and keys.
    """
    by_query = _at_distances(backend.matmul(query, of_key, transpose_y=True))
    by_key = _at_distances(backend.matmul(key, ops.flip(of_query, axis=2), transpose_y=True))
    return by_query + ops.swapaxes(by_key, 2, 3)


def _at_distances(x):
    """Of (B, H, T, 2 T + 1), columns T - t to 2 T - t - 1 of each row t: (B, H, T, T).

    Each row begins one place earlier than the one before, as in rows that are one place shorter.
    """
    B, H, T, _ = ops.shape(x)
    rows = ops.reshape(x, (B, H, T * (2 * T + 1)))[:, :, T:]
    return ops.reshape(rows, (B, H, T, 2 * T))[..., :T]
