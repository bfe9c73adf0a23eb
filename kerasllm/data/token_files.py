"""Token files: a tokenized corpus on disk, memory-mapped when it is read, or in an object store.

A folder holds three files:

- tokens.bin: the ids of all documents one after the other, each with the end token, as little-endian uint16 or uint32;
- document_ends.bin: where each document ends in tokens.bin (one past its last token), as little-endian int64;
- manifest.json: format version, tokenizer fingerprint, counts, dtype, SHA-256 of both files.

Or, of a large corpus, shards: tokens-00000.bin, document_ends-00000.bin (each counts from its own first token), and so
on, read as if they stood one behind the other. `kerasllm.preparation` writes those.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kerasllm.data.token_arrays import JoinedArray, RemoteArray, new_blocks
from kerasllm.data.token_streams import TokenStream
from kerasllm.data.token_writing import (
    COUNTS,
    DTYPES,
    ENDS_DTYPE,
    MANIFEST,
    ONE_PART,
    SHARDS,
    TokenWriter,
    names_of,
    write_manifest,
)
from kerasllm.files import check_documents, new_folder
from kerasllm.progress import progress_bar
from kerasllm.storage import RemotePath, path_of
from kerasllm.tokenizers import Tokenizer, as_tokenizer

_SHOWN_EVERY = 2**14  # tokens, as each time costs more than a short document


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
    with new_folder(folder) as temporary, progress_bar(progress) as bar:
        task = bar.add_task("tokenizing", total=None, unit="tokens")
        with TokenWriter(temporary, tokenizer) as writer:
            counts, shown = writer.counts, 0

            def show():
                seen = f"tokenizing {counts['num_documents']:,} documents, {counts['num_bytes'] / 1e6:,.1f} MB"
                bar.update(task, description=seen, completed=counts["num_tokens"])

            for _ in writer.add(documents):
                if counts["num_tokens"] - shown >= _SHOWN_EVERY:
                    shown = counts["num_tokens"]
                    show()
            show()
        write_manifest(temporary, tokenizer, ONE_PART, counts, {"sha256": writer.sha256})
    return TokenFiles(folder)


def is_token_folder(path: str | os.PathLike) -> bool:
    """Whether there are token files at a path."""
    manifest = path_of(path) / MANIFEST
    try:
        return manifest.is_file() and "fingerprint" in json.loads(manifest.read_text("utf-8"))
    except ValueError:
        return False


class TokenFiles(TokenStream):
    """A folder of token files, opened read-only.

    Args:
        folder: as `write_tokens` or `kerasllm.preparation.prepare` made it; "gs://bucket/tokens" and what else fsspec
            knows are read as they are needed, with at most 64 MB of them in memory.

    Attributes:
        tokens: (num_tokens,) uint16 or uint32 memory map; of shards and of object stores an array that reads slices.
        document_ends: (num_documents,) int64, likewise, one past each document's last token.
        num_tokens, num_documents: int; tokens include the end tokens.
        num_bytes: int, of the documents' text in UTF-8.
        vocab_size: int, of the tokenizer.
        fingerprint: str, of the tokenizer.
        sha256: str, of the manifest, which has the hashes of all files.
        report: dict, what became of the documents by which rule, where `preparation.prepare` made the folder.

    Raises:
        FileNotFoundError: where there is no manifest.
        ValueError: where a file's size is not the manifest's, or the manifest cannot be read.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = path_of(folder)
        manifest = _read_manifest(self.folder)
        self.sha256 = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        self.num_bytes, self.report = manifest["num_bytes"], manifest.get("report", {})
        self._dtype, self._blocks = DTYPES[manifest["dtype"]], new_blocks()
        sharded = manifest["version"] == SHARDS
        self._parts = []
        for number, part in enumerate(manifest["shards"] if sharded else [manifest]):
            tokens_name, ends_name = names_of(number if sharded else None)
            self._parts.append(_Part(tokens_name, ends_name, part))
        filled = [part for part in self._parts if part.counts["num_tokens"]]
        tokens = [self._array(part.tokens, self._dtype, part.counts["num_tokens"]) for part in filled]
        ends = [self._array(part.ends, ENDS_DTYPE, part.counts["num_documents"]) for part in filled]
        befores = np.cumsum([0, *(part.counts["num_tokens"] for part in filled)])[:-1].tolist()
        plain = not sharded and not isinstance(self.folder, RemotePath)
        super().__init__(
            str(self.folder),
            tokens[0] if plain else JoinedArray(tokens),
            ends[0] if plain else JoinedArray(ends, befores),
            manifest["vocab_size"],
            manifest["fingerprint"],
        )

    def verify(self) -> None:
        """Reads all files and raises ValueError where one has changed since it was written."""
        for part in self._parts:
            for name in (part.tokens, part.ends):
                with (self.folder / name).open("rb") as file:
                    digest = _sha256(file)
                if digest != part.counts["sha256"].get(name):
                    raise ValueError(
                        f"{self.folder / name} is damaged: its SHA-256 is not the manifest's. Write it anew."
                    )

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that `preparation.prepare` saved beside the tokens.

        Raises:
            FileNotFoundError: where there is none.
        """
        with tempfile.TemporaryDirectory() as temporary:
            for name in ("tokenizer.json", "tokenizer_config.json"):
                if (self.folder / name).is_file():
                    (Path(temporary) / name).write_text((self.folder / name).read_text("utf-8"), "utf-8")
            if not any(Path(temporary).iterdir()):
                raise FileNotFoundError(f"{self.folder} holds no tokenizer: name the one that its tokens were made by.")
            tokenizer = Tokenizer.load(temporary)
        self.check(tokenizer)
        return tokenizer

    def __repr__(self):
        return f"TokenFiles({str(self.folder)!r}, num_tokens={self.num_tokens}, num_documents={self.num_documents})"

    def _array(self, name, dtype, count):
        path = self.folder / name
        if isinstance(path, RemotePath):
            return RemoteArray(path, dtype, count, self._blocks)
        size = path.stat().st_size if path.is_file() else 0
        if size != count * dtype.itemsize:
            raise ValueError(
                f"{path} has {size} bytes where the manifest says {count * dtype.itemsize}. Write the tokens anew."
            )
        return np.memmap(path, dtype, mode="r")


class _Part(NamedTuple):
    """The names of a part's files, and what the manifest says of it."""

    tokens: str
    ends: str
    counts: dict


def _sha256(file):
    digest = hashlib.sha256()
    while chunk := file.read(2**20):
        digest.update(chunk)
    return digest.hexdigest()


def _read_manifest(folder):
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"No token files at {folder}: make them with write_tokens, or pass documents, such as read_text(path) "
            "for files and [text] for one text."
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version, dtype = manifest["version"], manifest["dtype"]
        sound = all(type(manifest[count]) is int and manifest[count] > 0 for count in COUNTS)
        sound = sound and isinstance(manifest["fingerprint"], str)
        parts = manifest["shards"] if version == SHARDS else [manifest]
        sound = sound and all(isinstance(part["sha256"], dict) for part in parts)
        sound = sound and all(manifest[count] == sum(part[count] for part in parts) for count in COUNTS[1:])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a manifest of token files: {error!r}.") from error
    if version not in (ONE_PART, SHARDS):
        raise ValueError(f"{path} has version {version!r}; this kerasllm reads versions {ONE_PART} and {SHARDS}.")
    if dtype not in DTYPES or not sound:
        raise ValueError(f"{path} is damaged: its dtype, counts, fingerprint or checksums make no sense.")
    return manifest
