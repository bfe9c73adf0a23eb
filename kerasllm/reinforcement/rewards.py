"""What an answer is worth: functions of the prompt, the answer and, where they take it, the whole task.

    def reward(prompt, answer): ...
    def reward(prompt, answer, task): ...

They return a number, the higher, the better. `prompt` is what the task has, a str or a list of messages; `answer` is
the text that the model wrote.
"""

import importlib.util
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kerasllm.extras import optional
from kerasllm.reinforcement.gym import gym_score


def exact(prompt: Any, answer: str, task: Mapping[str, Any]) -> float:
    """1.0 for an answer that is the task's "answer", white space at both ends aside, and else 0.0.

    Args:
        prompt: str, or list of messages; not looked at.
        answer: str, what the model wrote.
        task: dict with the right "answer", str or a number.

    Raises:
        ValueError: for a task without an "answer".

    Example:

    >>> exact("12+34=", " 46", {"answer": "46"})
    1.0
    """
    return float(answer.strip() == _right_answer(task))


def regex(pattern: str) -> Callable[..., float]:
    """A reward of 1.0 for answers in which a regular expression is found, and else 0.0.

    Where it has a group, what the first group of the last match holds must be the task's "answer" too.

    Args:
        pattern: str, of Python's `re`.

    Raises:
        ValueError: for a pattern that is none.

    Example:

    >>> regex(r"the answer is (\\d+)")("12+34?", "So the answer is 46.", {"answer": 46})
    1.0
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}.") from error

    def regex(prompt, answer, task):
        matches = list(compiled.finditer(answer))
        is_right = bool(matches) and (not compiled.groups or matches[-1][1] == _right_answer(task))
        return float(is_right)

    return regex


def json_schema(schema: Mapping[str, Any] | None = None) -> Callable[..., float]:
    """A reward of 1.0 for answers that are JSON as a schema asks for, and else 0.0. It needs the package jsonschema.

    Args:
        schema: dict, a JSON schema; None for that which each task has as "schema".

    Raises:
        ImportError: where jsonschema is not installed.
        ValueError: for a schema that is none, or a task without one.

    Example:

    >>> json_schema({"type": "array", "items": {"type": "integer"}})("", "[1, 2]", {})
    1.0
    """
    jsonschema = optional("jsonschema", "Answers are compared with JSON schemas")

    def validator(schema):
        kind = jsonschema.validators.validator_for(schema)
        try:
            kind.check_schema(schema)
        except jsonschema.SchemaError as error:
            raise ValueError(f"{schema!r:.80} is no JSON schema: {error.message}.") from error
        return kind(schema)

    common = None if schema is None else validator(schema)

    def json_schema(prompt, answer, task):
        if common is None and not isinstance(task.get("schema"), Mapping | bool):
            raise ValueError(f'A JSON schema is asked for, and a task has none as "schema": it is {task!r:.80}.')
        try:
            value = json.loads(answer)
        except (ValueError, RecursionError):
            return 0.0
        return float((common or validator(task["schema"])).is_valid(value))

    return json_schema


def length(most: int) -> Callable[..., float]:
    """A reward of 1.0 for answers of at most so many characters, which falls to 0.0 at twice as many.

    Args:
        most: int, characters.

    Raises:
        ValueError: for a number below 1.

    Example:

    >>> length(4)("", "abcdef", {})
    0.5
    """
    if most < 1:
        raise ValueError(f"`most` must be at least 1, got {most}.")

    def length(prompt, answer, task=None):
        return min(1.0, max(0.0, 2 - len(answer) / most))

    return length


def load_reward(name: str) -> Callable[..., float]:
    """The reward that a text names, as `kerasllm tune --reward` does.

    Args:
        name: str: "exact"; "regex:PATTERN"; "json_schema", or "json_schema:FILE.json"; "length:CHARACTERS";
            "reasoning_gym", which is `gym_score`; or "FILE.py:FUNCTION", a function of your own, whose file is run.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for another name, or a file without the function.

    Example:

    >>> load_reward("length:100")("How are you?", "Well.")
    1.0
    """
    kind, _, argument = name.partition(":")
    if name == "exact":
        return exact
    if name == "json_schema":
        return json_schema()
    if name == "reasoning_gym":
        return gym_score
    if kind == "regex" and argument:
        return regex(argument)
    if kind == "length" and argument.isdecimal():
        return length(int(argument))
    if kind == "json_schema" and argument:
        return json_schema(_schema_in(Path(argument)))
    file, _, function = name.rpartition(":")
    if file.endswith(".py") and function.isidentifier():
        return _function_in(Path(file), function)
    raise ValueError(
        f"There is no reward {name!r}: it is exact, regex:PATTERN, json_schema, json_schema:FILE.json, "
        "length:CHARACTERS, reasoning_gym or FILE.py:FUNCTION."
    )


def _right_answer(task):
    if not isinstance(task.get("answer"), str | int | float):
        raise ValueError(f'The right answer is asked for, and a task has none as "answer": it is {task!r:.80}.')
    return str(task["answer"]).strip()


def _schema_in(path):
    _check_is_file(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error


def _function_in(path, name):
    _check_is_file(path)
    spec = importlib.util.spec_from_file_location(f"kerasllm_reward_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # as dataclasses ask for
    spec.loader.exec_module(module)
    if not callable(function := getattr(module, name, None)):
        raise ValueError(f"{path} has no function {name!r}, which --reward asks for.")
    return function


def _check_is_file(path):
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}, which the reward is to come from.")
