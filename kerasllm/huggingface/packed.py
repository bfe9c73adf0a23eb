"""A checkpoint whose weights others quantized, with floats in their place."""

from kerasllm.huggingface.tensors import PACKED_DTYPES, Checkpoint, mapped
from kerasllm.quantization.formats import formats_of


class QuantizedCheckpoint(Checkpoint):
    """A `Checkpoint` in which the tensors of a quantized layer are one, `….weight`, of floats (out, in).

    Args:
        folder, renames: as for a `Checkpoint`.
        settings: dict, the `quantization_config` of config.json.
        path: of config.json.

    Raises:
        ValueError: if they are quantized in a way that cannot be read, or a part is missing.
    """

    def __init__(self, folder, renames, settings, path):
        super().__init__(folder, renames)
        self._settings, self._packed = settings, {}
        for form in formats_of(settings, path):
            for name in list(self._locations):
                for mark in form.marks:
                    if name.endswith(f".{mark}"):
                        self._pack(name.removesuffix(mark), mark, form)

    def _pack(self, layer, mark, form):
        names = {part: layer + part for part in (mark, *form.parts) if layer + part in self._locations}
        if lacking := set(form.needed) - names.keys():
            raise ValueError(f"{self.folder} lacks the tensor {layer + min(lacking)!r}.")
        parts = {part: self._locations.pop(name) for part, name in names.items()}
        shape = form.shape(
            {part: location.shape for part, location in parts.items()}, _arrays(layer, {mark: parts[mark]})
        )
        self._locations[f"{layer}weight"] = parts[mark]._replace(shape=shape)
        self._packed[f"{layer}weight"] = layer, parts, form

    def is_packed(self, name):
        return name in self._packed

    def read(self, name):
        if name not in self._packed:
            return super().read(name)
        layer, parts, form = self._packed[name]
        try:
            return form.read(_arrays(layer, parts), self._settings)
        except (ValueError, IndexError, KeyError, StopIteration) as error:
            raise ValueError(f"{self.path(name)} holds {name!r} in a form that cannot be read: {error}.") from error


def _arrays(layer, parts):
    return {part: mapped(layer + part, location, PACKED_DTYPES) for part, location in parts.items()}
