"""Activations computed again in the backward pass in place of being kept: less memory for more arithmetic.

Keras' own `keras.remat` draws new dropout masks when it computes again on TensorFlow, which makes gradients wrong. Here
dropout takes its seeds from one that is drawn outside, so that both passes drop the same elements.

Reference: Chen et al. 2016, https://arxiv.org/abs/1604.06174
"""

import contextvars
import itertools

from keras import ops

from kerasllm import backend

_MIX = -1640531535  # odd and large: 2^32 over the golden ratio, as an int32
# A seed int32 (2,) and a counter of what was drawn from it, inside a function that may be computed again.
_repeatable = contextvars.ContextVar("repeatable", default=None)


def next_seed(dropout):
    """The seed int32 (2,) of a dropout layer's next mask, or None for one that drops nothing."""
    if not dropout.rate:
        return None
    if _repeatable.get() is None:
        return ops.cast(dropout.seed_generator.next(), "int32")
    # Keras' generators count in the second number, so the first is mixed; not added to, as these functions may nest.
    seed, count = _repeatable.get()
    return ops.stack([seed[0] * _MIX + next(count), seed[1]])


def rematerialized(function, *tensors, seed=None):
    """A function's result, which computes it again in the backward pass.

    Args:
        function: a function of the tensors that gradients are to reach; others, such as masks, it may know otherwise.
        *tensors: its arguments; None is left out of differentiation.
        seed: from `next_seed`, for the dropout inside it.
    """
    places = [i for i, tensor in enumerate(tensors) if tensor is not None]

    def repeatable(*given):
        arguments = [None] * len(tensors)
        for place, tensor in zip(places, given, strict=True):
            arguments[place] = tensor
        token = _repeatable.set((seed, itertools.count(1)))
        try:
            return function(*arguments)
        finally:
            _repeatable.reset(token)

    return backend.remat(repeatable, *(tensors[place] for place in places))
