"""Which backend Keras runs on, and its tensors."""

import keras
from keras import ops

if keras.backend.backend() not in ("tensorflow", "jax"):
    raise ImportError(
        f"kerasllm runs on the TensorFlow and JAX backends, got {keras.backend.backend()!r}. "
        f"Set KERAS_BACKEND=tensorflow or KERAS_BACKEND=jax before Keras is imported."
    )

IS_TENSORFLOW = keras.backend.backend() == "tensorflow"

if IS_TENSORFLOW:
    import tensorflow as tf


def track(layer, layers):
    """Tells TensorFlow's checkpoints of layers that another one has in a list, which they do not look into."""
    for inner in layers if IS_TENSORFLOW else ():
        layer._track_trackable(inner, inner.name)


def as_tensor(x):
    """What an array or a variable holds now, in the dtype in which a layer being called computes."""
    return tf.convert_to_tensor(x) if IS_TENSORFLOW else ops.convert_to_tensor(x)
