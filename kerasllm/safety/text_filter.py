"""The filter: what may be said to a model and by it, as words, patterns, classifiers, guards and functions judge."""

import datetime
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kerasllm.generation.held_back import text_of

ANSWER = "I would rather not talk about that."


class Decision(NamedTuple):
    """What a `Filter` says of a message.

    Attributes:
        refused: bool.
        reason: str, why, or None.
        part: str, the name of the part that refused, or None.
        role: str, whose message it is.
        text: str, what was judged: of an answer that is still being written, the sentence that is new.
    """

    refused: bool
    reason: str | None
    part: str | None
    role: str
    text: str


class Filter:
    """Judges what is said to a model and by it, before anybody reads it.

    `generate`, `stream`, `chat` and `stream_chat` take one as `filter=`, and the commands `generate`, `chat` and
    `serve` the file of one as `--filter`. The prompt is judged before the model reads it, and each sentence of the
    answer, together with those before it, before it leaves. Where one is refused, `answer` stands in its place, and
    nothing follows.

    Args:
        *parts: asked one after the other until one refuses: a `Blocklist`, a `TextClassifier`, a `GuardModel`, or any
            function of a list of messages, dicts with a "role" and a "content", that judges the last one. It gives the
            reason to refuse it (str, or True), or None or False. Where a part fails nothing passes: the error goes on.
        answer: str, what is answered in the place of what is refused.
        log: path of a file to which each decision is added, a line of JSON with its time; or a function that is called
            with each `Decision`; or None. The lines hold the text that was judged: keep the file as private as that.

    Raises:
        TypeError: if there is no part, or one cannot be called.

    Example:
        >>> filter = kerasllm.safety.Filter(kerasllm.safety.Blocklist(["fox"]), answer="No foxes.")
        >>> filter.judge([{"role": "user", "content": "A quick FOX!"}]).reason
        'the word "fox"'
        >>> kerasllm.generate(model, tokenizer, "A quick fox", filter=filter)
        'No foxes.'
    """

    def __init__(
        self,
        *parts: Callable[[Sequence[Mapping[str, Any]]], str | bool | None],
        answer: str = ANSWER,
        log: str | Path | Callable[[Decision], Any] | None = None,
    ):
        if not parts or not all(map(callable, parts)):
            raise TypeError(f"A filter has parts, which are functions of messages or objects like them, got {parts!r}.")
        if not isinstance(answer, str) or not answer.strip():
            raise TypeError(f"`answer` is what is said in the place of what is refused, a str, got {answer!r}.")
        self.parts, self.answer = parts, answer
        self._log = log if log is None or callable(log) else _Lines(log)
        self._one_at_a_time = threading.Lock()  # Models and files are not for several threads at once.

    def judge(self, messages: Sequence[Mapping[str, Any]], new: str | None = None) -> Decision:
        """Judges the last of some messages.

        Args:
            messages: list of dicts with a "role" and a "content".
            new: str, that part of the last one that has not been judged before, for the log; all of it when absent.

        Returns:
            `Decision`.
        """
        text, role = text_of(messages[-1]) if new is None else new, messages[-1]["role"]
        with self._one_at_a_time:
            decision = Decision(False, None, None, role, text)
            for part in self.parts:
                if reason := part(messages):
                    name = getattr(part, "name", None) or getattr(part, "__name__", type(part).__name__)
                    decision = Decision(True, name if reason is True else str(reason), name, role, text)
                    break
            if self._log is not None:
                self._log(decision)
        return decision


class _Lines:
    """Adds decisions to a file."""

    def __init__(self, path):
        self._path = Path(path)
        self._path.open("a", encoding="utf-8").close()  # so that a path that cannot be written is refused at once

    def __call__(self, decision):
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": now, **decision._asdict()}, ensure_ascii=False) + "\n")
