"""Token files: a tokenized corpus on disk, memory-mapped when it is read.

A folder holds three files:

- tokens.bin: the ids of all documents one after the other, each with the end token, as little-endian uint16 or uint32;
- document_ends.bin: where each document ends in tokens.bin (one past its last token), as little-endian int64;
- manifest.json: format version, tokenizer fingerprint, counts, dtype, SHA-256 of both files.
"""

import hashlib
import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

VERSION = 1
_TOKENS, _ENDS, _MANIFEST = "tokens.bin", "document_ends.bin", "manifest.json"
_COUNTS = "vocab_size", "num_tokens", "num_documents", "num_bytes"
_DTYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
_BATCH_LENGTH = 2**20


def write_tokens(documents, tokenizer, folder, *, progress=True):
    """Tokenizes documents into a folder of token files.

    Documents stream through; about a million characters are held at a time, and tokenized in parallel. The folder is
    written under a temporary name beside its place, and renamed when it is whole.

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

    >>> files = write_tokens(["one", "two"], Tokenizer.train([], kind="byte"), "tokens")
    >>> files.num_tokens, files.document_ends.tolist()
    (8, [4, 8])
    """
    folder = Path(folder)
    if isinstance(documents, (str, bytes)):
        raise TypeError("documents is an iterable of str, got one string: pass [text].")
    with _made_whole(folder) as temporary, _progress_bar(progress) as show:
        _write_files(documents, tokenizer, temporary, show)
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

    def __init__(self, folder):
        self.folder = Path(folder)
        self._manifest = _read_manifest(self.folder)
        self.vocab_size, self.num_tokens, self.num_documents, self.num_bytes = (
            self._manifest[count] for count in _COUNTS
        )
        self.fingerprint = self._manifest["fingerprint"]
        self.tokens = self._map(_TOKENS, _DTYPES[self._manifest["dtype"]], self.num_tokens)
        self.document_ends = self._map(_ENDS, np.dtype("<i8"), self.num_documents)

    def check(self, tokenizer):
        """Raises ValueError unless `tokenizer` is the one that made these tokens."""
        if tokenizer.fingerprint() != self.fingerprint:
            raise ValueError(
                f"The tokens in {self.folder} were made by another tokenizer (fingerprint {self.fingerprint[:12]}…, "
                f"this one has {tokenizer.fingerprint()[:12]}…). Load that tokenizer, or write the tokens anew."
            )

    def verify(self):
        """Reads all files and raises ValueError where one has changed since it was written."""
        for name in (_TOKENS, _ENDS):
            with open(self.folder / name, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != self._manifest["sha256"].get(name):
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


def _write_files(documents, tokenizer, folder, show):
    dtype_name = "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"
    counts = dict.fromkeys(_COUNTS, 0) | {"vocab_size": tokenizer.vocab_size}
    with _HashedFile(folder / _TOKENS) as tokens, _HashedFile(folder / _ENDS) as ends:
        for batch in _batches(documents):
            rows = [_ended(ids, tokenizer.end_id) for ids in tokenizer.encode_batch(batch)]
            lengths = np.fromiter(map(len, rows), np.int64, len(rows))
            ends.write((counts["num_tokens"] + np.cumsum(lengths)).astype("<i8"))
            for row in rows:
                tokens.write(np.array(row, _DTYPES[dtype_name]))
            counts["num_tokens"] += int(lengths.sum())
            counts["num_documents"] += len(batch)
            counts["num_bytes"] += sum(len(document.encode()) for document in batch)
            show(counts)
    if not counts["num_tokens"]:
        raise ValueError("There are no documents to tokenize: at least one that is not empty is needed.")
    manifest = {
        "version": VERSION,
        "fingerprint": tokenizer.fingerprint(),
        "dtype": dtype_name,
        **counts,
        "sha256": {_TOKENS: tokens.digest, _ENDS: ends.digest},
    }
    with _HashedFile(folder / _MANIFEST) as file:
        file.write(json.dumps(manifest, indent=2).encode())


def _ended(ids, end_id):
    return ids if end_id is None or ids[-1:] == [end_id] else [*ids, end_id]


def _batches(documents):
    """Lists of documents of about _BATCH_LENGTH characters."""
    batch, length = [], 0
    for document in documents:
        if not isinstance(document, str):
            raise TypeError(f"Documents must be str, got {type(document).__name__}: {document!r:.60}.")
        batch.append(document)
        length += len(document)
        if length >= _BATCH_LENGTH:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


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

    def __exit__(self, kind, *_):
        with self._file:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
        self.digest = self._hash.hexdigest()


@contextmanager
def _made_whole(folder):
    """Yields a temporary folder that becomes `folder` at the end, or vanishes where anything goes wrong."""
    if folder.exists():
        raise FileExistsError(f"{folder} exists already and is not overwritten: choose another folder, or remove it.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        os.rename(temporary, folder)
    except OSError as error:
        raise OSError(
            error.errno, f"Writing tokens to {folder} failed ({error.strerror}); nothing was left there"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read_manifest(folder):
    path = folder / _MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"No token files at {folder}: make them with kerasllm.data.write_tokens.")
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


@contextmanager
def _progress_bar(show):
    """Yields a function that shows the counts so far."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not show) as bar:
        task = bar.add_task("tokenizing")

        def update(counts):
            elapsed = bar.tasks[task].elapsed or 1e-9
            bar.update(
                task,
                description=f"tokenizing: {counts['num_documents']:,} documents, {counts['num_bytes'] / 1e6:,.1f} MB, "
                f"{counts['num_tokens']:,} tokens, {counts['num_tokens'] / elapsed:,.0f} tokens/s",
            )

        yield update
