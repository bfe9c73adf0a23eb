"""The file itself: metadata by key and tensors by name, and which bytes they are.

The format is llama.cpp's, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The header is read here rather
than by the package's `GGUFReader`, which makes several arrays of every word of a vocabulary and believes whatever
lengths a damaged file gives; blocks are read by the package.
"""

import math
import mmap
import struct
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from kerasllm.gguf.package import gguf_package

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = 32  # where the file does not say another
_STRING, _ARRAY, _FLOAT = 8, 9, 6
_NUMBERS = {0: "u1", 1: "i1", 2: "u2", 3: "i2", 4: "u4", 5: "i4", 6: "f4", 7: "?", 10: "u8", 11: "i8", 12: "f8"}
_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": ml_dtypes.bfloat16}


class Place(NamedTuple):
    """Where a tensor lies.

    Attributes:
        name: str, in the file.
        shape: tuple of int, the outermost axis first, as NumPy has it.
        kind: str, its type: "F32", "Q4_K" ….
        start: int, its first byte in the file.
    """

    name: str
    shape: tuple
    kind: str
    start: int


class Container:
    """A GGUF file, of which nothing but the header is read before it is asked for.

    Args:
        path: path of the file.

    Attributes:
        path: `Path`.
        metadata: dict from keys to int, float, bool, str, or lists of them. A single number of float32 is the shortest
            decimal one that rounds to it: 1e-05, and not 9.999999747378752e-06.
        places: dict from names to `Place`s.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: without the package gguf.
        ValueError: if it is none of GGUF, is damaged or a part of a file, or holds a type of block that the package
            does not know.
    """

    def __init__(self, path):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"There is no file {path}.")
        self._gguf, self._data = gguf_package(), _mapped(self.path)
        if self._data[:4] != MAGIC:
            raise ValueError(f"{path} is no GGUF file: it does not begin with {MAGIC.decode()}.")
        header = _Header(self._data, 4)
        try:
            self.metadata, places = self._read(header)
        except (struct.error, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{path} is damaged or not whole ({error}); download it again.") from error
        if (parts := self.metadata.get("split.count", 1)) > 1:
            raise ValueError(
                f"{path} is one of {parts} parts of a model; join them with llama.cpp's `llama-gguf-split --merge`."
            )
        alignment = self.metadata.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(f"{path} says general.alignment={alignment!r}; download it again.")
        begin = -(-header.at // alignment) * alignment
        self.places = {name: self._place(name, *where, begin) for name, where in places.items()}

    def _read(self, header):
        version = header.number("u4")
        if version not in _VERSIONS:
            swapped = " of a machine with the other order of bytes" if version & 0xFFFF == 0 else ""
            raise ValueError(
                f"{self.path} is GGUF{swapped} of version {version}; versions {' and '.join(map(str, _VERSIONS))} of "
                "machines with the low byte first can be read."
            )
        tensors, keys = header.number("u8"), header.number("u8")
        metadata = {header.string(): header.value(header.number("u4")) for _ in range(header.count(keys))}
        places = {}
        for _ in range(header.count(tensors)):
            name = header.string()
            shape = tuple(header.number("u8") for _ in range(header.count(header.number("u4"))))
            places[name] = shape[::-1], header.number("u4"), header.number("u8")
        return metadata, places

    def _place(self, name, shape, code, offset, begin):
        try:
            kind = self._gguf.GGMLQuantizationType(code)
            per_block, bytes_per_block = self._gguf.GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"{self.path} holds {name!r} in blocks of type {code}, which the installed package gguf does not know: "
                "pip install --upgrade gguf, or take the file in another type."
            ) from error
        if not shape or shape[-1] % per_block:
            raise ValueError(
                f"{self.path} is damaged: {name!r} of shape {shape} has no whole blocks; download it again."
            )
        start = begin + offset
        end = start + math.prod(shape) // per_block * bytes_per_block
        if end > len(self._data):
            raise ValueError(
                f"{self.path} is not whole: {name!r} would end at byte {end:,} of {len(self._data):,}; download it "
                "again."
            )
        return Place(name, shape, kind.name, start)

    def read(self, name):
        """A tensor as an array: of floats, whose memory is the file's, or made of blocks, float32.

        Raises:
            ValueError: if it is of a type that stands for no numbers of a model.
        """
        _, shape, kind, start = self.places[name]
        if kind in _FLOATS:
            return np.frombuffer(self._data, _FLOATS[kind], math.prod(shape), start).reshape(shape)
        kind = self._gguf.GGMLQuantizationType[kind]
        per_block, bytes_per_block = self._gguf.GGML_QUANT_SIZES[kind]
        size = math.prod(shape) // per_block * bytes_per_block
        blocks = np.frombuffer(self._data, "u1", size, start).reshape(*shape[:-1], -1)
        try:
            return self._gguf.dequantize(blocks, kind)
        except NotImplementedError as error:
            raise ValueError(
                f"{self.path} holds {name!r} as {kind.name}, which the package gguf cannot read as floats; take the "
                "file in another type."
            ) from error


def _mapped(path):
    with open(path, "rb") as file:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # An empty file cannot be mapped.
            return b""


class _Header:
    """Values one behind the other, from a place in a file on."""

    def __init__(self, data, at):
        self._data, self.at = data, at

    def count(self, number):
        """A number of things to come, each of which takes a byte at least."""
        if number > len(self._data) - self.at:
            raise struct.error(f"{number} values where {len(self._data) - self.at} bytes are left")
        return number

    def take(self, size):
        """The next so many bytes."""
        self.at += self.count(size)
        return self._data[self.at - size : self.at]

    def number(self, code):
        return np.frombuffer(self.take(np.dtype(code).itemsize), f"<{code}")[0].item()

    def string(self):
        return self.take(int.from_bytes(self.take(8), "little")).decode("utf-8")

    def value(self, kind):
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            kind, count = self.number("u4"), self.count(self.number("u8"))
            if kind not in _NUMBERS:
                return [self.value(kind) for _ in range(count)]
            code = _NUMBERS[kind]
            return np.frombuffer(self.take(count * np.dtype(code).itemsize), f"<{code}").tolist()
        if kind not in _NUMBERS:
            raise struct.error(f"a value of type {kind}")
        number = self.number(_NUMBERS[kind])
        return shortest(number) if kind == _FLOAT else number


def shortest(number):
    """The float with the fewest digits that is this one in float32."""
    return float(str(np.float32(number)))
