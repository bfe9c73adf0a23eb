"""Batches drawn by chance, each example by itself: what the accounts of differential privacy are made for."""

import math

import numpy as np


def poisson_rows(batch_size, count):
    """Rows of a batch that has `batch_size` of `count` examples on average: so many that fewer than one in 10^12 draws
    has more. The rows that a draw leaves over have a weight of 0."""
    return min(count, math.ceil(batch_size + 8 * math.sqrt(batch_size) + 8))


def poisson_draw(batch_size, count, seed, step):
    """The examples of a step, each drawn with a probability of batch_size / count: int, a function of (seed, step)."""
    draw = np.random.default_rng([seed, step])
    size = draw.binomial(count, batch_size / count)
    return draw.choice(count, size, replace=False)[: poisson_rows(batch_size, count)]


def check_poisson(batch_size, count, shuffle):
    """Refuses what cannot be drawn by chance."""
    if not shuffle:
        raise ValueError("poisson=True draws each window by chance, and shuffle=False takes them in order: choose one.")
    if batch_size > count:
        raise ValueError(f"batch_size={batch_size} is more than the {count} windows that batches are drawn from.")
