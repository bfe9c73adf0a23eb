"""What stands for an image in a text: as many image tokens as the model makes of it, and what its family puts around
them."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_TILE_BEGIN, _GLOBAL = "<fake_token_around_image>", "<global-img>"


@dataclass(frozen=True)
class ImageTokens:
    """The text that stands for an image, whose special tokens a model was trained with.

    Attributes:
        count: int, how many image tokens there are for each image, tile or crop: 256 for Gemma 3's, 576 for LLaVA 1.5's
            of 336 pixels, 64 for SmolVLM2's.
        token: str, the image token, which the model's `image_token_id` is the id of.
        style: "plain", image tokens alone, as LLaVA and PaliGemma have it; "tiles", as Idefics3 and SmolVLM do, which
            name the row and column of each tile; or "crops", as Gemma 3.

    Raises:
        ValueError: for a count below 1, an empty token or an unknown style.

    Example:

    >>> ImageTokens(3).text()
    '<image><image><image>'
    """

    count: int
    token: str = "<image>"
    style: str = "plain"

    def __post_init__(self):
        if not isinstance(self.count, int) or self.count < 1:
            raise ValueError(f"count is how many tokens stand for an image, at least 1, got {self.count!r}.")
        if not self.token or not isinstance(self.token, str):
            raise ValueError(f"token is the text of the image token, got {self.token!r}.")
        if self.style not in _STYLES:
            raise ValueError(f"style={self.style!r} is not possible; choose one of {', '.join(_STYLES)}.")

    def text(self, rows: int = 0, columns: int = 0) -> str:
        """The text of an image.

        Args:
            rows, columns: int, into how many it was cut; see `ImageProcessor.grid`.

        Returns:
            str.
        """
        return _STYLES[self.style](self.token * self.count, rows, columns)

    @property
    def placeholder(self) -> str:
        """The one token that a chat template writes for an image."""
        return "<start_of_image>" if self.style == "crops" else self.token

    def expand(self, text: str, grids: Sequence[tuple[int, int]]) -> str:
        """A text with what stands for images in the places of their placeholders.

        Args:
            text: str, in which the placeholders are those of a chat template.
            grids: list of (rows, columns), one for each image, in order. Of a text that is cut off before its last
                images, the first ones count.

        Raises:
            ValueError: where there are more placeholders than images.

        Example:

        >>> ImageTokens(2).expand("Look: <image>", [(0, 0)])
        'Look: <image><image>'
        """
        first, *rest = text.split(self.placeholder)
        if len(rest) > len(grids):
            raise ValueError(f"The text has {len(rest)} times {self.placeholder}, for {len(grids)} images.")
        return first + "".join(self.text(*grid) + part for grid, part in zip(grids, rest, strict=False))

    def video_text(self, seconds: Sequence[float], duration: float) -> str:
        """The text of frames of a video, as SmolVLM2 has it, which says from when each is.

        Args:
            seconds: list of float, where in the video each frame is; see `read_video`.
            duration: float, of the video in seconds.

        Returns:
            str.

        Raises:
            ValueError: for no frame, or more than 999.

        Example:

        >>> print(ImageTokens(1).video_text([0.0, 65.2], 70.0).strip())
        You are provided the following series of two frames from a 0:01:10 [H:MM:SS] video.
        <BLANKLINE>
        Frame from 00:00:<image>
        Frame from 01:05:<image>
        """
        if not 0 < len(seconds) < 1000:
            raise ValueError(f"A video has from 1 to 999 frames in a text, got {len(seconds)}.")
        length = str(datetime.timedelta(seconds=int(duration)))
        number = _in_words(len(seconds))
        text = f"You are provided the following series of {number} frames from a {length} [H:MM:SS] video.\n"
        for second in seconds:
            text += f"\nFrame from {int(second // 60):02d}:{int(second % 60):02d}:{self.text()}"
        return f"{text}\n\n"


def _in_words(number):
    """A number from 1 to 999 in English words."""
    if number >= 100:
        rest = f" and {_in_words(number % 100)}" if number % 100 else ""
        return f"{_SMALL[number // 100]} hundred{rest}"
    if number < len(_SMALL):
        return _SMALL[number]
    ten, one = divmod(number, 10)
    return _TENS[ten - 2] + (f"-{_SMALL[one]}" if one else "")


def _plain(tokens, rows, columns):
    return tokens * (rows * columns + 1)


def _tiles(tokens, rows, columns):
    """Idefics3's: https://huggingface.co/HuggingFaceM4/Idefics3-8B-Llama3 (its processor)."""
    whole = f"{_TILE_BEGIN}{_GLOBAL}{tokens}{_TILE_BEGIN}"
    if not rows:
        return whole
    lines = (
        "".join(f"{_TILE_BEGIN}<row_{row}_col_{column}>{tokens}" for column in range(1, columns + 1))
        for row in range(1, rows + 1)
    )
    return "\n".join(lines) + f"\n\n{whole}"


def _crops(tokens, rows, columns):
    """Gemma 3's: https://arxiv.org/abs/2503.19786, section 2, and its processor."""
    whole = f"\n\n<start_of_image>{tokens}<end_of_image>\n\n"
    if not rows:
        return whole
    crops = " ".join([whole] * (rows * columns))
    return f"Here is the original image {whole} and here are some crops to help you see better {crops}"


_STYLES = {"plain": _plain, "tiles": _tiles, "crops": _crops}
