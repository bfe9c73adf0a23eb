"""What is to be learned: labels, and how much each of them counts.

Shapes: B batch, T time.
"""

from keras import ops

from kerasllm import backend


def labels_of(y_true):
    """The labels among what `fit` gives as y: that itself, or what a dict has as "labels"."""
    return y_true["labels"] if isinstance(y_true, dict) else y_true


def targets(labels, sample_weight, outputs, ignore_class):
    """What is to be learned.

    Args:
        labels: int (B, T) or (B, T, 1).
        sample_weight: float (B, T), or (B,) for whole rows, or None.
        outputs: (B, T, any), of which the shape alone is looked at.
        ignore_class: int or None, the label of which nothing is to be learned.

    Returns:
        Labels int (B, T), 0 where nothing is to be learned, whatever stood there; and weights float32 (B, T).
    """
    labels = as_rows(labels, outputs)
    weight = token_weights(sample_weight, labels)
    if ignore_class is not None:
        weight = ops.where(labels == ignore_class, 0.0, weight)
    return ops.where(weight != 0, labels, 0), weight


def as_rows(labels, outputs):
    """Labels int (B, T), from (B, T) or (B, T, 1), for outputs (B, T, any)."""
    labels = backend.as_integers(labels)
    given, wanted = backend.static_shape(labels), tuple(outputs.shape[:-1])
    if given is None or given[2:] == (1,):  # TensorFlow no longer knows which, where one `fit` had one and one another
        return ops.reshape(labels, ops.shape(outputs)[:-1])
    if len(given) != 2 or any(None not in (a, b) and a != b for a, b in zip(given, wanted, strict=True)):
        raise ValueError(
            f"Labels {given} do not fit the model's output {tuple(outputs.shape)}: a label is needed for each token, "
            "such as the token that follows it."
        )
    return labels


def token_weights(sample_weight, labels):
    """Weights float32 (B, T) of labels (B, T), from those of tokens, those of rows (B,) or None, which is 1 for all."""
    shape = ops.shape(labels)
    if sample_weight is None:
        return ops.ones(shape, "float32")
    weight = ops.cast(sample_weight, "float32")
    given = backend.static_shape(weight)
    if given is None or len(given) != 2:
        weight = ops.reshape(weight, (shape[0], -1))
    if any(None not in (a, b) and a not in (1, b) for a, b in zip(weight.shape, labels.shape, strict=True)):
        raise ValueError(f"`sample_weight` {tuple(sample_weight.shape)} does not fit the labels {tuple(labels.shape)}.")
    return ops.broadcast_to(weight, shape)
