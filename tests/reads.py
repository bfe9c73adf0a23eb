"""How often files are read to their ends: what a run may do to its text is counted with it."""

import collections
import contextlib
import io
import pathlib

import pytest


@contextlib.contextmanager
def counted_reads(*paths):
    """Yields a Counter from the names of files to how often each was read to its end in this context."""
    ends, opened = collections.Counter(), pathlib.Path.open

    class Counted(io.FileIO):
        def read(self, size=-1):
            part = super().read(size)
            ends[pathlib.Path(self.name).name] += not part
            return part

    def open_counted(path, mode="r", *arguments, **options):
        return Counted(str(path)) if path in paths else opened(path, mode, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pathlib.Path, "open", open_counted)
        yield ends
