"""Colours of numbers from -1 (red) over 0 (none) to 1 (blue)."""

import numpy as np

POSITIVE, NEGATIVE = (37, 99, 235), (220, 38, 38)
DARK = 0.55  # from here on letters are white


def on_white(shares):
    """Colours on white paper: float (...) -> float (..., 3) from 0 to 1."""
    shares = np.asarray(shares, "float64")[..., None]
    ink = np.where(shares < 0, NEGATIVE, POSITIVE) / 255
    return 1 - np.abs(np.clip(shares, -1, 1)) * (1 - ink)


def in_css(share):
    """A background and, on dark ones, the colour of letters: declarations of CSS."""
    red, green, blue = NEGATIVE if share < 0 else POSITIVE
    letters = ";color:#fff" if abs(share) > DARK else ""
    return f"background:rgba({red},{green},{blue},{min(abs(share), 1):.2f}){letters}"
