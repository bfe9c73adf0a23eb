"""How well vectors of images and texts find each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_AT_ONCE = 1024  # vectors whose products with all others exist at a time


@dataclass(frozen=True)
class MatchingScores:
    """What `matching_scores` found out.

    Attributes:
        text_to_image: dict from k to the share of the texts of which an image that belongs to them is among the k
            nearest of all images.
        image_to_text: The same of images, among all texts.
        images, texts: How many there were.
    """

    text_to_image: dict[int, float]
    image_to_text: dict[int, float]
    images: int
    texts: int

    def __str__(self):
        rows = [f"{'recall at':<16}" + "".join(f"{k:>8}" for k in self.text_to_image)]
        for name, recalls in (("text to image", self.text_to_image), ("image to text", self.image_to_text)):
            rows.append(f"{name:<16}" + "".join(f"{100 * value:>8.1f}" for value in recalls.values()))
        return "\n".join([*rows, f"{'among':<16}{self.images:,} images and {self.texts:,} texts"])


def matching_scores(
    image_vectors: np.ndarray,
    text_vectors: np.ndarray,
    image_labels: Sequence[int] | None = None,
    text_labels: Sequence[int] | None = None,
    ks: Sequence[int] = (1, 5, 10),
) -> MatchingScores:
    """Recall at k of retrieval by cosine, in both directions, as for Flickr30k and COCO.

    Args:
        image_vectors: float (I, D).
        text_vectors: float (N, D).
        image_labels, text_labels: int (I,) and (N,). An image and a text of one label belong together, of which an
            image may have several. None, for both: the first with the first, and so on.
        ks: how many of the nearest count.

    Returns:
        `MatchingScores`. What is as near as one that belongs counts as nearer, so that equal vectors find nothing.

    Raises:
        ValueError: for vectors that are not finite, other shapes, or one to which nothing belongs.

    Example:

    >>> vectors = np.eye(3)
    >>> matching_scores(vectors, vectors[[1, 0, 2]]).text_to_image[1]
    0.3333333333333333
    """
    vectors = [np.asarray(one, np.float64) for one in (image_vectors, text_vectors)]
    if any(one.ndim != 2 or not one.size for one in vectors) or vectors[0].shape[1] != vectors[1].shape[1]:
        shapes = " and ".join(str(one.shape) for one in vectors)
        raise ValueError(f"Vectors of images and texts are (I, D) and (N, D), of one width, got {shapes}.")
    if not all(np.isfinite(one).all() for one in vectors):
        raise ValueError("Some of the vectors are not finite.")
    given = (image_labels, text_labels)
    labels = [
        np.arange(len(one)) if label is None else np.asarray(label) for one, label in zip(vectors, given, strict=True)
    ]
    for one, label, kind in zip(vectors, labels, ("image", "text"), strict=True):
        if label.shape != one.shape[:1]:
            raise ValueError(f"There are {len(one)} vectors and {label.shape} {kind}_labels: give a label for each.")
    if any(k < 1 for k in ks):
        raise ValueError(f"ks are at least 1, got {tuple(ks)}.")
    images, texts = (one / np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-12) for one in vectors)
    return MatchingScores(
        text_to_image=_recalls(texts, images, labels[1], labels[0], ks, "text"),
        image_to_text=_recalls(images, texts, labels[0], labels[1], ks, "image"),
        images=len(images),
        texts=len(texts),
    )


def _recalls(queries, others, labels, other_labels, ks, kind):
    missing = ~np.isin(labels, other_labels)
    if missing.any():
        raise ValueError(f"Nothing belongs to {kind} {int(missing.argmax())}: no other has its label.")
    ranks = []
    for begin in range(0, len(queries), _AT_ONCE):
        cosines = queries[begin : begin + _AT_ONCE] @ others.T
        belongs = labels[begin : begin + _AT_ONCE, None] == other_labels
        best = np.where(belongs, cosines, -np.inf).max(axis=1, keepdims=True)
        ranks.append(1 + ((cosines >= best) & ~belongs).sum(axis=1))
    ranks = np.concatenate(ranks)
    return {int(k): float((ranks <= k).mean()) for k in ks}
