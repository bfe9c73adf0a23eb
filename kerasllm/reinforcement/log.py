"""Every answer with its reward, in a file that is read while a run goes on."""

import json
from pathlib import Path

from kerasllm.files import replacing


class AnswerLog:
    """A JSONL file of answers, step by step; a step that is drawn again takes the place of what stood there.

    Args:
        path: path of the file; its folder is made if missing.
        start_step: int. What the file has of this step and later ones is of a run that is drawn again from here.
    """

    def __init__(self, path, start_step=0):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._next = self._cut(start_step)

    def write(self, step, lines):
        """Adds the answers of a step, dicts of plain JSON types."""
        if step < self._next:
            self._cut(step)
        texts = [json.dumps({"step": step + 1, **line}, ensure_ascii=False) + "\n" for line in lines]
        with open(self.path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write("".join(texts))
        self._next = step + 1

    def _cut(self, step):
        """Leaves what is of steps before this one, counted from 0."""
        if self.path.exists():
            with replacing(self.path) as draft, open(self.path, encoding="utf-8") as before:
                kept = (line for line in before if line.endswith("\n") and _step_of(line) <= step)
                with open(draft, "w", encoding="utf-8") as after:
                    after.writelines(kept)
        return step


def _step_of(line):
    return json.loads(line)["step"]
