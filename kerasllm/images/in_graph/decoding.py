"""The bytes of image files as pixels, in operations of TensorFlow.

What TensorFlow's decoders do otherwise than Pillow's: what is transparent in a GIF is black, and a single transparent
colour of a PNG file without a palette is not heeded. The EXIF data of JPEG files are, those of other formats are not.
Versions of the libraries for JPEG may differ by a byte.
"""

import tensorflow as tf

MOST_PIXELS = 2**24  # of an image, of which doubles are made
_HEAD = 2**17  # bytes, in which EXIF data stand
_EXIF = b"Exif\x00\x00"
_MOST_TAGS = 64


def decode_image(data):
    """The pixels of an image, upright, on white.

    Args:
        data: scalar string tensor, the bytes of a PNG, JPEG, WebP or GIF file.

    Returns:
        uint8 (height, width, 3).

    Raises:
        tf.errors.InvalidArgumentError: when it runs, for other bytes and more than 16.8 million pixels.
    """
    head = tf.io.decode_raw(tf.strings.substr(data, 0, _HEAD), tf.uint8)
    head = tf.cast(tf.pad(head, [[0, 32]]), tf.int32)
    padded = tf.strings.join([data, tf.constant(b"\0" * 16)])  # of which there is a ninth byte
    is_png, is_gif = _begins(data, b"\x89PNG\r\n\x1a\n"), _begins(data, b"GIF8")
    is_webp = _begins(data, b"RIFF") & (tf.strings.substr(padded, 8, 4) == b"WEBP")
    is_jpeg = _begins(data, b"\xff\xd8\xff")
    is_known = tf.debugging.Assert(
        is_png | is_gif | is_webp | is_jpeg, ["These bytes are no PNG, JPEG, WebP or GIF file."], summarize=1
    )
    with tf.control_dependencies([is_known]):  # no decoder is to be the first to complain
        data = tf.identity(data)
    known = [(is_png, lambda: _png_size(head)), (is_gif, lambda: _gif_size(head)), (is_webp, lambda: _webp_size(head))]
    width, height = tf.case(known, default=lambda: _jpeg_size(data))
    tf.debugging.assert_less_equal(
        tf.cast(width, tf.int64) * tf.cast(height, tf.int64),
        tf.constant(MOST_PIXELS, tf.int64),
        message=f"An image has at most {MOST_PIXELS:,} pixels here: make it smaller.",
    )
    return tf.cond(
        is_jpeg,
        lambda: _upright(tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"), _orientation(head)),
        lambda: tf.cond(
            is_gif,
            lambda: tf.io.decode_image(data, channels=3, expand_animations=False),
            lambda: tf.cond(is_webp, lambda: _webp(data), lambda: _on_white(tf.io.decode_png(data))),
        ),
    )


def _begins(data, beginning):
    return tf.strings.substr(data, 0, len(beginning)) == beginning


def _webp(data):
    """The flag of VP8X, or the bit of VP8L, says whether there is an alpha channel, which the decoder wants to know."""
    head = tf.cast(tf.io.decode_raw(tf.strings.substr(data, 0, 32), tf.uint8), tf.int32)
    has_alpha = ((head[15] == ord("X")) & (head[20] & 0x10 > 0)) | ((head[15] == ord("L")) & (head[24] & 0x10 > 0))
    return tf.cond(
        has_alpha,
        lambda: _on_white(tf.io.decode_webp(data, channels=4)[0]),
        lambda: tf.io.decode_webp(data, channels=3)[0],
    )


# How large an image is, before it is decoded


def _png_size(head):
    return _number(head, 16, 4, False), _number(head, 20, 4, False)


def _gif_size(head):
    return _number(head, 6, 2, True), _number(head, 8, 2, True)


def _webp_size(head):
    """VP8X says the canvas less one in 3 bytes each, VP8L in 14 bits each, VP8 in 14 bits of 2 bytes."""
    fourth = head[15]
    bits = _number(head, 21, 4, True)
    simple = _number(head, 26, 2, True) & 0x3FFF, _number(head, 28, 2, True) & 0x3FFF
    without_loss = 1 + (bits & 0x3FFF), 1 + (tf.bitwise.right_shift(bits, 14) & 0x3FFF)
    extended = 1 + _number(head, 24, 3, True), 1 + _number(head, 27, 3, True)
    kinds = [(fourth == ord("X"), lambda: extended), (fourth == ord("L"), lambda: without_loss)]
    return tf.case(kinds, default=lambda: simple)


def _jpeg_size(data):
    shape = tf.io.extract_jpeg_shape(data)
    return shape[1], shape[0]


def _number(head, begin, size, little):
    """The numbers of `size` bytes that begin at some places; bytes past the end are 0."""
    places = tf.expand_dims(begin, -1) + tf.range(size)
    digits = tf.gather(head, tf.clip_by_value(places, 0, tf.size(head) - 1))
    powers = tf.constant([256**i for i in range(size)])
    return tf.reduce_sum(digits * tf.where(little, powers, powers[::-1]), axis=-1)


# EXIF's orientation


def _orientation(head):
    """1 to 8; 1, upright, where nothing is said."""
    begins = tf.ones(tf.size(head) - len(_EXIF), tf.bool)
    for place, byte in enumerate(_EXIF):
        begins &= head[place : tf.size(head) - len(_EXIF) + place] == byte
    begin = tf.cast(tf.argmax(begins), tf.int32) + len(_EXIF)  # of the TIFF data, from where their places count
    little = head[begin] == ord("I")
    tags = begin + _number(head, begin + 4, 4, little)
    count = tf.clip_by_value(_number(head, tags, 2, little), 0, _MOST_TAGS)
    entries = tags + 2 + 12 * tf.range(count)
    is_wanted = _number(head, entries, 2, little) == 0x0112
    values = tf.where(is_wanted, _number(head, entries + 8, 2, little), 0)
    found = tf.reduce_max(tf.concat([values, [0]], 0))
    return tf.where(tf.reduce_any(begins) & (found >= 1) & (found <= 8), found, 1)


def _upright(pixels, orientation):
    pixels = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, (1, 0, 2)), lambda: pixels)
    for axis, turned in enumerate(((3, 4, 7, 8), (2, 3, 6, 7))):
        is_turned = tf.reduce_any(orientation == tf.constant(turned))
        pixels = tf.cond(is_turned, lambda p=pixels, a=axis: tf.reverse(p, [a]), lambda p=pixels: p)
    return pixels


def _on_white(pixels):
    """Grey or colours, with alpha or without, as colours laid on white, in Pillow's whole numbers."""
    values = tf.cast(pixels, tf.int32)
    channels = tf.shape(values)[2]
    has_alpha = channels % 2 == 0  # grey and alpha, or red, green, blue and alpha
    colour = tf.cond(has_alpha, lambda: values[..., :-1], lambda: values)
    alpha = tf.cond(has_alpha, lambda: values[..., -1:], lambda: tf.fill(tf.shape(values[..., :1]), 255))
    blend = (colour * alpha + 255 * (255 - alpha)) * 128 + 128 * 128
    blend = tf.bitwise.right_shift(blend + tf.bitwise.right_shift(blend, 8), 15)
    return tf.cast(tf.broadcast_to(blend, (*_size(values), 3)), tf.uint8)


def _size(pixels):
    return tf.shape(pixels)[0], tf.shape(pixels)[1]
