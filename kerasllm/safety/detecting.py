"""Whether a text bears a watermark, and how sure that is."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from kerasllm.generation.options import real_number
from kerasllm.generation.watermarks import read_watermark
from kerasllm.safety.thresholds import threshold_at
from kerasllm.tokenizers import Tokenizer, as_tokenizer

DEFAULT_THRESHOLD = 3.0  # of transformers' detector; one text in 740 without a mark has as much by chance


class Detection(NamedTuple):
    """What `detect` finds in a text.

    is_watermarked: bool, whether the z-score is above the threshold.
    z_score: float, by how many standard deviations more of the mark is there than by chance.
    p_value: float, how probable at least so much is by chance.
    tokens: int, how many were counted.
    share: float, of them those that are green; of SynthID's, the mean of their g-values.
    threshold: float, of the z-score.
    """

    is_watermarked: bool
    z_score: float
    p_value: float
    tokens: int
    share: float
    threshold: float


def detect(
    text: str | Sequence[int] | Sequence[str | Sequence[int]],
    tokenizer: Tokenizer,
    watermark: Any,
    *,
    threshold: float = DEFAULT_THRESHOLD,
    repeated: bool = False,
) -> Detection | list[Detection]:
    """Looks for a watermark in a text, or in several. No model is needed.

    The text is what was drawn, without its prompt. What is written in other words, translated or cut into pieces of a
    few tokens loses its mark.

    Args:
        text: str, or list of int, the token ids that were drawn, which an encoding of their text need not be; or a list
            of either.
        tokenizer: the `Tokenizer` of the model that wrote it.
        watermark: the `GreenList` or `SynthID` that it was written with, or its settings: see `generate`.
        threshold: float, the z-score above which a text is said to bear the mark. `calibrate` finds one.
        repeated: bool. Count what occurs several times as often, as transformers' detector of green lists does by
            default; ordinary texts that repeat themselves are then taken for marked ones more often than p-values say.

    Returns:
        `Detection`, or a list of them.

    Raises:
        TypeError: if `watermark` is none.

    Example:
        >>> watermark = kerasllm.generation.SynthID(keys=[654, 400, 836, 123, 340, 443, 597, 160, 57])
        >>> text = kerasllm.generate(model, tokenizer, "Once upon a time", temperature=1.0, watermark=watermark)
        >>> kerasllm.safety.detect(text, tokenizer, watermark).is_watermarked
        True
    """
    is_one = isinstance(text, str) or (len(text) > 0 and not isinstance(text[0], str | Sequence | np.ndarray))
    threshold = real_number("threshold", threshold)
    found = []
    for evidence in _evidence([text] if is_one else text, tokenizer, watermark, repeated):
        p_value = math.erfc(evidence.z_score / math.sqrt(2)) / 2
        is_watermarked = evidence.z_score > threshold
        found.append(Detection(is_watermarked, evidence.z_score, p_value, evidence.tokens, evidence.share, threshold))
    return found[0] if is_one else found


def calibrate(
    texts: Iterable[str | Sequence[int]],
    tokenizer: Tokenizer,
    watermark: Any,
    *,
    false_positive_rate: float = 0.01,
    repeated: bool = False,
) -> float:
    """The threshold of `detect` that so many of some texts without the mark are above, at most.

    Args:
        texts: str, or lists of token ids, such as people write and as long as those that are to be looked at. To tell
            one in a hundred takes some hundreds of them.
        tokenizer, watermark, repeated: see `detect`.
        false_positive_rate: float, the share of them that may be above.

    Returns:
        float, a z-score.

    Raises:
        ValueError: if there are too few texts for the rate, or it is not between 0 and 1.

    Example:
        >>> threshold = kerasllm.safety.calibrate(human_texts, tokenizer, watermark)
        >>> kerasllm.safety.detect(text, tokenizer, watermark, threshold=threshold)
    """
    found = _evidence(list(texts), tokenizer, watermark, repeated)
    return threshold_at((one.z_score for one in found), false_positive_rate)


def _evidence(texts, tokenizer, watermark, repeated):
    tokenizer = as_tokenizer(tokenizer)
    ids = [_drawn_ids(text, tokenizer) for text in texts]
    return read_watermark(watermark).evidence(ids, tokenizer.vocab_size, repeated)


def _drawn_ids(text, tokenizer):
    """The ids of a text, up to an end token."""
    if isinstance(text, str):
        return next(iter(tokenizer.encode_stream([text], bare=True)))
    ids = [int(token) for token in text]
    return ids[: next((place for place, token in enumerate(ids) if token in tokenizer.end_ids), len(ids))]
