"""Figures as people read and write them."""

import math
import re

_UNITS = {"": 1, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}


def gigabytes(number):
    """Bytes in words: "1.23 GB", "45 MB"."""
    return f"{number / 1e9:,.2f} GB" if number >= 1e9 else f"{number / 1e6:,.0f} MB"


def percent_more(cost):
    """What a change costs, a share of the time of a step."""
    percent = round(100 * cost)
    return f"{percent} % slower" if percent > 0 else "no slower"


def duration(seconds):
    """Seconds in words: "1.5 h", "12 days"."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.3g} s"


def count_of(text):
    """A count as people write it, such as "300M" or "1.5e9", as an int; None for what is none."""
    found = re.fullmatch(r"\s*([0-9][0-9_,]*\.?[0-9]*(?:e\+?[0-9]+)?)\s*([kmbgt]?)\s*", text.lower())
    if not found:
        return None
    number = float(found[1].replace("_", "").replace(",", "")) * _UNITS[found[2]]
    return round(number) if math.isfinite(number) and number >= 1 else None


def bytes_of(text):
    """Bytes as people write them, such as "8GB" or "500 MB".

    Raises:
        ValueError: for what is none.
    """
    number = count_of(text.lower().replace("ib", "").removesuffix("b").strip())
    if number is None:
        raise ValueError(f"Memory is written as 8GB or 500MB, not {text!r}.")
    return number
