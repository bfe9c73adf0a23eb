"""Every answer with its reward, in a file that is read while a run goes on."""

import json
from pathlib import Path

from kerasllm.files import replacing


class AnswerLog:
    """A JSONL file of answers, step by step. Where steps are drawn again, as by a run that goes on from a checkpoint,
    they take the place of what stood there, and of all behind.

    Args:
        path: path of the file; its folder is made if missing.
    """

    def __init__(self, path):
        self.path = Path(path)
        self._next = None

    def write(self, step, lines):
        """Adds the answers of a step, dicts of plain JSON types."""
        if step != self._next:
            self._cut(step)
        texts = [json.dumps({"step": step + 1, **line}, ensure_ascii=False) + "\n" for line in lines]
        with open(self.path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write("".join(texts))
        self._next = step + 1

    def _cut(self, step):
        """Leaves what is whole and of steps before this one, counted from 0."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            with replacing(self.path) as draft, open(self.path, encoding="utf-8") as before:
                kept = (line for line in before if line.endswith("\n") and _step_of(line) <= step)
                with open(draft, "w", encoding="utf-8") as after:
                    after.writelines(kept)


def _step_of(line):
    return json.loads(line)["step"]
