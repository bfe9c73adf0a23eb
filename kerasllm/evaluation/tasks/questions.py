"""What tasks ask: endings of texts, of which one is right, and instructions whose answers can be checked."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from kerasllm.evaluation.respondent import Respondent


class Question(NamedTuple):
    """Endings of a text.

    Attributes:
        context: str or list of int, the text or its token ids; "" where whole texts are compared.
        endings: tuple of str or lists of int; the first is right. One alone counts as known where greedy decoding
            writes it, and the first of several where it is the likeliest.
        group: tuple, what the figures are split by.
        control: as `context`, the same without what tells the ending; None where nothing is compared.
    """

    context: Any
    endings: tuple
    group: tuple = ()
    control: Any = None


class Instruction(NamedTuple):
    """A prompt that says what its answer is to be like.

    Attributes:
        prompt: str.
        checks: tuple of (name, arguments), as `instruction_checks.CHECKS` has them; the answer is to meet all.
        group: tuple, what the figures are split by.
    """

    prompt: str
    checks: tuple
    group: tuple = ()


class Conditions(NamedTuple):
    """Under what conditions a task is set.

    Attributes:
        respondent: the `Respondent` that is to answer, whose tokenizer some tasks need.
        texts: function () -> iterator of documents (str).
        limit: int, at most so many items.
        context: int, at most so many tokens of an item.
        seed: int.
    """

    respondent: Respondent
    texts: Callable[[], Iterator[str]]
    limit: int
    context: int
    seed: int


class Task(NamedTuple):
    """A task by its name.

    Attributes:
        about: str, what it asks.
        make: function (`Conditions`) -> list of `Question` or of `Instruction`.
        groups: tuple of str, names of what `group` of an item has.
        chance: float, the accuracy of guessing.
    """

    about: str
    make: Callable[[Conditions], list]
    groups: tuple = ()
    chance: float = 0.0
