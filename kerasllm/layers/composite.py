"""Layers made of layers: what is frozen, adapted or quantized in them stays so, when they are built and saved."""

import contextlib

import keras

from kerasllm.layers.adaptable import Adaptable
from kerasllm.layers.dense import kernels_made_by

# What a config says of parts, by path. Run folders keep the first of models with adapters alone.
PART_SETTINGS = ("trainable_parts", "quantized_parts", "lora_parts", "kernel_layers", "adapters")
_RESTORABLE = ("int8", "int4", "float8")  # the other ways to quantize look at data


class Composite:
    """What layers and models have that make layers of their own: the base class before Keras' own.

    `layer.trainable = False` reaches the layers inside that there are. This tells it to those that `build` makes, and
    keeps in the config which parts differ, and which are adapted or quantized, so that they are again when the config
    is read.
    """

    _parts = {}  # what the config says of them, by what is said and by path

    def _post_build(self):
        super()._post_build()
        for layer in () if self.trainable else _children(self):
            layer.trainable = False
        self._change_parts()

    def _change_parts(self):
        inside = {path: layer for path, layer, _ in layers_inside(self)}
        for path, config in self._parts.get("kernel_layers", {}).items():
            if inside[path].kernel_layer is None:
                inside[path].replace_kernel(keras.saving.deserialize_keras_object(config))
        for path, config in self._parts.get("adapters", {}).items():
            inside[path].set_adapter(keras.saving.deserialize_keras_object(config))
        inside = {path: layer for path, layer, _ in layers_inside(self)}  # these too
        inside |= {weight.name: weight for weight in self._trainable_variables}
        for path, is_trainable in self._parts.get("trainable_parts", {}).items():
            inside[path].trainable = is_trainable
        for path, mode in self._parts.get("quantized_parts", {}).items():
            inside[path].quantize(mode)
        for path, options in self._parts.get("lora_parts", {}).items():
            inside[path].enable_lora(**options)

    def take_parts(self, config):
        """Freezes, adapts and quantizes what a config says, and is not so already."""
        there = self._parts_config()
        self._parts = {
            name: {path: value for path, value in config[name].items() if there.get(name, {}).get(path) != value}
            for name in PART_SETTINGS
            if name in config
        }
        self._change_parts()

    def get_config(self):
        return {**super().get_config(), **self._parts_config()}

    def _parts_config(self):
        parts = self._parts
        if self.built:
            inside = list(layers_inside(self))
            trainable = {p: layer.trainable for p, layer, of in inside if layer.trainable != of.trainable}
            own = {v.name: v.trainable for v in self._trainable_variables if v.trainable != self.trainable}
            parts = {
                "trainable_parts": {**trainable, **own},
                "quantized_parts": {p: layer.quantization_mode for p, layer, _ in inside if layer.quantization_mode},
                "lora_parts": _lora_over_quantized(inside),
                "kernel_layers": _held(inside, "kernel_layer"),
                "adapters": _held(inside, "adapter"),
            }
        return {what: dict(value) for what, value in parts.items() if value}

    @classmethod
    def from_config(cls, config):
        parts = {name: config[name] for name in PART_SETTINGS if name in config}
        with kernels_of_config(parts.get("kernel_layers", {})):
            layer = super().from_config({name: value for name, value in config.items() if name not in parts})
        layer._parts = parts
        if layer.built:
            layer._change_parts()
        return layer


def kernels_of_config(kernels):
    """A context within which layers are built with the kernels that a config has for them, by path."""

    def make_kernel(path):
        inside = path.partition("/")[2]
        return keras.saving.deserialize_keras_object(kernels[inside]) if inside in kernels else None

    return kernels_made_by(make_kernel) if kernels else contextlib.nullcontext()


def check_parts(model, plain):
    """Refuses to save what could not be loaded; with `plain`, what is quantized by Keras' own `quantize` or adapted."""
    modes = {layer.quantization_mode for layer in model._flatten_layers()} - {None, *(() if plain else _RESTORABLE)}
    if modes:
        raise ValueError(
            f"{model.name} is quantized by {min(modes)}, which could not be loaded again: save it before that."
        )
    for path, layer, _ in layers_inside(model):
        if plain and _part(layer, "adapter") is not None:
            raise ValueError(
                f"{path} has an adapter, for which there is no place here; a run folder and .keras have one. "
                "kerasllm.adapters.merge puts it into the kernel."
            )


def _lora_over_quantized(inside):
    """Keras' LoRA of quantized layers, which would lose by taking it in; others take it in where they are saved."""
    adapted = {p: layer for p, layer, _ in inside if layer.quantization_mode and getattr(layer, "lora_enabled", False)}
    return {p: {"rank": layer.lora_rank, "lora_alpha": layer.lora_alpha} for p, layer in adapted.items()}


def forget_compiled(model, keep_decoders=False):
    """Has what was compiled for the layers and weights that a model had compiled anew, when it is needed.

    Decoders are kept by which adapters are in use, but not beyond the life of weights.
    """
    model.train_function = model.test_function = model.predict_function = None
    if not keep_decoders:
        for kept in ("_compiled_decoders", "_compiled_searches"):
            vars(model).pop(kept, None)


def _held(inside, name):
    """The config of what dense layers hold under that name, which is built when it is put there again."""
    held = {p: _part(layer, name) for p, layer, _ in inside}
    configs = {p: keras.saving.serialize_keras_object(layer) for p, layer in held.items() if layer is not None}
    return {p: {k: v for k, v in config.items() if k != "build_config"} for p, config in configs.items()}


def _part(layer, name):
    return getattr(layer, name, None) if isinstance(layer, Adaptable) else None


def _children(layer):
    return layer._flatten_layers(include_self=False, recursive=False)


def layers_inside(layer, path=""):
    """The path of each layer inside, itself and what holds it; those that hold others come before these."""
    for child in _children(layer):
        yield path + child.name, child, layer
        yield from layers_inside(child, f"{path}{child.name}/")
