"""The Transformer in Keras layers: from masks and positions up to the whole stack."""

from kerasllm.layers.attention import MultiHeadAttention
from kerasllm.layers.block import TransformerBlock
from kerasllm.layers.feed_forward import FeedForward
from kerasllm.layers.positions import LearnedPositions, RelativePositionBias, SinusoidalPositions
from kerasllm.layers.transformer import Transformer

__all__ = [
    "FeedForward",
    "LearnedPositions",
    "MultiHeadAttention",
    "RelativePositionBias",
    "SinusoidalPositions",
    "Transformer",
    "TransformerBlock",
]
