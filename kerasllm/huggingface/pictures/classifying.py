"""Vision Transformers with a head for labels (Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929)."""

from kerasllm.huggingface.classifiers import labels_of
from kerasllm.huggingface.names import dense, placed
from kerasllm.huggingface.pictures.encoders import ENCODERS, read_encoder, write_encoder
from kerasllm.models import ImageClassifier

KIND = "vit"


def _weights(config, _):
    return {**placed(ENCODERS[KIND].weights(config), "vision/", "vit."), **dense("head_output", "classifier")}


FAMILY = ENCODERS[KIND]._replace(weights=_weights, unused=r"pooler\.")


def read_model(values, path, dtype):
    """The `ImageClassifier` that a config.json asks for, without its weights."""
    count, labels = labels_of(values)
    config = read_encoder(values, KIND, path)
    return ImageClassifier(config, count, labels=labels, random_weights=False, dtype=dtype)


def write_model(model):
    """What config.json says of an `ImageClassifier`."""
    names = {"num_labels": model.num_labels}
    if model.labels is not None:
        names = {"id2label": {str(i): label for i, label in enumerate(model.labels)}}
        names["label2id"] = {label: i for i, label in enumerate(model.labels)}
    return {
        **write_encoder(model.config, [KIND]),
        "architectures": [FAMILY.architecture],
        **names,
        "dtype": model.variable_dtype,
        "torch_dtype": model.variable_dtype,
    }
