"""Values between those that were measured."""

import bisect
import math


def between(points, x):
    """A value at x of pairs (x, value) by ascending x: along a line over the logarithm, beyond them the nearest."""
    sizes, values = zip(*points, strict=True)
    at = bisect.bisect_left(sizes, x)
    if at in (0, len(sizes)):
        return values[min(at, len(sizes) - 1)]
    share = math.log(x / sizes[at - 1]) / math.log(sizes[at] / sizes[at - 1])
    return values[at - 1] + share * (values[at] - values[at - 1])
