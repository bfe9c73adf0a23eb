"""Layers made of layers: what is frozen or quantized in them stays so, when they are built and when they are saved."""

_RESTORABLE = ("int8", "int4", "float8")  # the other ways to quantize look at data


class Composite:
    """What layers and models have that make layers of their own: the base class before Keras' own.

    `layer.trainable = False` reaches the layers inside that there are. This tells it to those that `build` makes, and
    keeps in the config which parts differ, and which are quantized, so that they do again when the config is read.
    """

    _parts = {}  # what the config says of them, by what is said and by path

    def _post_build(self):
        super()._post_build()
        for layer in () if self.trainable else _children(self):
            layer.trainable = False
        self._change_parts()

    def _change_parts(self):
        inside = {path: layer for path, layer, _ in _layers_inside(self)}
        for path, is_trainable in self._parts.get("trainable_parts", {}).items():
            inside[path].trainable = is_trainable
        for path, mode in self._parts.get("quantized_parts", {}).items():
            inside[path].quantize(mode)

    def get_config(self):
        return {**super().get_config(), **self._parts_config()}

    def _parts_config(self):
        parts = self._parts
        if self.built:
            inside = list(_layers_inside(self))
            parts = {
                "trainable_parts": {p: layer.trainable for p, layer, of in inside if layer.trainable != of.trainable},
                "quantized_parts": {p: layer.quantization_mode for p, layer, _ in inside if layer.quantization_mode},
            }
        return {what: dict(value) for what, value in parts.items() if value}

    @classmethod
    def from_config(cls, config):
        parts = {name: config[name] for name in ("trainable_parts", "quantized_parts") if name in config}
        layer = super().from_config({name: value for name, value in config.items() if name not in parts})
        layer._parts = parts
        if layer.built:
            layer._change_parts()
        return layer


def check_quantization(layer, restorable=_RESTORABLE):
    """Refuses to save what could not be loaded."""
    modes = {inner.quantization_mode for inner in layer._flatten_layers()} - {None, *restorable}
    if modes:
        raise ValueError(
            f"{layer.name} is quantized by {min(modes)}, which could not be loaded again: save it before that."
        )


def _children(layer):
    return layer._flatten_layers(include_self=False, recursive=False)


def _layers_inside(layer, path=""):
    """The path of each layer inside, itself and what holds it; those that hold others come before these."""
    for child in _children(layer):
        yield path + child.name, child, layer
        yield from _layers_inside(child, f"{path}{child.name}/")
