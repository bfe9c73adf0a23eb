"""The weights of a model by name."""

from typing import NamedTuple

import keras
import numpy as np

from kerasllm.layers.composite import check_parts, layers_inside
from kerasllm.layers.dense import Dense


def weight_names(model):
    """Maps a stable name to each weight of a model: its path inside the model.

    Keras puts the model's own name first (`causal_lm_1/...` for the second model of a program); that is left out.

    Args:
        model: a built Keras model.

    Returns:
        A dict from name to Keras variable, in the model's order; tied weights appear once.
    """
    names = {_name(weight): weight for weight in model.weights}
    if len(names) != len(model.weights):
        raise ValueError(f"{type(model).__name__} has weights that share a path; give its layers names of their own.")
    return names


def _name(weight):
    return weight.path.partition("/")[2]


class KernelInAnotherForm(NamedTuple):
    """The kernel (D, U) of a `Dense` that has it in another form, such as a quantized one, like a variable."""

    layer: Dense

    @property
    def shape(self):
        return self.layer.input_spec.axes[-1], self.layer.units

    def assign(self, kernel):
        self.layer.kernel_layer.assign(kernel)

    def __array__(self, dtype=None, copy=None):
        kernel = keras.ops.cast(self.layer.kernel, self.layer.variable_dtype)
        return np.asarray(keras.ops.convert_to_numpy(kernel), dtype)


class TableInAnotherForm(KernelInAnotherForm):
    """The same of the table (V, D) of a `ReversibleEmbedding`."""

    @property
    def shape(self):
        return self.layer.input_dim, self.layer.output_dim

    def assign(self, table):
        self.layer.kernel_layer.assign(keras.ops.transpose(table))

    def __array__(self, dtype=None, copy=None):
        return np.asarray(keras.ops.convert_to_numpy(self.layer.embeddings), dtype)


def weights_in_float(model):
    """As `weight_names`, of the weights that a model has when no kernel is in another form.

    Returns:
        A dict from name to Keras variable, or `KernelInAnotherForm`.
    """
    held = {path: layer for path, layer, _ in layers_inside(model) if getattr(layer, "kernel_layer", None) is not None}
    kept = {id(weight) for layer in held.values() for weight in layer.kernel_layer.weights}
    weights = {name: weight for name, weight in weight_names(model).items() if id(weight) not in kept}
    for path, layer in held.items():
        is_dense = isinstance(layer, Dense)
        name, form = ("kernel", KernelInAnotherForm) if is_dense else ("embeddings", TableInAnotherForm)
        weights[f"{path}/{name}"] = form(layer)
    return weights


def weights_to_save(model, plain=False):
    """The same weights as functions that make NumPy arrays of them, what Keras' `enable_lora` has added merged,
    but for that over quantized layers.

    Args:
        model: a built Keras model.
        plain: bool, whether there is a place for the model's own weights alone: kernels in another form are then made
            floats, one at a time, and what is adapted is refused.

    Returns:
        A dict from name to function, of the weights that the model has without Keras' LoRA.

    Raises:
        ValueError: if it is quantized or adapted in a way that cannot be loaded again.
    """
    check_parts(model, plain)
    merged, added = {}, set()
    for layer in model._flatten_layers():
        if getattr(layer, "lora_enabled", False) and not layer.quantization_mode:
            name = "embeddings" if hasattr(layer, "lora_embeddings_a") else "kernel"
            merged[id(getattr(layer, f"_{name}"))] = layer, name
            added |= {id(getattr(layer, f"lora_{name}_{half}")) for half in "ab"}

    def array_of(weight):
        if isinstance(weight, KernelInAnotherForm):
            return np.asarray(weight)
        layer, name = merged.get(id(weight), (None, None))
        return np.asarray(keras.ops.convert_to_numpy(weight if layer is None else getattr(layer, name)))

    weights = (weights_in_float(model) if plain else weight_names(model)).items()
    return {name: lambda weight=weight: array_of(weight) for name, weight in weights if id(weight) not in added}
