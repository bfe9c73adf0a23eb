"""The Transformer in Keras layers: from masks and positions up to the whole stack."""

from kerasllm.layers.attention import MultiHeadAttention
from kerasllm.layers.attention_options import AttentionOptions
from kerasllm.layers.block import TransformerBlock
from kerasllm.layers.block_options import BlockOptions
from kerasllm.layers.disentangled import DistanceEmbedding
from kerasllm.layers.experts import ExpertOptions, MixtureOfExperts
from kerasllm.layers.feed_forward import FeedForward, FeedForwardOptions
from kerasllm.layers.low_rank import LowRank  # noqa: F401  (these for Keras, which finds them by name)
from kerasllm.layers.low_rank_tables import LowRankTables  # noqa: F401
from kerasllm.layers.named_adapters import NamedAdapters  # noqa: F401
from kerasllm.layers.normalization import NormOptions
from kerasllm.layers.positions import LearnedPositions, PositionOptions, RelativePositionBias, SinusoidalPositions
from kerasllm.layers.transformer import Transformer

__all__ = [
    "AttentionOptions",
    "BlockOptions",
    "DistanceEmbedding",
    "ExpertOptions",
    "FeedForward",
    "FeedForwardOptions",
    "LearnedPositions",
    "MixtureOfExperts",
    "MultiHeadAttention",
    "NormOptions",
    "PositionOptions",
    "RelativePositionBias",
    "SinusoidalPositions",
    "Transformer",
    "TransformerBlock",
]
