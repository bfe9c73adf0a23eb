"""The weights of a model by name."""

import keras
import numpy as np

from kerasllm.layers.composite import check_quantization


def weight_names(model):
    """Maps a stable name to each weight of a model: its path inside the model.

    Keras puts the model's own name first (`causal_lm_1/...` for the second model of a program); that is left out.

    Args:
        model: a built Keras model.

    Returns:
        A dict from name to Keras variable, in the model's order; tied weights appear once.
    """
    names = {weight.path.partition("/")[2]: weight for weight in model.weights}
    if len(names) != len(model.weights):
        raise ValueError(f"{type(model).__name__} has weights that share a path; give its layers names of their own.")
    return names


def weights_to_save(model, quantized=True):
    """The same weights as functions that make NumPy arrays of them, what Keras' `enable_lora` has added merged.

    Args:
        model: a built Keras model.
        quantized: bool, whether there is a place for what Keras' `quantize` makes.

    Returns:
        A dict from name to function, of the weights that the model has without LoRA.

    Raises:
        ValueError: if it is quantized in a way that cannot be loaded again.
    """
    check_quantization(model, *([] if quantized else [()]))
    merged = {}
    for layer in model._flatten_layers():
        if getattr(layer, "lora_enabled", False):
            name = "embeddings" if hasattr(layer, "lora_embeddings_a") else "kernel"
            merged[id(getattr(layer, f"_{name}"))] = layer, name

    def array_of(weight):
        layer, name = merged.get(id(weight), (None, None))
        return np.asarray(keras.ops.convert_to_numpy(weight if layer is None else getattr(layer, name)))

    weights = weight_names(model).items()
    return {name: lambda weight=weight: array_of(weight) for name, weight in weights if weight.name[:5] != "lora_"}
