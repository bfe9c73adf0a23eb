"""Prompts to answer, with what a reward knows of them, in files and as they are given."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kerasllm.data.chats import checked_chat, plain_message
from kerasllm.data.formats import TEXT, kind_of
from kerasllm.data.records import read_records
from kerasllm.data.sources import files_of
from kerasllm.reinforcement.gym import SOURCE, gym_tasks_of


def read_tasks(source: str | os.PathLike | Sequence[str | os.PathLike]) -> Iterator[dict[str, Any]]:
    """Reads tasks: each has a "prompt", and what else a reward reads, such as the right "answer".

    Args:
        source: a file (.jsonl, .json, .parquet, .csv or .tsv), a folder, a glob, or a list of those. A prompt is a
            text, or a list of messages. Also "reasoning_gym:NAME", with ":SIZE" or ":SIZE:SEED" behind it: see
            `gym_tasks`.

    Returns:
        An iterator of dicts, for `group_dataset`.

    Raises:
        FileNotFoundError: where a source does not exist.
        ValueError: for a file that is damaged, or a record without a prompt, with the file and the line.
        ImportError: where reasoning-gym is asked for and not installed.

    Example:

    >>> from pathlib import Path
    >>> _ = Path("sums.jsonl").write_text('{"prompt": "12+34=", "answer": "46"}')
    >>> next(read_tasks("sums.jsonl"))
    {'prompt': '12+34=', 'answer': '46'}
    """
    sources = source if isinstance(source, list | tuple) else [source]
    count = 0
    made = [one for one in sources if isinstance(one, str) and one.startswith(SOURCE)]
    for one in made:
        yield from gym_tasks_of(one)
    for path in (file for one in sources if one not in made for file in files_of(one)):
        kind = kind_of(path)
        if kind == TEXT:
            raise ValueError(f"{path} is a text, and tasks are in .jsonl, .json, .parquet, .csv or .tsv files.")
        for place, record in read_records(path, kind, ["prompt"], _has_prompt):
            count += 1
            yield checked_task(record, place)
    if not count and not made:
        raise ValueError(f"{source!s} holds no tasks.")


def checked_task(record: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A record with a prompt that is a text or messages, or a ValueError that says what it lacks."""
    prompt = record.get("prompt") if isinstance(record, Mapping) else None
    if isinstance(prompt, str) and prompt:
        return dict(record)
    if isinstance(prompt, list | tuple) and prompt:
        messages = [plain_message(message) for message in prompt]
        checked_chat(messages, place)
        return {**record, "prompt": messages}
    raise ValueError(f'{place} has no "prompt", a text or a list of messages: it is {record!r:.80}.')


def _has_prompt(value):
    return isinstance(value, dict) and "prompt" in value
