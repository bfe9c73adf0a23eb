"""Token files: a tokenized corpus on disk, memory-mapped when it is read.

A folder holds three files:

- tokens.bin: the ids of all documents one after the other, each with the end token, as little-endian uint16 or uint32;
- document_ends.bin: where each document ends in tokens.bin (one past its last token), as little-endian int64;
- manifest.json: format version, tokenizer fingerprint, counts, dtype, SHA-256 of both files.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from kerasllm.files import check_documents, new_folder, sha256, write_json
from kerasllm.progress import progress_bar
from kerasllm.tokenizers import Tokenizer, as_tokenizer

VERSION = 1
_TOKENS, _ENDS, _MANIFEST = "tokens.bin", "document_ends.bin", "manifest.json"
_COUNTS = "vocab_size", "num_tokens", "num_documents", "num_bytes"
_SHOWN_EVERY = 2**14  # tokens, as each time costs more than a short document
_DTYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


def write_tokens(
    documents: Iterable[str], tokenizer: Tokenizer, folder: str | os.PathLike, *, progress: bool = True
) -> "TokenFiles":
    """Tokenizes documents into a folder of token files.

    Documents stream through: about half a million characters are tokenized at a time, in parallel. The folder is
    written under a temporary name beside its place, and renamed when it is whole. Empty documents are left out.

    Args:
        documents: iterable of str.
        tokenizer: `kerasllm.tokenizers.Tokenizer`. Its end token follows each document, unless its own post-processor
            has put it there.
        folder: the folder to make. Its parents are made if need be.
        progress: bool, whether to show documents, tokens and tokens/s (on standard error).

    Returns:
        `TokenFiles` of the folder.

    Raises:
        FileExistsError: where the folder exists.
        ValueError: where there is no document.
        OSError: where the disk is full; nothing is left behind.

    Example:

    >>> from kerasllm.tokenizers import Tokenizer
    >>> tokenizer = Tokenizer.train([], kind="byte")
    >>> folder = os.path.join(tempfile.mkdtemp(), "tokens")
    >>> files = write_tokens(["one", "two"], tokenizer, folder, progress=False)
    >>> files.num_tokens, files.document_ends.tolist()
    (8, [4, 8])
    """
    folder = Path(folder)
    check_documents("documents", documents)
    tokenizer = as_tokenizer(tokenizer)
    counts = dict.fromkeys(_COUNTS, 0) | {"vocab_size": tokenizer.vocab_size}
    with new_folder(folder) as temporary, progress_bar(progress) as bar:
        task = bar.add_task("tokenizing", total=None, unit="tokens")

        def show():
            seen = f"tokenizing {counts['num_documents']:,} documents, {counts['num_bytes'] / 1e6:,.1f} MB"
            bar.update(task, description=seen, completed=counts["num_tokens"])

        _write_files(documents, tokenizer, temporary, counts, show)
    return TokenFiles(folder)


class TokenFiles:
    """A folder of token files, opened read-only.

    Args:
        folder: as `write_tokens` made it.

    Attributes:
        tokens: (num_tokens,) uint16 or uint32 memory map.
        document_ends: (num_documents,) int64 memory map, one past each document's last token.
        num_tokens, num_documents: int; tokens include the end tokens.
        num_bytes: int, of the documents' text in UTF-8.
        vocab_size: int, of the tokenizer.
        fingerprint: str, of the tokenizer.

    Raises:
        FileNotFoundError: where there is no manifest.
        ValueError: where a file's size is not the manifest's, or the manifest cannot be read.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self._manifest = _read_manifest(self.folder)
        self.vocab_size, self.num_tokens, self.num_documents, self.num_bytes = (
            self._manifest[count] for count in _COUNTS
        )
        self.fingerprint = self._manifest["fingerprint"]
        self.tokens = self._map(_TOKENS, _DTYPES[self._manifest["dtype"]], self.num_tokens)
        self.document_ends = self._map(_ENDS, np.dtype("<i8"), self.num_documents)

    def check(self, tokenizer: Tokenizer) -> None:
        """Raises ValueError unless `tokenizer` is the one that made these tokens."""
        if tokenizer.fingerprint() != self.fingerprint:
            raise ValueError(
                f"The tokens in {self.folder} were made by another tokenizer (fingerprint {self.fingerprint[:12]}…, "
                f"this one has {tokenizer.fingerprint()[:12]}…). Load that tokenizer, or write the tokens anew."
            )

    def verify(self) -> None:
        """Reads all files and raises ValueError where one has changed since it was written."""
        for name in (_TOKENS, _ENDS):
            if sha256(self.folder / name) != self._manifest["sha256"].get(name):
                raise ValueError(f"{self.folder / name} is damaged: its SHA-256 is not the manifest's. Write it anew.")

    def __repr__(self):
        return f"TokenFiles({str(self.folder)!r}, num_tokens={self.num_tokens}, num_documents={self.num_documents})"

    def _map(self, name, dtype, count):
        path = self.folder / name
        size = path.stat().st_size if path.is_file() else 0
        if size != count * dtype.itemsize:
            raise ValueError(
                f"{path} has {size} bytes where the manifest says {count * dtype.itemsize}. Write the tokens anew."
            )
        return np.memmap(path, dtype, mode="r")


def _write_files(documents, tokenizer, folder, counts, show):
    shown = 0
    dtype_name, end_id = "uint16" if tokenizer.vocab_size <= 2**16 else "uint32", tokenizer.end_id
    with _HashedFile(folder / _TOKENS) as tokens, _HashedFile(folder / _ENDS) as ends:
        for ids in tokenizer.encode_stream(_counted(documents, counts)):
            if end_id is not None and end_id not in ids[-1:]:
                ids = np.append(ids, end_id)
            tokens.write(ids.astype(_DTYPES[dtype_name]))
            counts["num_tokens"] += len(ids)
            ends.write(np.int64(counts["num_tokens"]).astype("<i8"))
            counts["num_documents"] += 1
            if counts["num_tokens"] - shown >= _SHOWN_EVERY:
                shown = counts["num_tokens"]
                show()
    show()
    if not counts["num_tokens"]:
        raise ValueError("There is nothing to tokenize: at least one document that is not empty is needed.")
    manifest = {
        "version": VERSION,
        "fingerprint": tokenizer.fingerprint(),
        "dtype": dtype_name,
        **counts,
        "sha256": {_TOKENS: tokens.digest, _ENDS: ends.digest},
    }
    write_json(folder / _MANIFEST, manifest)


class _HashedFile:
    """A new file that is hashed as it is written, and on disk when it is closed."""

    def __init__(self, path):
        self._file = open(path, "xb")  # noqa: SIM115
        self._hash = hashlib.sha256()

    def write(self, data):
        self._file.write(data)
        self._hash.update(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        self.digest = self._hash.hexdigest()


def _read_manifest(folder):
    path = folder / _MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"No token files at {folder}: make them with write_tokens, or pass documents, such as read_text(path) "
            "for files and [text] for one text."
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version, dtype = manifest["version"], manifest["dtype"]
        sound = all(type(manifest[count]) is int and manifest[count] > 0 for count in _COUNTS)
        sound = sound and isinstance(manifest["fingerprint"], str) and isinstance(manifest["sha256"], dict)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a manifest of token files: {error!r}.") from error
    if version != VERSION:
        raise ValueError(f"{path} has version {version!r}; this kerasllm reads version {VERSION}.")
    if dtype not in _DTYPES or not sound:
        raise ValueError(f"{path} is damaged: its dtype, counts, fingerprint or checksums make no sense.")
    return manifest


def _counted(documents, counts):
    for document in documents:
        if document != "":
            yield document
            counts["num_bytes"] += len(document.encode())
