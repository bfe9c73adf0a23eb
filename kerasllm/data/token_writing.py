"""How token files are written: the names and bytes of their parts, and the manifest that makes them whole."""

import contextlib
import hashlib
import json

import numpy as np

from kerasllm.storage import new_file

MANIFEST = "manifest.json"
COUNTS = "vocab_size", "num_tokens", "num_documents", "num_bytes"
DTYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
ENDS_DTYPE = np.dtype("<i8")
ONE_PART, SHARDS = 1, 2  # the versions of the format


def names_of(shard=None):
    """The names of a part's two files, tokens and document ends; shard is its number where there are several."""
    behind = "" if shard is None else f"-{shard:05}"
    return f"tokens{behind}.bin", f"document_ends{behind}.bin"


def dtype_name(tokenizer):
    """The smallest type that holds a tokenizer's ids, a key of DTYPES."""
    return "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"


class TokenWriter:
    """Writes a part of token files. A context: the files appear when it ends well.

    Args:
        folder: path of the folder, here or in an object store.
        tokenizer: `Tokenizer`, whose end token follows each document, unless its own post-processor has put it there.
        shard: int, the part's number, or None for the only one.

    Attributes:
        counts: dict of `num_tokens`, `num_documents` and `num_bytes`, so far.
        sha256: dict of the files' names and their SHA-256, at the end.
    """

    def __init__(self, folder, tokenizer, shard=None):
        self._folder, self._tokenizer, self._names = folder, tokenizer, names_of(shard)
        self._dtype = DTYPES[dtype_name(tokenizer)]
        self.counts, self.sha256 = dict.fromkeys(COUNTS[1:], 0), {}

    def __enter__(self):
        with contextlib.ExitStack() as files:
            opened = [files.enter_context(new_file(self._folder / name)) for name in self._names]
            self._files = [_Hashed(file) for file in opened]
            self._to_close = files.pop_all()
        return self

    def __exit__(self, *error):
        self.sha256 = {name: file.digest() for name, file in zip(self._names, self._files, strict=True)}
        return self._to_close.__exit__(*error)

    def add(self, documents):
        """Writes documents, and yields after each; empty ones are left out."""
        end_id = self._tokenizer.end_id
        for ids in self._tokenizer.encode_stream(self._counted(documents)):
            if end_id is not None and end_id not in ids[-1:]:
                ids = np.append(ids, end_id)
            self.counts["num_tokens"] += len(ids)
            self.counts["num_documents"] += 1
            for file, values in zip(self._files, (ids.astype(self._dtype), self._end()), strict=True):
                file.write(values)
            yield

    def _end(self):
        return np.array(self.counts["num_tokens"], ENDS_DTYPE)

    def _counted(self, documents):
        for document in documents:
            if document != "":
                yield document
                self.counts["num_bytes"] += len(document.encode())


class _Hashed:
    """A file that is hashed as it is written."""

    def __init__(self, file):
        self._file, self._hash = file, hashlib.sha256()

    def write(self, values):
        data = values.tobytes()
        self._file.write(data)
        self._hash.update(data)

    def digest(self):
        return self._hash.hexdigest()


def write_manifest(folder, tokenizer, version, counts, more):
    """Writes what makes a folder one of token files. In an object store this comes last.

    Args:
        folder: path.
        tokenizer: `Tokenizer` of the tokens.
        version: ONE_PART or SHARDS.
        counts: dict, of all parts.
        more: dict, what else it says.

    Raises:
        ValueError: where there is no token.
    """
    if not counts["num_tokens"]:
        raise ValueError("There is nothing to tokenize: at least one document that is not empty is needed.")
    manifest = {
        "version": version,
        "fingerprint": tokenizer.fingerprint(),
        "dtype": dtype_name(tokenizer),
        "vocab_size": tokenizer.vocab_size,
        **counts,
        **more,
    }
    with new_file(folder / MANIFEST) as file:
        file.write((json.dumps(manifest, indent=2) + "\n").encode())
