"""Thresholds by how often they are to be wrong."""

import math

from kerasllm.generation.options import real_number


def threshold_at(scores, false_positive_rate):
    """What so many of some scores are above, at most.

    Args:
        scores: iterable of float, of texts without what is looked for.
        false_positive_rate: float, the share of them that may be above.

    Returns:
        float.

    Raises:
        ValueError: if there are too few for the rate, or it is not between 0 and 1.
    """
    if not 0 < real_number("false_positive_rate", false_positive_rate) < 1:
        raise ValueError(f"`false_positive_rate` must be between 0 and 1, got {false_positive_rate}.")
    scores = sorted(map(float, scores))
    allowed = int(false_positive_rate * len(scores))
    if not allowed:
        least = math.ceil(1 / false_positive_rate)
        raise ValueError(f"A rate of {false_positive_rate} takes at least {least} texts to tell, got {len(scores)}.")
    return scores[-allowed - 1]
