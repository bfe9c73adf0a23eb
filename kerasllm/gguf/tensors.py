"""The tensors of a GGUF file as those of a checkpoint in Hugging Face's format, and back."""

import re

import numpy as np

from kerasllm.gguf import rope
from kerasllm.huggingface.names import swapped
from kerasllm.huggingface.tensors import Checkpoint

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
# What old files hold beside what is computed with.
_UNUSED = re.compile(r"rot_embd$|rope_freqs$|^rope_factors_(long|short)")


class GGUFCheckpoint(Checkpoint):
    """The tensors of a file by their names in Hugging Face's format. None is read before it is asked for.

    Args:
        container: Container.
        architecture: Architecture.
        settings: dict of config.json.
    """

    settings_name = "metadata"

    def __init__(self, container, architecture, settings):
        self.folder = container.path
        self._container, self._architecture, self._settings = container, architecture, settings
        self._locations = {}
        for name, place in container.places.items():
            part, number, kind = _split(name)
            if name not in rope.TENSORS and not _UNUSED.search(part):
                theirs = architecture.tensors.get(part)
                self._locations[_joined(theirs, number, kind) if theirs else name] = place
        self._held = {}

    def shape(self, name):
        place = self._locations[name]
        return turned(place.shape, place.name, self._architecture)

    def path(self, name):
        return self.folder

    def own_name(self, name):
        """What a tensor is called in the file."""
        if name in self._locations:
            return self._locations[name].name
        return own_name(self._architecture, name)

    def read(self, name):
        """The tensor as an array. The last three are held: a weight is made of so many at most, some rows at a time."""
        name = self._locations[name].name
        if name not in self._held:
            self._held = dict([*self._held.items()][-2:])
            array = self._container.read(name)
            self._held[name] = reordered(array, name, self._architecture, self._settings, step=1)
        return self._held[name]


def own_name(architecture, name):
    """What a tensor of Hugging Face's format is called in GGUF; its own name where that has no place for it."""
    part, number, kind = _split(name)
    names = {theirs: ours for ours, theirs in architecture.tensors.items()}
    return _joined(names[part], number, kind) if part in names else name


def turned(shape, name, architecture):
    """The shape of a tensor of GGUF in Hugging Face's format, or the other way."""
    return shape[::-1] if _split(name)[0] in architecture.transposed else shape


def reordered(array, name, architecture, settings, step):
    """A tensor as Hugging Face's format has it.

    Args:
        array: of a GGUF file.
        name: str, there.
        architecture: Architecture.
        settings: dict of config.json.
        step: int, 1; or -1 to make that of a GGUF file of one of Hugging Face's.
    """
    part = _split(name)[0]
    if part in architecture.transposed:
        return array.T
    if part in architecture.interleaved:
        h = len(array) // settings[architecture.interleaved[part]]
        return swapped(array.T, -1, *(h // 2, 2)[::step], 1).T
    if architecture.norm_offset and part.endswith("_norm"):
        return array - np.float32(step * architecture.norm_offset)
    return array


def _split(name):
    """A name's part with "#" for its number, the number, and ".weight" or ".bias" behind it."""
    number = next(iter(_NUMBER.findall(name)), "")
    part, dot, kind = _NUMBER.sub("#", name, count=1).rpartition(".")
    return (part, number, f".{kind}") if dot else (name, "", "")


def _joined(part, number, kind):
    return part.replace("#", number, 1) + kind
