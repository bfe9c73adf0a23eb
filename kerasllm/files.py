"""Files that appear whole or not at all, however the program ends, and manifests that tell when one has changed."""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

import yaml

MANIFEST = "manifest.json"


@contextlib.contextmanager
def new_folder(folder):
    """A context in which to write a folder that appears under its name when the context ends well, and never else.

    Args:
        folder: path of the folder to make. It must not exist, or be empty; missing parents are made.

    Yields:
        The path to write to: a temporary name beside `folder`, so that the last step is one rename.

    Raises:
        FileExistsError: if `folder` exists and is not an empty folder; it is not touched.
        OSError: if something could not be written; the temporary folder is gone.
    """
    check_new_folder(folder)
    folder = Path(os.path.abspath(folder))
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        draft.mkdir(parents=True)
        if folder.exists():
            shutil.copymode(folder, draft)
        yield draft
        flush(draft)
        if os.name != "posix" and folder.exists():
            folder.rmdir()  # Elsewhere no folder takes the place of another, not even of an empty one.
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


def check_new_folder(folder):
    """Refuses a path where `new_folder` would not write: it exists, and is not an empty folder that one can replace.

    Args:
        folder: path.

    Raises:
        FileExistsError: if so.
    """
    folder = Path(folder)
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir() or any(folder.iterdir()):
        raise FileExistsError(f"{folder} exists, and is left as it is: name a folder that does not, or move it away.")
    if folder.samefile(os.curdir):
        raise FileExistsError(f"{folder} is the folder that you are in, and would be replaced: name another.")


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


def seal(folder, leave_out=(), known=None):
    """Writes a folder's manifest, the SHA-256 of every file in it and of itself, and flushes all of it to disk.

    Args:
        folder: path of a folder whose files are complete. Its manifest, if it has one, is replaced.
        leave_out: names of sub-folders that the manifest does not cover.
        known: dict from names of files to their SHA-256, where that is known, and they are flushed; or None.
    """
    folder = Path(folder)
    paths = [path for path in sorted(folder.rglob("*")) if path.relative_to(folder).parts[0] not in leave_out]
    files = [path for path in paths if path.is_file() and path != folder / MANIFEST]
    names, known = {path: path.relative_to(folder).as_posix() for path in files}, known or {}
    digests = {name: known[name] if name in known else sha256(path) for path, name in names.items()}
    write_json(folder / MANIFEST, _signed(digests))
    for path in [
        *(path for path in files if names[path] not in known),
        *(path for path in paths if path.is_dir()),
        folder,
    ]:
        flush(path)


def sealed_files(folder):
    """What the manifest of a folder says: a dict from the name of each file to its SHA-256.

    Raises:
        FileNotFoundError: if there is no manifest.
        ValueError: if the manifest is damaged, or names a file outside the folder.
    """
    path = Path(folder) / MANIFEST
    manifest = read_json(path)
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise ValueError(f"{path} lists no files; copy the folder again.")
    if manifest != _signed(files) or path.read_bytes() != _as_json(manifest):
        raise ValueError(f"{path} is not the file that was saved (its own SHA-256 differs); copy the folder again.")
    root = path.parent.resolve()
    for name in files:
        if "\0" in name or not (root / name).resolve().is_relative_to(root):
            raise ValueError(f"{path} names {name!r}, which is outside its folder; nothing of it is read.")
    return files


def check_file(folder, name, digest):
    """Refuses a file that is not the one that was sealed.

    Args:
        folder, name: path of the folder, and of the file in it.
        digest: str, its SHA-256 as `sealed_files` gives it.

    Raises:
        FileNotFoundError: if the file is gone.
        ValueError: if it changed.
    """
    path = Path(folder) / name
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {name}; copy the folder again.")
    if sha256(path) != digest:
        raise ValueError(f"{path} is not the file that was saved (its SHA-256 differs); copy the folder again.")


def write_json(path, value):
    """Writes JSON to `path`, which then holds the old content or the new, never a part.

    Args:
        path: path of the file to write or replace.
        value: plain JSON types.
    """
    with replacing(Path(path)) as draft:
        draft.write_bytes(_as_json(value))


def read_json(path, kind=dict):
    """Reads the JSON object, or another `kind` of value, in a file that exists.

    Raises:
        ValueError: if it is not JSON, or not of that kind.
    """
    try:
        value = json.loads(read_utf8(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); copy the folder again.") from error
    if not isinstance(value, kind):
        wanted = {dict: "object", list: "list"}[kind]
        raise ValueError(f"{path} holds a {type(value).__name__} where a JSON {wanted} belongs; copy the folder again.")
    return value


def read_utf8(path):
    """The text of a file, without the byte-order mark that some editors put before it.

    Raises:
        ValueError: if it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: byte {error.start}; copy the folder again.") from error


def read_yaml_file(path, missing):
    """What a YAML file holds.

    Args:
        path: path.
        missing: str, the message where there is none.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not YAML.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(missing)
    try:
        return yaml.safe_load(read_utf8(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that there is not
        raise ValueError(f"{path} is not YAML: {error}.") from error


def _signed(files):
    return {"files": files, "sha256": hashlib.sha256(_as_json(files)).hexdigest()}


def _as_json(value):
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


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


def check_documents(name, value):
    """Raises TypeError for what is no iterable of str.

    Some of it can be iterated over, and the letters of a str, the keys of a dict and the names of a table's columns
    would be taken for documents.
    """
    if isinstance(value, str | bytes | os.PathLike):
        raise TypeError(
            f"{name} is an iterable of str, got one {type(value).__name__}: pass [text] for one text, or "
            "kerasllm.data.read_text(path) for what is in files."
        )
    is_sequence = hasattr(value, "__iter__") or hasattr(value, "__getitem__")
    if not is_sequence or isinstance(value, Mapping) or getattr(value, "ndim", 1) != 1:
        raise TypeError(f"{name} is an iterable of str, such as a list, got {type(value).__name__}.")
