"""Whether a SavedModel does what the model does that it was made from: the same logits, and the same text."""

import keras
import numpy as np
import tensorflow as tf

from kerasllm.tasks import task_of
from kerasllm.tasks.task import SAMPLE


def check(model, tokenizer, folder):
    """Reads a SavedModel back and compares its signatures with the model and the tokenizer.

    Args:
        model: the model that was exported.
        tokenizer: its tokenizer, or a pair of them.
        folder: path of the SavedModel.

    Returns:
        The largest difference between the logits of `forward` and the model's, a float.

    Raises:
        ValueError: if the logits differ by more than rounding, or, in float32, the tokens or texts; or if a causal
            model's text is another than its tokens are.
    """
    signatures = tf.saved_model.load(str(folder)).signatures
    is_rounded = model.compute_dtype != "float32"  # Near-ties may then fall either way, and everything after them.
    task = task_of(model)
    inputs = task.sample_inputs(model)
    logits = signatures["forward"](**{name: tf.constant(value) for name, value in inputs.items()})["logits"]
    expected = keras.ops.convert_to_numpy(keras.ops.cast(model(inputs, training=False), "float32"))
    difference = float(np.max(np.abs(logits - expected)))
    if difference > (0.25 if is_rounded else 1e-3):
        raise ValueError(
            f"The SavedModel in {folder} does not do what the model does: its logits differ by up to {difference:.2g}."
        )
    compared = task.compared(model, tokenizer, signatures)
    if compared is None:
        return difference
    made, expected = compared
    if made != expected and not is_rounded:
        raise ValueError(
            f"The SavedModel in {folder} does not do what the model does: of {SAMPLE!r} it makes {made!r}, not "
            f"{expected!r}."
        )
    return difference
