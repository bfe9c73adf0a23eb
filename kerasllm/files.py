"""Files that appear whole or not at all, however the program ends."""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from pathlib import Path


@contextlib.contextmanager
def new_folder(folder):
    """A context in which to write a folder that appears under its name when the context ends well, and never else.

    Args:
        folder: path of the folder to make. It must not exist; missing parents are made.

    Yields:
        The path to write to: a temporary name beside `folder`, so that the last step is one rename.

    Raises:
        FileExistsError: if `folder` exists; it is not touched.
        OSError: if something could not be written; the temporary folder is gone.
    """
    folder = Path(folder)
    if os.path.lexists(folder):
        raise FileExistsError(f"{folder} exists, and is left as it is: name a folder that does not, or move it away.")
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        draft.mkdir(parents=True)
        yield draft
        flush(draft)
        draft.rename(folder)
        flush(folder.parent)
    except OSError as error:
        if error.strerror is None or not str(error.filename or draft).startswith(str(draft)):
            raise  # Already a sentence, or about something else.
        raise OSError(
            error.errno,
            f"Could not write {folder} ({error.strerror}); nothing was left behind. Free some space or "
            "name another place.",
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def replacing(path):
    """Yields a temporary path beside `path`; when the context ends well it is flushed and takes `path`'s name."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield draft
        flush(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path, value):
    """Writes JSON to `path`, which then holds the old content or the new, never a part.

    Args:
        path: path of the file to write or replace.
        value: plain JSON types.
    """
    with replacing(Path(path)) as draft:
        draft.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path):
    """Reads the JSON object in a file that exists.

    Raises:
        ValueError: if it is not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); copy the folder again.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__} where a JSON object belongs; copy the folder again.")
    return value


def flush(path):
    """Waits until a file, or the names in a folder, are on the disk; where a system cannot open folders, skips them."""
    if os.path.isdir(path) and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path):
    """The SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
