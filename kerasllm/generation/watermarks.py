"""What watermarks share: rules over logits that leave a mark in a text, by which those who know their keys find it.

`GreenList` is in green_list.py and `SynthID` in synth_id.py. They are those of transformers, with its names of
settings, its hashes and its random numbers: what either library writes, the other detects.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from kerasllm import backend
from kerasllm.generation.rules import LogitsRule


class Evidence(NamedTuple):
    """What speaks for a mark in a text.

    tokens: int, how many were counted.
    share: float, of them those that are green; of SynthID's, the mean of their g-values.
    z_score: float, by how many standard deviations that is more than in a text without the mark.
    """

    tokens: int
    share: float
    z_score: float


class Watermark(LogitsRule):
    """A rule that is applied last, behind temperature and filters, and can be looked for.

    Raises:
        ValueError: when it is made on torch.
    """

    def __post_init__(self):
        if backend.IS_TORCH:
            raise ValueError(
                "Watermarks need unsigned integers of 32 bits, which torch does not compute with: choose "
                "KERAS_BACKEND=tensorflow or KERAS_BACKEND=jax."
            )

    def fitted(self, model_size, tokenizer_size):
        """The same for a model that knows so many ids and a tokenizer that has so many.

        Raises:
            ValueError: if a detector, which has the tokenizer alone, would look for another mark.
        """
        return self

    def evidence(self, texts, vocab_size, repeated=False):
        """Looks for the mark.

        Args:
            texts: list of lists of token ids, without their prompts.
            vocab_size: int, how many ids the model that wrote them knows.
            repeated: bool. What occurs several times counts as often; of SynthID it never does.

        Returns:
            list of `Evidence`.
        """
        raise NotImplementedError


def read_watermark(watermark):
    """The `Watermark` that a user means.

    Args:
        watermark: a `Watermark`; or a dict of the settings of transformers' WatermarkingConfig or
            SynthIDTextWatermarkingConfig, or such a config itself.

    Raises:
        TypeError: if it is something else.
        ValueError: if the settings are of neither.
    """
    from kerasllm.generation.green_list import GreenList
    from kerasllm.generation.synth_id import SynthID

    if isinstance(watermark, Watermark):
        return watermark
    settings = watermark.to_dict() if hasattr(watermark, "to_dict") else watermark
    if not isinstance(settings, Mapping):
        raise TypeError(f"`watermark` is a GreenList or a SynthID, or the settings of one, got {watermark!r:.80}.")
    settings = dict(settings)
    if settings.pop("debug_mode", False):
        raise ValueError("`debug_mode` replaces the model's logits, so that no text comes of it: leave it out.")
    kind = SynthID if "keys" in settings else GreenList
    if unknown := sorted(settings.keys() - kind.__dataclass_fields__.keys()):
        known = ", ".join(kind.__dataclass_fields__)
        raise ValueError(f"{kind.__name__} has no setting {', '.join(unknown)}; it has {known}.")
    return kind(**settings)


def standard_score(excess, variance):
    """An excess in standard deviations; 0 where nothing was counted."""
    return float(excess / math.sqrt(variance)) if variance else 0.0
