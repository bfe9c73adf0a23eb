"""Which backend Keras runs on, and its tensors."""

import math

import keras
import numpy as np
from keras import ops

if keras.backend.backend() not in ("tensorflow", "jax", "torch"):
    raise ImportError(
        f"kerasllm runs on the TensorFlow, JAX and torch backends, got {keras.backend.backend()!r}. "
        f"Set KERAS_BACKEND=tensorflow, KERAS_BACKEND=jax or KERAS_BACKEND=torch before Keras is imported."
    )

IS_TENSORFLOW = keras.backend.backend() == "tensorflow"
IS_JAX = keras.backend.backend() == "jax"
IS_TORCH = keras.backend.backend() == "torch"

if IS_TENSORFLOW:
    import tensorflow as tf

_ALIGNMENT = 64  # bytes, of tensors


def track(layer, layers):
    """Tells TensorFlow's checkpoints of layers that another one has in a list, which they do not look into."""
    for inner in layers if IS_TENSORFLOW else ():
        layer._track_trackable(inner, inner.name)


def unwritten(shape, dtype):
    """An array of zeros that takes no memory before it is written to, and that `given_away` hands over as it is."""
    dtype = np.dtype(dtype)
    memory = np.zeros(dtype.itemsize * math.prod(shape) + _ALIGNMENT, "uint8")
    begin = -memory.ctypes.data % _ALIGNMENT
    return memory[begin : begin + dtype.itemsize * math.prod(shape)].view(dtype).reshape(shape)


def given_away(array):
    """A tensor of an array that nobody is to write to any more: on TensorFlow, of types that NumPy has itself, without
    a copy."""
    if IS_TENSORFLOW and array.dtype.isbuiltin == 1 and array.size:
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return ops.convert_to_tensor(array)


def own(variables):
    """Has Keras variables hold memory of their own: what `given_away` handed over would else be copied when it is first
    updated, all of it at once, and while there are gradients."""
    if IS_TENSORFLOW and not tf.distribute.has_strategy():
        for variable in variables:
            if isinstance(variable.value, tf.Variable):
                variable.value.assign(tf.raw_ops.DeepCopy(x=variable.value))


def part(variables):
    """Has Keras variables hold an array each on JAX, which Keras leaves two of them with when `fit` has ended and put
    moving averages in the place of weights; a step could take neither."""
    seen = set()
    for variable in variables if IS_JAX else ():
        if id(variable.value) in seen:
            variable.assign(ops.copy(variable.value))
        seen.add(id(variable.value))


def as_tensor(x):
    """What an array or a variable holds now, in the dtype in which a layer being called computes."""
    return tf.convert_to_tensor(x) if IS_TENSORFLOW else ops.convert_to_tensor(x)
