"""Into what an image is cut besides being seen whole."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tiling:
    """An image cut into tiles, and seen whole besides, as Idefics3 and SmolVLM do.

    Attributes:
        longest_edge: int, what the image's longest edge is made first.
        split: bool. False: the image is seen whole alone, as SmolVLM sees frames of videos.
    """

    longest_edge: int
    split: bool = True


@dataclass(frozen=True)
class PanAndScan:
    """Crops of long images besides the whole, as Gemma 3 does.

    Attributes:
        min_crop_size: int, the shortest edge of a crop in pixels.
        max_crops: int.
        min_ratio: float, of the longest edge to the shortest, from which on there are crops.
    """

    min_crop_size: int = 256
    max_crops: int = 4
    min_ratio: float = 1.2
