"""Numbers in 4 and 8 bits, as bitsandbytes keeps them, in NumPy: what is done once, when a kernel is quantized.

In 4 bits an array is flat and in blocks of 64, the last one shorter. A block has its largest absolute value, and for
each number the nearest of 16 levels times that; two numbers are a byte, the first in its high half.
"""

import functools

import numpy as np

BLOCK = 64
NESTED_BLOCK = 256
_VALUES_AT_ONCE = 2**16  # so that they stay in the cache of a CPU

# NF4: the quantiles of a normal distribution, with an exact 0 (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314).
# FP4: a sign, two bits of exponent and one of fraction. Plain int4: evenly spaced, with a place that is never taken.
LEVELS = {
    "nf4": np.float32(
        [
            *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
            *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
            *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023),
            1.0,
        ]
    ),
    "fp4": np.float32([0, 0.0625, 8, 12, 4, 6, 2, 3, 0, -0.0625, -8, -12, -4, -6, -2, -3]) / np.float32(12),
    "int4": np.float32(range(-8, 8)) / np.float32(7),
}


def quantize_4bit(array, levels):
    """Any array as (uint8 (n / 2,), float32 (blocks,)): codes, two in a byte, and the largest absolute values.

    Args:
        array: float, of n numbers.
        levels: float32 (16,), by code.
    """
    flat = np.asarray(array, "float32").reshape(-1)
    absmax, codes = _block_maxima(flat, BLOCK), np.empty(flat.size + flat.size % 2, "uint8")
    codes[flat.size :] = _nearest(np.zeros(1, "float32"), levels)
    for start in range(0, flat.size, _VALUES_AT_ONCE):
        part = flat[start : start + _VALUES_AT_ONCE]
        codes[start : start + part.size] = _nearest(_scaled(part, absmax[start // BLOCK :], BLOCK), levels)
    return codes[::2] << 4 | codes[1::2], absmax


def dequantize_4bit(codes, absmax, levels, size, block=BLOCK):
    """What `quantize_4bit` made of an array of that size, float32 (size,)."""
    values = np.stack([levels[codes.reshape(-1) >> 4], levels[codes.reshape(-1) & 15]], axis=-1).reshape(-1)[:size]
    return _times(values, absmax, block)


def quantize_8bit_blocks(array):
    """Numbers as (uint8 (n,), float32 (blocks,)), in blocks of 256 and levels that are closer together near 0."""
    maxima = _block_maxima(array, NESTED_BLOCK)
    return _nearest(_scaled(array, maxima, NESTED_BLOCK), dynamic_levels()), maxima


def dequantize_8bit_blocks(codes, maxima, levels, block=NESTED_BLOCK):
    return _times(levels[codes], maxima, block)


@functools.cache
def dynamic_levels():
    """256 levels with a sign, an exponent of up to 7 bits and the rest of fraction, float32 (256,), in order (Dettmers
    2015, https://arxiv.org/abs/1511.04561)."""
    levels = [0.0, 1.0]
    for exponent in range(7):
        ends = _evenly_spaced(2**exponent + 1)
        middles = np.float32(10.0 ** (exponent - 6)) * ((ends[:-1] + ends[1:]) / np.float32(2))
        levels += [*middles, *-middles]
    return np.sort(np.float32(levels))


def _evenly_spaced(count):
    """From 0.1 to 1 as torch spaces them: from both ends, a product and a sum rounded to float32 at once."""
    first, index = np.float32(0.1), np.arange(count)
    step = np.float64((np.float32(1) - first) / np.float32(count - 1))
    return np.float32(np.where(index < count // 2, first + step * index, 1 - step * index[::-1]))


def quantize_rows(matrix):
    """A matrix (U, D) as (int8 (U, D), float32 (U,)): each row in 127ths of its largest absolute value."""
    matrix = np.asarray(matrix, "float32")
    maxima = np.abs(matrix).max(axis=1, initial=0)
    factors = np.float32(127) * np.divide(np.float32(1), maxima, out=np.zeros_like(maxima), where=maxima > 0)
    return np.rint(matrix * factors[:, None]).astype("int8"), maxima


def _block_maxima(flat, block):
    whole = flat.size // block * block
    maxima = np.abs(flat[:whole]).reshape(-1, block).max(axis=1, initial=0)
    return np.append(maxima, np.abs(flat[whole:]).max()) if whole < flat.size else maxima


def _scaled(flat, maxima, block):
    """Blocks over their maxima, from -1 to 1."""
    factors = np.float32(1) / np.maximum(maxima, np.float32(1e-38))
    return np.clip(_times(flat, factors, block), -1, 1)


def _times(flat, factors, block):
    """Blocks times a factor for each."""
    whole = flat.size // block * block
    product = (flat[:whole].reshape(-1, block) * factors[: whole // block, None]).reshape(-1)
    return np.append(product, flat[whole:] * factors[whole // block]) if whole < flat.size else product


def _nearest(values, levels):
    """The codes of the nearest levels, uint8; of two as near, the lower."""
    order = np.argsort(levels, kind="stable")
    bounds = (levels[order[:-1]] + levels[order[1:]]) / np.float32(2)
    if len(bounds) > 16:
        return order[np.searchsorted(bounds, values)].astype("uint8")
    places = np.zeros(values.shape, "uint8")
    for bound in bounds:  # several times as quick as a search
        places += values > bound
    return order.astype("uint8")[places]
