"""Whether a model predicts each token from those before it alone."""

import numpy as np
from keras import ops

from kerasllm.generation.stepping import CachedStepper, get_stepper
from kerasllm.models.shapes import fixed_length, output_width

_LENGTH = 8
_TOLERANCE = 1e-4  # of the largest logit; what sees no later token gives equal ones


def check_causal(model):
    """Refuses a model in which a later token changes an earlier logit: what it scores or writes would mean nothing.

    It is called on two short texts that differ in their second half, once, and not at all where its layers say enough.

    Args:
        model: a Keras model from ids (B, T) to logits (B, T, V).

    Raises:
        ValueError: if it is not causal.
    """
    if "_is_causal" in vars(model) or isinstance(get_stepper(model), CachedStepper):
        return
    length = fixed_length(model) or _LENGTH
    if length < 2:
        return
    place = length // 2 - 1  # the last of the half that does not change
    text = np.full((1, length), min(1, output_width(model) - 1), "int32")
    other = text.copy()
    other[:, place + 1 :] = output_width(model) - 1

    def logits(ids):
        return ops.convert_to_numpy(ops.cast(model(ids, training=False)[:, place], "float32"))

    first = logits(text)
    tolerance = _TOLERANCE * np.abs(first).max()
    if np.abs(logits(other) - first).max() > tolerance >= np.abs(logits(text) - first).max():
        raise ValueError(
            f"{model.name} is not causal: a later token changes the logits of earlier ones, which must know nothing of "
            "it. Mask its attention (causal=True here, use_causal_mask=True in Keras' own), and leave out layers that "
            "read a text backwards or as a whole."
        )
    vars(model)["_is_causal"] = True
