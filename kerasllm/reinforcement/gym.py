"""Tasks that the package reasoning-gym makes, of a hundred kinds, and what it says of answers.

A task says which one it is, and no more: so it is plain JSON, and is made anew where an answer is to be judged.
"""

import functools
import inspect
import json
import re
import sys
from collections.abc import Mapping
from typing import Any

from kerasllm.extras import optional
from kerasllm.words import advice

SOURCE = "reasoning_gym:"
_SIZE = 1000
_RUNS_CODE = re.compile(r"\b(eval|exec|parse_expr|sympify)\(")


def gym_tasks(name: str, size: int = _SIZE, seed: int = 0, **options: Any) -> list[dict[str, Any]]:
    """Tasks of one of reasoning-gym's kinds, with right answers, for the reward `gym_score`. It needs reasoning-gym.

    Args:
        name: str, the kind, such as "chain_sum" or "countdown".
        size: int, how many.
        seed: int. The same one makes the same tasks; those of another seed are for measuring.
        **options: what that kind can be told, such as max_terms=2.

    Returns:
        A list of dicts for `group_dataset`: "prompt", the question; "answer"; and "reasoning_gym", which task it is.

    Raises:
        ImportError: where reasoning-gym is not installed.
        ValueError: for a kind that there is not, or may run answers as code, or options that it does not take.

    Example:
        >>> gym_tasks("chain_sum", size=1, max_terms=2, max_digits=1)[0]["prompt"]
        'State the final answer to the following arithmetic problem: 6 + 0 ='

    Reference: Stojanovski et al. 2025, https://arxiv.org/abs/2505.24760
    """
    kind = {"name": name, "size": size, "seed": seed, **({"options": options} if options else {})}
    return [
        {"prompt": entry["question"], "answer": entry["answer"], "reasoning_gym": {**kind, "number": number}}
        for number, entry in enumerate(_dataset(json.dumps(kind)))
    ]


def gym_score(prompt: Any, answer: str, task: Mapping[str, Any]) -> float:
    """What reasoning-gym says of an answer: 1.0 if it is right, and else less, as the kind of task has it; 0.0 where it
    cannot read it.

    Args:
        prompt: not looked at.
        answer: str, what the model wrote; white space at both ends does not count.
        task: dict, from `gym_tasks`, or a line of a file that was written of them.

    Raises:
        ImportError: where reasoning-gym is not installed.
        ValueError: for another task, or one of a version of the package that makes other tasks.
    """
    made = task.get("reasoning_gym")
    if not isinstance(made, Mapping) or "number" not in made:
        raise ValueError(f"reasoning_gym judges its own tasks, those of gym_tasks, and this is none: {task!r:.80}.")
    kind = json.dumps({name: value for name, value in made.items() if name != "number"})
    entry = _entry(kind, made["number"])
    if entry["answer"] != task.get("answer"):
        raise ValueError(f"Another version of reasoning-gym made this task than judges it: {task!r:.80}.")
    try:
        return float(_dataset(kind).score_answer(answer.strip(), entry))
    except Exception:  # some kinds raise where they cannot read what was answered
        return 0.0


def gym_tasks_of(source: str) -> list[dict[str, Any]]:
    """The tasks of "reasoning_gym:NAME", "reasoning_gym:NAME:SIZE" or "reasoning_gym:NAME:SIZE:SEED"."""
    name, *numbers = source.removeprefix(SOURCE).split(":")
    if len(numbers) > 2 or not all(number.isascii() and number.isdecimal() for number in numbers):
        raise ValueError(f"Tasks of reasoning-gym are {SOURCE}NAME, {SOURCE}NAME:SIZE or with :SEED, not {source!r}.")
    return gym_tasks(name, *map(int, numbers))


@functools.lru_cache(maxsize=16)
def _dataset(kind):
    """A data set of reasoning-gym, from JSON that says which."""
    gym = optional("reasoning_gym", "These tasks are made and judged")
    name, size, seed, options = (json.loads(kind).get(key) for key in ("name", "size", "seed", "options"))
    kinds = gym.factory.DATASETS
    if name not in kinds:
        known = advice(name, list(kinds), {}) or f": it has {', '.join(sorted(kinds))}."
        raise ValueError(f"reasoning-gym has no tasks {name!r}{known}")
    if _RUNS_CODE.search(inspect.getsource(sys.modules[kinds[name][0].__module__])):
        raise ValueError(
            f"reasoning-gym runs Python code where it judges {name}, of which an answer may become a part: take other "
            "tasks, or make these and judge them by a function of your own."
        )
    try:
        return gym.create_dataset(name, size=size, seed=seed, **(options or {}))
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"reasoning-gym makes no {name} with size={size}, seed={seed}, {options}: {error}.") from error


@functools.lru_cache(maxsize=256)
def _entry(kind, number):
    return _dataset(kind)[number]
