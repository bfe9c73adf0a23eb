"""Batches of TensorFlow's ragged tensors, on any backend, as batches of plain ones.

Shapes: B batch, T longest row.
"""

import keras

_KINDS = ("RaggedTensor", "RaggedTensorSpec")


def is_ragged(batches):
    """Whether a nested tensor, or what a `tf.data.Dataset` gives, has ragged ones."""
    return any(type(part).__name__ in _KINDS for part in keras.tree.flatten(getattr(batches, "element_spec", batches)))


def filled(batches, main, learns_next, of_tokens=True):
    """Rows filled up with zeros, and weights of 0 where they are.

    Args:
        batches: a `tf.data.Dataset` of (x, y, sample_weight) or less of them, or one such tuple, with ragged tensors.
        main: str, the name in x of the ids that labels belong to, where it is a dict.
        learns_next: bool. The labels are the next ids where there are none; otherwise x gets document ids, for what
            sees both ways.
        of_tokens: bool. Labels are of tokens, not of texts.

    Returns:
        The same without ragged tensors, and with a mask of the sources where they were ragged.
    """
    import tensorflow as tf

    def dense(rows):
        return rows.to_tensor() if is_ragged(rows) else rows

    def fill(x, y=None, sample_weight=None):
        inputs = dict(x) if isinstance(x, dict) else {main: x}
        lengths = {name: rows.row_lengths() for name, rows in inputs.items() if is_ragged(rows)}
        inputs = {name: dense(rows) for name, rows in inputs.items()}
        T = tf.shape(inputs[main])[1]
        if "source_ids" in lengths:
            mask = tf.sequence_mask(lengths["source_ids"], tf.shape(inputs["source_ids"])[1])
            inputs.setdefault("source_mask", mask)
        elif not learns_next and main in lengths:
            inputs.setdefault("document_ids", tf.sequence_mask(lengths[main], T, "int32"))
        x = inputs if isinstance(x, dict) or len(inputs) > 1 else inputs[main]
        if main not in lengths or not of_tokens or (y is None and not learns_next):
            return tuple(dense(part) for part in (x, y, sample_weight) if part is not None)
        real = tf.sequence_mask(lengths[main] - (y is None), T, "float32")
        if sample_weight is not None:
            sample_weight = tf.cast(dense(sample_weight), "float32")
            real *= sample_weight[:, None] if sample_weight.shape.rank == 1 else sample_weight
        return x, tf.pad(inputs[main][:, 1:], [[0, 0], [0, 1]]) if y is None else dense(y), real

    if hasattr(batches, "element_spec"):
        unpack = keras.utils.unpack_x_y_sample_weight
        return batches.map(lambda *batch: fill(*unpack(batch)))
    return fill(*batches)
