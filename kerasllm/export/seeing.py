"""SavedModels that take the bytes of image files: a vector of each image, or its label.

Shapes: B images, L labels, W width of vectors.
"""

import os

import keras
import tensorflow as tf

from kerasllm.files import new_folder
from kerasllm.images import ImageProcessor
from kerasllm.images.in_graph import InGraphImageProcessor
from kerasllm.models import ContrastiveModel, ImageClassifier

_IMAGES = tf.TensorSpec((None,), tf.string, "image")


def image_saved_model(
    model: ContrastiveModel | ImageClassifier, processor: ImageProcessor, path: str | os.PathLike
) -> None:
    """Writes a SavedModel that takes image files as bytes, in any TensorFlow runtime.

    Its signature, for B images of any sizes:
        serving_default, of a `ContrastiveModel`: image string (B,) -> vector float32 (B, W), of length 1.
        serving_default, of an `ImageClassifier`: image string (B,) -> label string (B,), the likeliest; labels string
            (B, L), probabilities and logits float32 (B, L).

    Args:
        model: such a model, on the TensorFlow backend.
        processor: its `ImageProcessor`, without tiles. What it does differently in a graph says
            `kerasllm.images.in_graph.decoding`.
        path: of the folder to make.

    Raises:
        FileExistsError: if `path` exists and is not an empty folder.
        TypeError: for another model.
        ValueError: for a processor that cannot be had in a graph, whose images are not those that the model takes, and
            on another backend.

    Example:
        >>> kerasllm.export.image_saved_model(model, kerasllm.images.ImageProcessor.load("clip"), "clip-saved-model")
        >>> saved = tf.saved_model.load("clip-saved-model").signatures["serving_default"]
        >>> saved(image=tf.constant([open("cat.jpg", "rb").read()]))["vector"]
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError("A SavedModel of images is made on the TensorFlow backend: set KERAS_BACKEND=tensorflow.")
    kind = next((served for of, served in _SERVED.items() if isinstance(model, of)), None)
    if kind is None:
        raise TypeError(f"model is a ContrastiveModel or an ImageClassifier, got {type(model).__name__}.")
    if processor.tiles is not None:
        raise ValueError("This model sees an image whole: give an ImageProcessor without tiles=.")
    served = kind(model, processor)
    with new_folder(path) as folder:
        tf.saved_model.save(served, str(folder), signatures={"serving_default": served.serving_default})


class _Served(tf.Module):
    def __init__(self, model, processor):
        super().__init__()
        self.variables_of_model = [variable.value for variable in model.variables]
        self._pixels = InGraphImageProcessor(processor).batch
        self._answer = lambda pixels: self._of(model, pixels)  # Keras' models are not to be tracked

    @tf.function(input_signature=[_IMAGES], autograph=False)
    def serving_default(self, image):
        return self._answer(self._pixels(image))


class _ServedVectors(_Served):
    def _of(self, model, pixels):
        return {"vector": tf.cast(model.image_vectors(pixels, training=False), tf.float32)}


class _ServedLabels(_Served):
    def _of(self, model, pixels):
        logits = tf.cast(model(pixels, training=False), tf.float32)
        labels = tf.constant([str(label) for label in model.labels or range(model.num_labels)])
        return {
            "label": tf.gather(labels, tf.argmax(logits, axis=-1)),
            "labels": tf.repeat(labels[None], tf.shape(logits)[0], axis=0),
            "probabilities": tf.nn.softmax(logits),
            "logits": logits,
        }


_SERVED = {ContrastiveModel: _ServedVectors, ImageClassifier: _ServedLabels}
