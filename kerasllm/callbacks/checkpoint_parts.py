"""A checkpoint that several processes write at once, into a folder that all of them see.

Each writes its part beside the place of the checkpoint, and then a note that it has. The first one waits for all notes,
adds the rest, and gives the folder its name. They do not talk otherwise, so that training goes on meanwhile.
"""

import contextlib
import shutil
import time

from kerasllm.files import flush, read_json, sha256, write_json

_PAUSE = 0.05  # seconds
_SIGHT = 5  # seconds after which all hosts see what one has done in a folder


def add(folder, write, number):
    """Writes what a process has of a checkpoint.

    Args:
        folder: path of the checkpoint that is to be.
        write: function (path of a folder) -> the files that it wrote there.
        number: int, of the process.
    """
    draft = _draft_of(folder)
    draft.mkdir(parents=True, exist_ok=True)
    try:
        note = {"files": {path.name: sha256(path) for path in write(draft)}}
    except (OSError, ValueError) as error:
        note = {"failure": getattr(error, "strerror", None) or str(error)}
    write_json(_note_of(draft, number), note)


@contextlib.contextmanager
def completed(folder, count):
    """A context in which the first process adds the rest, once all have written their parts. When it ends well the
    checkpoint has its name.

    Yields:
        The path to write to, and the SHA-256 of the files that are there.

    Raises:
        OSError: if a process could not write its part.
    """
    draft = _draft_of(folder)
    try:
        notes = [_waited_for(_note_of(draft, number)) for number in range(count)]
        for number, note in enumerate(notes):
            _note_of(draft, number).unlink()
            if "failure" in note:
                raise OSError(f"Process {number} could not write its part of {folder} ({note['failure']}).")
        yield draft, {name: digest for note in notes for name, digest in note["files"].items()}
        flush(draft)
        draft.rename(folder)
        flush(folder.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def appears(folder):
    """Waits until the first process has completed a checkpoint, or given it up, and says whether it is there."""
    while _draft_of(folder).exists():
        time.sleep(_PAUSE)
    deadline = time.monotonic() + _SIGHT
    while not folder.exists() and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    return folder.exists()


def _draft_of(folder):
    return folder.with_name(f".{folder.name}.parts")


def _note_of(draft, number):
    return draft / f"{number}.json"


def _waited_for(note):
    while not note.exists():
        time.sleep(_PAUSE)
    return read_json(note)
