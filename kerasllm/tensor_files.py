"""Files of tensors, safetensors: all of a model's in one, or in one of each of several processes.

model.safetensors                        whole tensors by name
model.part-0002-of-0004.safetensors      pieces of tensors, that one process of four had: of NAME, from the element
                                         at 128 and 0 on, "NAME@128,0"; all shapes are in the header
"""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kerasllm import backend
from kerasllm.files import replacing


def write_tensors(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a safetensors file, whole or not at all.

    Args:
        path: path of the file to write or replace.
        arrays: dict from names to NumPy arrays.

    Raises:
        OSError: if it cannot be written.
    """
    _write(path, arrays, {})


def write_part(path: Path, pieces: Mapping[str, "Pieces"], number: int, count: int) -> Path:
    """Writes what one of several processes has of the tensors of a file, and returns the path of that.

    Args:
        path: path that the file would have; there is none.
        pieces: dict from names to `Pieces`, none of which another process has too.
        number, count: ints, of the process, from 0 on, and of all.
    """
    part = path.with_name(f"{path.stem}.part-{number + 1:04d}-of-{count:04d}{path.suffix}")
    arrays = {
        f"{name}@{','.join(map(str, begin))}": array for name, tensor in pieces.items() for begin, array in tensor.parts
    }
    _write(part, arrays, {"shapes": json.dumps({name: tensor.shape for name, tensor in pieces.items()})})
    return part


def parts_of(path: Path) -> list[Path]:
    """The files that there are in the place of one: itself, or its parts."""
    if path.is_file():
        return [path]
    return sorted(path.parent.glob(f"{path.stem}.part-*-of-*{path.suffix}"))


def read_tensors(
    path: str | os.PathLike, variables: Mapping[str, keras.Variable], needed: Iterable[str] | None = None
) -> None:
    """Reads a safetensors file, or its parts, into variables, all of them or none. Of what is on a mesh of devices,
    each process reads what its own devices have.

    Args:
        path: path of the file.
        variables: dict from the names in the file to Keras variables.
        needed: the names that it must hold; all of them when absent.

    Raises:
        ValueError: if it is no safetensors file, or its names or shapes are not those of the variables.
    """
    stored = stored_tensors(path, variables, needed)
    for name, variable in variables.items():
        if name in stored:
            backend.assign_parts(variable, stored[name].read)


def stored_tensors(
    path: str | os.PathLike, variables: Mapping[str, keras.Variable], needed: Iterable[str] | None = None
) -> dict[str, "StoredTensor"]:
    """What a file holds for variables, by name, as `read_tensors` checks it."""
    path = Path(path)
    stored = {}
    for part in parts_of(path) or [path]:
        _look_into(part, stored)
    needed = variables if needed is None else sorted(needed)
    if missing := [name for name in needed if name not in stored]:
        raise ValueError(f"{path} lacks the tensor {missing[0]!r}{_and_more(missing)} that the model asks for.")
    if unexpected := sorted(stored.keys() - variables.keys()):
        raise ValueError(
            f"{path} holds the tensor {unexpected[0]!r}{_and_more(unexpected)}, which the model has no place for."
        )
    for name, tensor in stored.items():
        if tensor.shape != tuple(variables[name].shape):
            raise ValueError(
                f"{path} holds {name!r} with shape {tensor.shape}, where the model asks for "
                f"{tuple(variables[name].shape)}."
            )
        if sum(math.prod(place.shape) for place in tensor.places) != math.prod(tensor.shape):
            raise ValueError(f"{path}: its parts do not hold all of {name!r}; copy the folder again.")
    return stored


class Pieces(NamedTuple):
    """What a process has of a tensor.

    Attributes:
        shape: tuple, of the whole.
        parts: list of pairs, where a piece begins and the array.
    """

    shape: tuple
    parts: list


class StoredTensor(NamedTuple):
    """A tensor that is in files.

    Attributes:
        shape: tuple.
        places: list of `_Place`, which do not overlap.
    """

    shape: tuple
    places: list

    def read(self, index):
        """The part of it that a tuple of slices picks out, as a NumPy array; no more is read."""
        wanted = [range(*part.indices(size)) for part, size in zip(index, self.shape, strict=True)]
        found = None
        for place in self.places:
            shared = [
                range(max(a.start, begin), min(a.stop, begin + size))
                for a, begin, size in zip(wanted, place.begin, place.shape, strict=True)
            ]
            if not all(shared) and self.shape and math.prod(place.shape):
                continue
            inside = tuple(slice(r.start - begin, r.stop - begin) for r, begin in zip(shared, place.begin, strict=True))
            piece = place.read(inside)
            if list(piece.shape) == [len(part) for part in wanted]:
                return piece
            if found is None:
                found = np.empty([len(part) for part in wanted], piece.dtype)
            outside = (slice(r.start - a.start, r.stop - a.start) for r, a in zip(shared, wanted, strict=True))
            found[tuple(outside)] = piece
        return found


class _Place(NamedTuple):
    """A piece of a tensor: its file and name there, where in the tensor it begins, and its shape."""

    path: Path
    key: str
    begin: tuple
    shape: tuple

    def read(self, index):
        with safe_open(self.path, framework="numpy") as file:  # anew: what was read of a mapped file counts as memory
            return file.get_slice(self.key)[index] if self.shape else file.get_tensor(self.key)


def _look_into(path, stored):
    """Adds what a file holds to a dict from names to `StoredTensor`."""
    try:
        file = safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); copy the folder again.") from error
    with file:
        shapes = json.loads((file.metadata() or {}).get("shapes", "{}"))
        for key in sorted(file.keys()):
            shape = tuple(file.get_slice(key).get_shape())
            name, _, begin = key.rpartition("@") if shapes else (key, "", ",".join("0" * len(shape)))
            place = _Place(path, key, tuple(map(int, filter(None, begin.split(",")))), shape)
            whole = tuple(shapes[name]) if shapes else shape
            stored.setdefault(name, StoredTensor(whole, [])).places.append(place)


def _write(path, arrays, header):
    with replacing(Path(path)) as draft:
        draft.touch()
        mode = draft.stat().st_mode  # that of any new file; safetensors makes its own private
        arrays = {name: np.asarray(a, order="C") for name, a in arrays.items()}
        try:
            save_file(arrays, draft, {"format": "kerasllm", **header})
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(draft)) from error
        draft.chmod(mode)


def _and_more(names):
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
