"""Layers made of layers: what is frozen in them stays so, when they are built and when they are saved."""

import keras


class Composite:
    """What layers and models have that make layers of their own: the base class before Keras' own.

    `layer.trainable = False` reaches the layers inside that there are. This tells it to those that `build` makes, and
    keeps in the config which parts differ, so that they do again when the config is read.
    """

    _trainable_parts = ()

    def _post_build(self):
        super()._post_build()
        self._set_trainable_parts()

    def _set_trainable_parts(self):
        for layer in () if self.trainable else _children(self):
            layer.trainable = False
        for path, is_trainable in dict(self._trainable_parts).items():
            layer = self
            for name in path.split("/"):
                layer = next((child for child in _children(layer) if child.name == name), None)
                if layer is None:
                    break
            else:
                layer.trainable = is_trainable

    def get_config(self):
        return {**super().get_config(), **self._trainable_config()}

    def _trainable_config(self):
        parts = dict(_differing_parts(self) if self.built else self._trainable_parts)
        return {"trainable_parts": parts} if parts else {}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        parts = config.pop("trainable_parts", ())
        layer = super().from_config(config)
        layer._trainable_parts = parts
        if layer.built:
            layer._set_trainable_parts()
        return layer


def _children(layer):
    return layer._flatten_layers(include_self=False, recursive=False)


def _differing_parts(layer, path=""):
    """Pairs of the path of a layer inside and whether it is trainable, where that differs from what holds it."""
    for child in _children(layer):
        if child.trainable != layer.trainable:
            yield path + child.name, child.trainable
        yield from _differing_parts(child, f"{path}{child.name}/")
