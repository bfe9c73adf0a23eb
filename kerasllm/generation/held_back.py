"""Text that waits until it has been judged: each sentence leaves when a filter has let all up to its end pass."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

LONGEST = 400  # letters that wait for the end of a sentence
# Where a sentence ends is seen from what stands up to there, so that pieces of whatever size give the same sentences.
_END = re.compile(r"""[.!?…:;]["'’”»)\]*]*\s|[。！？；]|\n""")


class Filter(Protocol):
    """What the option `filter` takes, such as a `kerasllm.safety.Filter`."""

    answer: str

    def judge(self, messages: Sequence[Mapping[str, Any]], new: str | None = None) -> Any:
        """Something with the attribute `refused`, of the last message, of which `new` has not been judged before."""


def checked_filter(filter):
    """What is given as `filter`.

    Raises:
        TypeError: if it is none.
    """
    if filter is not None and not (hasattr(filter, "judge") and hasattr(filter, "answer")):
        raise TypeError(f"`filter` is a kerasllm.safety.Filter, got {type(filter).__name__}.")
    return filter


class HeldBack:
    """A text on its way from a model to those who asked for it.

    What has been said since the model's last answer is judged when the object is made.

    Args:
        filter: `Filter`.
        messages: list of dicts, what has been said. Where the last one is the assistant's, the text goes on with it.

    Attributes:
        refused: bool, whether the filter has refused something; nothing more will leave then.
        opening: str, what leaves before any text: the filter's answer where what was said is refused, else nothing.
        waiting: str, text that has not been judged yet.
    """

    def __init__(self, filter, messages):
        self._filter, self.waiting = filter, ""
        self.refused = any(filter.judge(messages[:end]).refused for end in _unanswered(messages))
        self.opening = filter.answer if self.refused else ""
        goes_on = bool(messages) and messages[-1]["role"] == "assistant"
        self._before = list(messages[:-1] if goes_on else messages)
        self._said = text_of(messages[-1]) if goes_on else ""

    def read(self, text, is_last):
        """What may leave of a text that goes on with the earlier ones.

        Args:
            text: str.
            is_last: bool. No more will come.

        Returns:
            str, sentences that the filter has let pass, and behind them its answer, where it has refused the next.
        """
        self.waiting += text
        passed = ""
        while not self.refused and (end := _first_end(self.waiting, is_last)):
            sentence, self.waiting = self.waiting[:end], self.waiting[end:]
            reply = {"role": "assistant", "content": self._said + sentence}
            if self._filter.judge([*self._before, reply], sentence).refused:
                self.refused, self.waiting = True, ""
                sentence = (" " if self._said and not self._said[-1].isspace() else "") + self._filter.answer
            self._said += sentence
            passed += sentence
        return passed


def text_of(message):
    """The text of a message, whose content may be in parts."""
    content = message.get("content")
    if isinstance(content, list | tuple):
        return "".join(part.get("text") or "" for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def _unanswered(messages):
    """Ends of the messages since the model's last answer, those of the system apart; at least that of the last one."""
    ends = []
    for end in range(len(messages), 0, -1):
        role = messages[end - 1]["role"]
        if role == "assistant" and ends:
            break
        if role not in ("system", "developer") or not ends:
            ends.append(end)
        if role == "assistant":
            break
    return ends[::-1]


def _first_end(text, is_last):
    """Where the first sentence of a text ends, or as much as may wait; 0 where more is to come."""
    if found := _END.search(text, 0, LONGEST):
        return found.end()
    if len(text) > LONGEST:
        return text.rfind(" ", 0, LONGEST) + 1 or LONGEST
    return len(text) if is_last else 0
