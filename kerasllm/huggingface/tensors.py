"""Weights on disk: safetensors files, one or several, read through a memory map and written in shards."""

import json
import math
import re
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from kerasllm.files import write_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000
_ROWS_AT_ONCE = 1024  # so that no second copy of a large table is ever held
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": ml_dtypes.bfloat16}
# Those of quantized weights too.
PACKED_DTYPES = {
    **_DTYPES,
    **{"U8": "uint8", "I8": "int8", "I32": "int32", "I64": "int64"},
    **{"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E8M0": ml_dtypes.float8_e8m0fnu},
}
_CODES = {np.dtype(dtype): code for code, dtype in _DTYPES.items()}


class _Location(NamedTuple):
    """Where a tensor lies: the bytes from `start` on in a file."""

    path: Path
    dtype: str
    shape: tuple
    start: int


class Checkpoint:
    """The tensors of a folder by name. None is read before it is asked for.

    Args:
        folder: Path of a folder with model.safetensors, or with shards and their index.
        renames: pairs (regular expression, replacement), applied to the names.
        single: str, the name of the file that holds all of them.

    Attributes:
        folder: that folder.

    Raises:
        FileNotFoundError: if there are no safetensors files, or a shard is missing.
        ValueError: if a file is damaged, or the index names a file outside the folder.
    """

    settings_name = "config.json"  # what says which tensors there are

    def __init__(self, folder, renames=(), single=SINGLE):
        self.folder = folder
        self._locations = {}
        for path in _files(folder, single):
            for name, location in _locations(path).items():
                for pattern, replacement in renames:
                    name = re.sub(pattern, replacement, name)
                self._locations[name] = location

    def add(self, folder, prefix):
        """Adds the tensors of another folder, with a prefix to their names."""
        other = Checkpoint(folder)
        self._locations |= {f"{prefix}{name}": location for name, location in other._locations.items()}

    @property
    def names(self):
        return self._locations.keys()

    def shape(self, name):
        return self._locations[name].shape

    def path(self, name):
        return self._locations[name].path

    def own_name(self, name):
        """What a tensor is called in the file, for messages."""
        return name

    def alias(self, name, other):
        """Gives a tensor another name too."""
        self._locations[name] = self._locations[other]

    def equal(self, name, other):
        """Whether two tensors are equal."""
        if self._locations[name] == self._locations[other]:
            return True
        one, two = self.read(name), self.read(other)
        rows = range(0, len(one), _ROWS_AT_ONCE)
        return one.shape == two.shape and all(
            np.array_equal(one[i : i + _ROWS_AT_ONCE], two[i : i + _ROWS_AT_ONCE]) for i in rows
        )

    def read(self, name):
        """The tensor as an array whose memory is the file's."""
        return mapped(name, self._locations[name], _DTYPES)

    def is_packed(self, name):
        """Whether a tensor is made of quantized ones, all of which are read for a part of it."""
        return False


def mapped(name, location, dtypes):
    """The tensor that lies there, of one of those dtypes."""
    path, dtype, shape, start = location
    if dtype not in dtypes:
        raise ValueError(f"{path} holds {name!r} as {dtype}; weights of type {', '.join(_DTYPES)} can be read.")
    return np.memmap(path, dtype=dtypes[dtype], mode="r", offset=start, shape=shape or (1,)).reshape(shape)


def _files(folder, single):
    if (folder / single).is_file():
        return [folder / single]
    index = folder / INDEX
    if not index.is_file():
        if pickled := sorted(path.name for path in folder.glob("*.bin")):
            raise ValueError(
                f"{folder} has its weights in {pickled[0]} only, a pickle, which can run code when it is read. Ask for "
                "a safetensors file, or convert it with transformers: "
                'model.save_pretrained("folder", safe_serialization=True).'
            )
        raise FileNotFoundError(f"{folder} has neither {single} nor {INDEX}.")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is no index of safetensors files ({error!r}); copy the folder again.") from error
    for name in names:
        if Path(name).name != name or name in ("", ".", ".."):
            raise ValueError(f"{index} names the file {name!r}, which is not one of its own folder.")
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} lacks {name}, which {INDEX} names; copy the folder again.")
    return [folder / name for name in names]


def _locations(path):
    try:
        with safe_open(path, framework="numpy") as file:  # checks the header, its length and that of the file
            file.keys()
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); copy it again.") from error
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {
        name: _Location(path, entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
        for name, entry in header.items()
    }


def write(folder, specs, tensors, single=SINGLE):
    """Writes tensors into one file, or into shards with an index where they are too large for one.

    Args:
        folder: Path of a folder.
        specs: dict from name to the pair (NumPy dtype, shape).
        tensors: function (name) -> array; one is held at a time.
        single: str, the name of the one file.
    """
    shards, sizes = [[]], {name: dtype.itemsize * math.prod(shape) for name, (dtype, shape) in specs.items()}
    for name, size in sizes.items():
        if shards[-1] and sum(sizes[other] for other in shards[-1]) + size > SHARD_BYTES:
            shards.append([])
        shards[-1].append(name)
    files = [single]
    if len(shards) > 1:
        files = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
        files_by_name = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": files_by_name}
        write_json(folder / INDEX, index)
    for file, names in zip(files, shards, strict=True):
        _write_file(folder / file, {name: specs[name] for name in names}, tensors)


def _write_file(path, specs, tensors):
    """Writes one file tensor by tensor, which `safetensors` itself, given all of them at once, cannot."""
    # "pt" says that matrices are as torch has them; transformers refuses files that say nothing.
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape) in specs.items():
        start, end = end, end + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": _CODES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that tensors begin at multiples of 8
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in specs:
            file.write(np.ascontiguousarray(tensors(name)).reshape(-1).view("uint8"))
