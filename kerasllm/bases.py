"""What a model was before it was tuned: where its base is, and what of the model that base does not have.

A run folder of a model with adapters holds what was learned, and says of its base where it is and what its weights are.
"""

import dataclasses
import functools
import hashlib
import os
import zlib
from pathlib import Path

import keras
import numpy as np

from kerasllm.files import MANIFEST, sealed_files, sha256
from kerasllm.huggingface.loading import folder_of
from kerasllm.models import with_new_tokens
from kerasllm.models.weights import weight_names

_WEIGHTS = "model.safetensors"


@dataclasses.dataclass(frozen=True)
class Base:
    """What a model was loaded from.

    Attributes:
        path: absolute path of a folder or a file.
        id: str, the name of the repository of the hub that it came from; None where it did not.
        revision: str, the commit of that repository, or None.
        sums: dict from names of weights to checksums of what was loaded.
        stamps: what the files of weights looked like then.
        new_tokens: tuple of lists of ids, those that the model was given since, each time that it was.
        quantize: str, the kind that it was quantized to while it was loaded, or None.
        new_head: bool, whether the model has another head than it, as a classifier made over it.
    """

    path: Path
    id: str | None
    revision: str | None
    sums: dict
    stamps: list
    new_tokens: tuple = ()
    quantize: str | None = None
    new_head: bool = False

    @classmethod
    def of(cls, model, path, id=None, quantize=None):
        """The base that a model is which was loaded from a path, of a repository of the hub or not."""
        path = Path(os.path.abspath(path))
        revision = path.name if id and path.parent.name == "snapshots" else None
        sums = {name: _sum(weight) for name, weight in weight_names(model).items()}
        return cls(path, id, revision, sums, _stamps(path), quantize=quantize)

    def holds(self, name, array):
        """Whether it has a weight of a model."""
        return self.sums.get(name) == _sum(array)

    def grown(self, ids, before, after):
        """The base of a model with new tokens.

        Args:
            ids: list of int, the new ones.
            before: function (name) -> array, of the model without them.
            after: dict from names to the weights of the one with them.
        """
        sums = {name: _sum(weight) for name, weight in after.items() if self.holds(name, before(name))}
        return dataclasses.replace(self, sums=sums, new_tokens=(*self.new_tokens, ids))

    def under_a_new_head(self, names):
        """The base of a model made over this one, of which it has the weights of those names."""
        sums = {name: self.sums[name] for name in names if name in self.sums}
        return dataclasses.replace(self, sums=sums, new_head=True)

    @functools.cached_property
    def fingerprint(self):
        return fingerprint_of(self.path)

    def describe(self):
        """What `config.json` says of it, a dict of plain JSON types, but for where it is from there."""
        return {
            "path": self.path.as_posix(),
            **({"id": self.id, "revision": self.revision} if self.id else {}),
            "fingerprint": self.fingerprint,
            **({"new_tokens": list(self.new_tokens)} if self.new_tokens else {}),
            **({"quantize": self.quantize} if self.quantize else {}),
            **({"new_head": True} if self.new_head else {}),
        }


def base_of_tuned(model):
    """The `Base` of a model that has adapters; None for others, and where its files are not those that were loaded."""
    base = getattr(model, "base", None)
    if base is None or "adapters" not in model.get_config() or base.stamps != _stamps(base.path):
        return None
    return base


def find(description, folder):
    """Where the base is that a run folder names.

    Args:
        description: dict, what its config.json says of the base.
        folder: path of the run folder.

    Returns:
        The path of the base, and the name of its repository or None.

    Raises:
        FileNotFoundError: if it is nowhere.
        ValueError: if what is there is not what the model was tuned from.
    """
    path, name = Path(description["path"]), description.get("id")
    beside = folder / description.get("relative", "..")
    places = dict.fromkeys(Path(os.path.abspath(place)) for place in (beside, path, folder.parent / path.name))
    found = [place for place in places if _weight_files(place)]
    for place in found:
        if fingerprint_of(place) == description["fingerprint"]:
            return place, name
    if found:
        raise ValueError(
            f"{found[0]} is not the base that {folder} was tuned from: its weights have the fingerprint "
            f"{fingerprint_of(found[0])[:12]}…, those of the base {description['fingerprint'][:12]}…. Bring it back as "
            "it was."
        )
    looked = f"{folder} holds what was learned beside a base, which was looked for in {', '.join(map(str, places))}"
    if name is None:
        raise FileNotFoundError(f"{looked}, and is not there: put it into one of these places.")
    try:
        path = folder_of(name, description.get("revision"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{looked} and on the hub: put it into one of these places. {error}") from error
    if fingerprint_of(path) != description["fingerprint"]:
        raise ValueError(f"The hub gives another {name} than {folder} was tuned from: its weights have changed.")
    return path, name


def with_all_tokens(model, description):
    """A base with the tokens that a model was given after it was loaded."""
    for ids in description.get("new_tokens", ()):
        model = with_new_tokens(model, ids)
    return model


def fingerprint_of(path):
    """A hash (64 hexadecimal digits) of the files of weights of a base; that of a run folder is in its manifest."""
    path = Path(path)
    if (path / MANIFEST).is_file():
        return sealed_files(path).get(_WEIGHTS, "")
    hashes = [sha256(file) for file in _weight_files(path)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _weight_files(path):
    return [path] if path.is_file() else sorted(path.glob("*.safetensors"))


def _stamps(path):
    found = [file.stat() for file in _weight_files(path)]
    return [(stat.st_size, stat.st_mtime_ns) for stat in found]


def _sum(weight):
    """A checksum of its product with some numbers, which takes a tenth of the time that one of its bytes would."""
    if not len(weight.shape):
        return zlib.crc32(np.ascontiguousarray(keras.ops.convert_to_numpy(weight)).tobytes())
    numbers = np.random.default_rng(0).uniform(1, 2, weight.shape[-1]).astype("float32")
    rows = keras.ops.matmul(keras.ops.cast(weight, "float32"), numbers)
    return zlib.crc32(np.ascontiguousarray(keras.ops.convert_to_numpy(rows)).tobytes())
