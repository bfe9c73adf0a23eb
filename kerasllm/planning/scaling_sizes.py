"""Models of one kind in many sizes, for small runs that tell of larger ones."""

import dataclasses
from typing import Any

from kerasllm.models.memory import TrainingMemory
from kerasllm.planning.counting import flops_of_step

WIDTHS = (
    *range(64, 256, 32),
    *range(256, 512, 64),
    *range(512, 1024, 128),
    *range(1024, 2048, 256),
    *range(2048, 8193, 512),
)
_NARROW_HEAD, _FEWEST_HEADS, _FEWEST_LAYERS = 32, 4, 2


@dataclasses.dataclass(frozen=True)
class ModelShape:
    """A model of a size, and what a step of its training computes.

    Args:
        config: TransformerConfig.
        batch_size: int, rows of a batch, each as long as the config's `max_length`.
    """

    config: Any
    batch_size: int

    @property
    def parameters(self):
        """int, all weights: those of embeddings too, as in Hoffmann et al. 2022."""
        return self.config.num_parameters()

    @property
    def tokens_per_step(self):
        return self.batch_size * self.config.max_length

    @property
    def flops_per_step(self):
        """float, of products, as `plan` counts them."""
        return flops_of_step(TrainingMemory(self.config, self.batch_size))

    def steps_within(self, flops):
        """int, of how many steps so many FLOPs are enough."""
        return int(flops / self.flops_per_step)


def scaling_shapes(config, batch_size):
    """Models like one, from narrow to wide: as deep and as wide inside for their width, with heads of its width.

    Args:
        config: TransformerConfig, of a model without an encoder whose layers are alike.
        batch_size: int, rows of a batch.

    Returns:
        A list of `ModelShape`, the smallest first.

    Raises:
        ValueError: for a model whose layers differ.

    Example:
        >>> config = kerasllm.models.TransformerConfig.preset("gpt2", max_length=128)
        >>> shapes = kerasllm.planning.scaling_shapes(config, batch_size=16)
        >>> [shape.config.num_layers for shape in shapes if shape.config.d_model in (64, 768, 1024)]
        [2, 12, 16]
    """
    if config.num_encoder_layers or len(set(config.options_by_layer())) > 1 or config.num_layer_groups:
        raise ValueError(
            "Sizes are made of a model without an encoder whose layers are alike, and this one is another."
        )
    width_of_layer, inside = config.d_model / config.num_layers, config.dff / config.d_model
    head = config.head_dim or config.d_model // config.num_heads
    per_group = config.num_kv_heads and config.num_heads // config.num_kv_heads
    found = []
    for width in WIDTHS:
        of_head = head if width % head == 0 and width // head >= _FEWEST_HEADS else _NARROW_HEAD
        heads = width // of_head
        sizes = {
            "d_model": width,
            "num_layers": max(round(width / width_of_layer), _FEWEST_LAYERS),
            "num_heads": heads,
            "num_kv_heads": per_group and (heads // per_group if heads % per_group == 0 else 1),
            "head_dim": None,
            "dff": max(round(inside * width / _NARROW_HEAD), 1) * _NARROW_HEAD,
        }
        found.append(ModelShape(dataclasses.replace(config, **sizes), batch_size))
    return found
