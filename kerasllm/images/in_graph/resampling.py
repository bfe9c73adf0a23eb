"""Pillow's resampling as operations of TensorFlow, the same to the last bit; of Lanczos' filter, which takes a sine, a
byte in a million may differ by one.

Pillow rounds its weights to 22 bits behind the point, so that sums of their products with bytes are whole numbers,
which doubles hold exactly in whatever order they are added: https://github.com/python-pillow/Pillow, Resample.c.

Letters: H and W are the image's height and width, h and w those that are made.
"""

import math

import tensorflow as tf

_ONE = 2.0**22


def resized(pixels, height, width, resample):
    """An image of another size; the arguments are those of `images.resampling.resized`, and may be tensors."""
    filtered, support = FILTERS[resample]
    image = tf.cast(pixels, tf.float64)
    H, W = tf.shape(image)[0], tf.shape(image)[1]
    across = _weights(W, width, filtered, support)
    down = _weights(H, height, filtered, support)
    # Bytes are rounded between both passes, so that their order shows. This is the one of Pillow 13.
    is_down_first = (height < H) & (H - height > 2 * (W - width))
    made = tf.cond(
        is_down_first, lambda: _across(_down(image, down), across), lambda: _down(_across(image, across), down)
    )
    return tf.cast(made, tf.uint8)


def _across(image, weights):
    height, width = tf.shape(image)[0], tf.shape(weights)[0]
    rows = tf.reshape(tf.transpose(image, (0, 2, 1)), (height * 3, -1))
    rows = _to_bytes(tf.matmul(rows, weights, transpose_b=True))
    return tf.transpose(tf.reshape(rows, (height, 3, width)), (0, 2, 1))


def _down(image, weights):
    height, width = tf.shape(weights)[0], tf.shape(image)[1]
    columns = _to_bytes(tf.matmul(weights, tf.reshape(image, (-1, width * 3))))
    return tf.reshape(columns, (height, width, 3))


def _weights(length, made, filtered, support):
    """How much each of `length` pixels counts in each of those made: float64 (made, length), whole numbers."""
    places = tf.range(tf.cast(length, tf.float64), dtype=tf.float64)
    scale = tf.cast(length, tf.float64) / tf.cast(made, tf.float64)
    stretch = tf.maximum(scale, 1.0)
    middle = (tf.range(tf.cast(made, tf.float64), dtype=tf.float64) + 0.5)[:, None] * scale
    first = tf.floor(tf.maximum(middle - support * stretch + 0.5, 0.0))
    last = tf.floor(tf.minimum(middle + support * stretch + 0.5, tf.cast(length, tf.float64)))
    weights = filtered((places - middle + 0.5) * (1.0 / stretch))
    weights = tf.where((places >= first) & (places < last), weights, 0.0)
    total = tf.reduce_sum(weights, axis=1, keepdims=True)
    weights = tf.math.divide_no_nan(weights, total)
    return tf.sign(weights) * tf.floor(tf.abs(weights) * _ONE + 0.5)


def _to_bytes(sums):
    return tf.clip_by_value(tf.floor((sums + _ONE / 2) / _ONE), 0.0, 255.0)


def _box(x):
    return tf.cast((x > -0.5) & (x <= 0.5), x.dtype)


def _bilinear(x):
    return tf.maximum(1.0 - tf.abs(x), 0.0)


def _bicubic(x):
    """Keys' cubic convolution with a = -0.5."""
    x = tf.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return tf.where(x < 1, near, tf.where(x < 2, far, 0.0))


def _lanczos(x):
    return tf.where((x >= -3) & (x < 3), _sinc(x) * _sinc(x / 3.0), 0.0)


def _sinc(x):
    angle = math.pi * tf.where(x == 0, tf.ones_like(x), x)
    return tf.where(x == 0, tf.ones_like(x), tf.sin(angle) / angle)


# The filters, and how far they reach.
FILTERS = {
    "box": (_box, 0.5),
    "bilinear": (_bilinear, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}
