"""What an `ImageProcessor` does between bytes and pixel values, in operations of TensorFlow."""

import tensorflow as tf

from kerasllm.images.in_graph.decoding import MOST_PIXELS, decode_image
from kerasllm.images.in_graph.resampling import FILTERS, resized
from kerasllm.images.sizes import LONGEST_EDGE
from kerasllm.images.tiles import PanAndScan, Tiling


class InGraphImageProcessor:
    """An `ImageProcessor` in TensorFlow's operations, without state.

    Bytes are those of the processor, and pixel values within 1e-6; what decoders do differently says `decoding`.

    Args:
        processor: `ImageProcessor`, without `PanAndScan`, and with a filter other than "nearest" and "hamming".

    Raises:
        ValueError: for such a processor.
    """

    def __init__(self, processor):
        if isinstance(processor.tiles, PanAndScan) or processor.resample not in FILTERS:
            what = "pan and scan" if isinstance(processor.tiles, PanAndScan) else f"resample={processor.resample!r}"
            raise ValueError(
                f"An image processor with {what} cannot run inside a TensorFlow graph: make pixel values in Python, or "
                "leave that out."
            )
        if isinstance(processor.tiles, Tiling) and processor.tiles.longest_edge > LONGEST_EDGE:
            raise ValueError(f"Inside a TensorFlow graph a longest_edge is at most {LONGEST_EDGE}.")
        self._processor = processor

    def __call__(self, data):
        """Pixel values of one image.

        Args:
            data: scalar string tensor, the bytes of a file.

        Returns:
            float32 (N, height, width, 3), and the numbers of rows and columns of tiles, int32.
        """
        pixels = decode_image(data)
        height, width = self._processor.size
        if isinstance(self._processor.tiles, Tiling):
            parts, rows, columns = self._tiled(pixels)
        else:
            parts, rows, columns = self._fitted(pixels)[None], tf.constant(0), tf.constant(0)
        return tf.ensure_shape(self._normalised(parts), (None, height, width, 3)), rows, columns

    def batch(self, data):
        """Pixel values of images that are not cut into tiles.

        Args:
            data: string tensor (B,).

        Returns:
            float32 (B, height, width, 3).
        """
        if isinstance(self._processor.tiles, Tiling) and self._processor.tiles.split:
            raise ValueError("Images that are cut into tiles have different numbers of them: process them one by one.")
        spec = tf.TensorSpec((*self._processor.size, 3), tf.float32)
        return tf.map_fn(lambda one: self(one)[0][0], data, fn_output_signature=spec, parallel_iterations=1)

    def _fitted(self, pixels):
        processor = self._processor
        if processor.pad_to_square:
            pixels = _padded_to_square(pixels, [int(255 * mean) for mean in processor.mean])
        size = processor.resize_to or processor.size
        if isinstance(size, int):
            size = _shortest_edge_size(*_size(pixels), size)
        return _middle(self._resized(pixels, *size), *processor.size)

    def _tiled(self, pixels):
        edge, tiles = self._processor.size[0], self._processor.tiles
        pixels = self._resized(pixels, *_longest_edge_size(*_size(pixels), tiles.longest_edge))
        if not tiles.split:
            return self._resized(pixels, edge, edge)[None], tf.constant(0), tf.constant(0)
        pixels = self._resized(pixels, *_whole_tiles_size(*_size(pixels), edge))
        rows, columns = (length // edge for length in _size(pixels))
        parts = tf.reshape(pixels, (rows, edge, columns, edge, 3))
        parts = tf.reshape(tf.transpose(parts, (0, 2, 1, 3, 4)), (-1, edge, edge, 3))
        is_cut = rows * columns > 1
        parts = tf.cond(is_cut, lambda: tf.concat([parts, self._resized(pixels, edge, edge)[None]], 0), lambda: parts)
        return parts, tf.where(is_cut, rows, 0), tf.where(is_cut, columns, 0)

    def _resized(self, pixels, height, width):
        tf.debugging.assert_less_equal(
            tf.cast(height, tf.int64) * tf.cast(width, tf.int64),
            tf.constant(MOST_PIXELS, tf.int64),
            message="An image is too long and thin for this processor.",
        )
        return resized(pixels, height, width, self._processor.resample)

    def _normalised(self, pixels):
        processor = self._processor
        values = tf.cast(tf.cast(pixels, tf.float64) * processor.rescale_factor, tf.float32)
        return (values - tf.constant(processor.mean, tf.float32)) / tf.constant(processor.std, tf.float32)


def _size(pixels):
    return tf.shape(pixels)[0], tf.shape(pixels)[1]


# The sizes of sizes.py, where heights and widths are tensors


def _shortest_edge_size(height, width, edge):
    is_wide = height <= width
    short, long = tf.minimum(height, width), tf.maximum(height, width)
    long = _quotient(edge * tf.cast(long, tf.float64), short)
    return tf.where(is_wide, edge, long), tf.where(is_wide, long, edge)


def _longest_edge_size(height, width, edge):
    ratio = tf.cast(width, tf.float64) / tf.cast(height, tf.float64)
    other = tf.where(width >= height, _whole(edge / ratio), _whole(edge * ratio))
    other = tf.maximum(other + other % 2, 1)
    return tf.where(width >= height, other, edge), tf.where(width >= height, edge, other)


def _whole_tiles_size(height, width, edge):
    ratio = tf.cast(width, tf.float64) / tf.cast(height, tf.float64)
    is_wide = width >= height
    long = _tiles(tf.maximum(height, width), edge)
    scaled = tf.cast(long, tf.float64)
    other = _tiles(tf.maximum(tf.where(is_wide, _whole(scaled / ratio), _whole(scaled * ratio)), 1), edge)
    return tf.where(is_wide, other, long), tf.where(is_wide, long, other)


def _tiles(length, edge):
    return (length + edge - 1) // edge * edge


def _whole(number):
    return tf.cast(tf.floor(number), tf.int32)


def _quotient(number, divisor):
    return _whole(number / tf.cast(divisor, tf.float64))


def _padded_to_square(pixels, colour):
    height, width = _size(pixels)
    edge = tf.maximum(height, width)
    tf.debugging.assert_less_equal(edge, LONGEST_EDGE, message="An image is too long to be made a square.")
    top, left = (edge - height) // 2, (edge - width) // 2
    paddings = [[top, edge - height - top], [left, edge - width - left]]
    channels = [tf.pad(pixels[..., i], paddings, constant_values=value) for i, value in enumerate(colour)]
    return tf.stack(channels, axis=-1)


def _middle(pixels, height, width):
    """The middle of an image, with black around it where it is smaller."""
    paddings, begin = [], []
    for wanted, there in zip((height, width), _size(pixels), strict=True):
        missing = tf.maximum(wanted - there, 0)
        before = (missing + 1) // 2
        paddings.append([before, missing - before])
        begin.append(tf.maximum(tf.math.floordiv(there - wanted, 2) + before, 0))
    pixels = tf.pad(pixels, [*paddings, [0, 0]])
    return pixels[begin[0] : begin[0] + height, begin[1] : begin[1] + width]
