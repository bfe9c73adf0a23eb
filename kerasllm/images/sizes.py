"""What sizes images are made to, as published models have it: pure functions of heights and widths."""

import math

LONGEST_EDGE = 4096  # the longest edge before an image is cut into tiles
_LEAST = 1


def shortest_edge_size(height, width, edge):
    """The size whose shortest edge is `edge`.

    >>> shortest_edge_size(100, 250, 50)
    (50, 125)
    """
    return (edge, int(edge * width / height)) if height <= width else (int(edge * height / width), edge)


def longest_edge_size(height, width, edge):
    """The size whose longest edge is `edge`, and the other one even; at most 4,096.

    >>> longest_edge_size(100, 300, 1000)
    (334, 1000)
    """
    ratio = width / height
    if width >= height:
        height, width = _even(int(edge / ratio)), edge
    else:
        height, width = edge, _even(int(edge * ratio))
    height, width = max(height, _LEAST), max(width, _LEAST)
    ratio = width / height
    if width >= height and width > LONGEST_EDGE:
        height, width = int(LONGEST_EDGE / ratio), LONGEST_EDGE
    elif height > LONGEST_EDGE:
        height, width = LONGEST_EDGE, int(LONGEST_EDGE * ratio)
    return max(height, _LEAST), max(width, _LEAST)


def whole_tiles_size(height, width, edge):
    """The size that tiles of edge x edge fill.

    >>> whole_tiles_size(200, 1000, 384)
    (384, 1152)
    """
    ratio = width / height
    if width >= height:
        width = _whole(width, edge)
        return _whole(max(int(width / ratio), _LEAST), edge), width
    height = _whole(height, edge)
    return height, _whole(max(int(height * ratio), _LEAST), edge)


def pan_and_scan_grid(height, width, min_crop_size, max_crops, min_ratio):
    """Into how many rows and columns of crops Gemma 3 cuts an image: (0, 0) where it is not long enough.

    >>> pan_and_scan_grid(600, 1500, min_crop_size=256, max_crops=4, min_ratio=1.2)
    (1, 3)
    """
    short, long = sorted((height, width))
    if long / short < min_ratio:
        return 0, 0
    crops = min(math.floor(long / min_crop_size), math.floor(long / short + 0.5))
    crops = min(max_crops, max(2, crops))
    if min(math.ceil(long / crops), short) < min_crop_size:
        return 0, 0
    return (1, crops) if width >= height else (crops, 1)


def _even(length):
    return length + length % 2


def _whole(length, edge):
    return math.ceil(length / edge) * edge
