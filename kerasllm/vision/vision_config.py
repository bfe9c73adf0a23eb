"""One frozen description of an encoder of pictures."""

import dataclasses

from kerasllm.layers.block_options import BlockOptions
from kerasllm.layers.option_names import OUR_NAMES
from kerasllm.layers.options import check_choice, check_sizes
from kerasllm.words import advice, explain_keywords

POOLINGS = ("mean", "first", "attention", None)


@dataclasses.dataclass(frozen=True)
class PlainConfig:
    """A config that is made of plain data and turns into it: the base of those of pictures."""

    @classmethod
    def from_dict(cls, fields):
        """The config from a dict of its fields, as `to_dict` returns it, or as it is.

        Raises:
            ValueError: if a field is unknown, or one is missing.
        """
        if isinstance(fields, cls):
            return fields
        known = [field.name for field in dataclasses.fields(cls)]
        for name in fields:
            if name not in known:
                instead = advice(name, known, OUR_NAMES) or f". The fields are {', '.join(known)}."
                raise ValueError(f"Unknown {cls.__name__} field {name}{instead}")
        needed = [field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING]
        if missing := [name for name in needed if name not in fields]:
            raise ValueError(f"{cls.__name__} needs {', '.join(missing)} too.")
        return cls(**fields)

    def to_dict(self):
        """All fields, as plain JSON types."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class _Sizes(PlainConfig):
    """What a config may be given without names, in this order."""

    image_size: int
    patch_size: int
    num_layers: int
    d_model: int
    num_heads: int
    dff: int


@explain_keywords(OUR_NAMES)
@dataclasses.dataclass(frozen=True)
class VisionConfig(BlockOptions, _Sizes):
    """The architecture of a `VisionTransformer`. Validated when made; every field is plain data.

    Args:
        image_size: int, height and width in pixels of the pictures that positions are learned for.
        patch_size: int, height and width of a patch. What is left at the right and below is not seen.
        num_layers: int, number of blocks.
        d_model: int, width of a patch's vector.
        num_heads: int, query heads.
        dff: int, inner width of the feed-forward layers.
        positions: "learned", one vector for each patch, in between which those of pictures of other sizes lie; or None.
        activation, norm_epsilon, use_bias, dropout and so on: the options of layers, see `layers.BlockOptions`.
        channels: int, of a pixel.
        class_token: bool. A vector of its own stands before the patches, as in the first Vision Transformer and CLIP.
        patch_bias: bool. The projection of patches has a bias; CLIP's has none.
        input_norm: bool. Normalise the vectors that enter the first block, as CLIP does.
        final_norm: bool. Normalise those that leave the last. False for a language model that reads an inner layer, as
            LLaVA's does: `num_layers` are then those up to there.
        pooling: what stands for the whole picture: the "mean" of the patches, the "first" vector, as in CLIP, an
            "attention" over all of them, as in SigLIP; or None where nothing does.

    Raises:
        ValueError: if the numbers do not fit together.

    Example:
        >>> config = kerasllm.vision.VisionConfig(32, 4, num_layers=2, d_model=64, num_heads=4, dff=256)
        >>> config.num_patches
        64

    Reference: Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929; CLIP, Radford et al. 2021,
    https://arxiv.org/abs/2103.00020; SigLIP, Zhai et al. 2023, https://arxiv.org/abs/2303.15343
    """

    positions: str | None = "learned"
    norm_epsilon: float = 1e-6
    channels: int = 3
    class_token: bool = False
    patch_bias: bool = True
    input_norm: bool = False
    final_norm: bool = True
    pooling: str | None = "mean"

    def __post_init__(self):
        sizes = [field.name for field in dataclasses.fields(_Sizes)]
        check_sizes(**{name: getattr(self, name) for name in (*sizes, "channels")})
        check_choice("positions", self.positions, ("learned", None))
        check_choice("pooling", self.pooling, POOLINGS)
        if self.patch_size > self.image_size:
            raise ValueError(f"Patches of {self.patch_size} pixels do not fit an image_size of {self.image_size}.")
        BlockOptions(**{**BlockOptions.of(self), "positions": None}).check(self.d_model, self.num_heads)

    @property
    def grid(self):
        """int, patches in a row, and in a column."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self):
        """int, patches of a picture."""
        return self.grid**2

    def num_parameters(self):
        """The number of weights of a `VisionTransformer`, counted by formula."""
        D, H, F = self.d_model, self.num_heads, self.dff
        block = self.block_parameters(D, H, F)
        norm = self.norm_parameters(D, self.use_bias)
        patches = self.patch_size**2 * self.channels * D + self.patch_bias * D + self.class_token * D
        positions = (self.num_patches + self.class_token) * D if self.positions else 0
        pooling = 0
        if self.pooling == "attention":
            pooling = D + 4 * D * (D + 1) + norm + (D + self.use_bias) * F + (F + self.use_bias) * D
        norms = (self.input_norm + self.final_norm) * norm
        return patches + positions + self.num_layers * block + norms + pooling
