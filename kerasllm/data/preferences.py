"""Answers that were preferred to others, in files and as they are given: pairs, or single ones with a label."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from kerasllm.data.chats import ANSWER, checked_chat, plain_message
from kerasllm.data.formats import TEXT, kind_of
from kerasllm.data.records import read_records
from kerasllm.data.sources import files_of

_FIELDS = ("prompt", "chosen", "rejected", "completion", "label", "instruction", "input")
_FORMS = "{prompt, chosen, rejected} or {prompt, completion, label}"


class Preference(NamedTuple):
    """A prompt and what is said of answers to it.

    Attributes:
        prompt: str, or list of messages.
        answers: tuple of the preferred answer and the other one, or of a single one: str, or lists of messages.
        desired: bool, whether a single answer is; None for pairs.
    """

    prompt: str | list
    answers: tuple
    desired: bool | None = None


def read_preferences(source: str | os.PathLike | Sequence[str | os.PathLike]) -> Iterator[dict[str, Any]]:
    """Reads pairs of answers, or single answers with labels, as messages.

    Each record has "prompt", "chosen" and "rejected", or "prompt", "completion" and "label" (true or false). A prompt
    is a text, which is taken for a user's message, or a list of messages; "instruction" and "input", as in Alpaca,
    may stand in its place. Answers are texts, or lists of messages; without a prompt, whole conversations that begin
    alike.

    Args:
        source: a file, a folder, a glob, or a list of those, as in `read_chats`.

    Returns:
        An iterator of {"prompt": messages, "chosen": messages, "rejected": messages}, or of {"prompt", "completion",
        "label": bool}, for `preference_dataset`.

    Raises:
        FileNotFoundError: where a source does not exist.
        ValueError: for a file that is damaged, or a record that is none of these, each with the file and the line.

    Example:

    >>> from pathlib import Path
    >>> _ = Path("pairs.jsonl").write_text('{"prompt": "To be?", "chosen": "Or not to be.", "rejected": "Yes."}')
    >>> next(read_preferences("pairs.jsonl"))["chosen"]
    [{'role': 'assistant', 'content': 'Or not to be.'}]
    """
    sources = source if isinstance(source, list | tuple) else [source]
    count = 0
    for path in (file for one in sources for file in files_of(one)):
        kind = kind_of(path)
        if kind == TEXT:
            raise ValueError(f"{path} is a text, and preferences are in .jsonl, .json, .parquet, .csv or .tsv files.")
        for place, record in read_records(path, kind, _FIELDS, _is_preference):
            count += 1
            yield _as_messages(record, place)
    if not count:
        raise ValueError(f"{source!s} holds no preferences.")


def checked_preference(record: Mapping[str, Any], place: str) -> Preference:
    """A record as a `Preference`, or a ValueError that says what it lacks."""
    if not isinstance(record, Mapping):
        raise ValueError(f"{place} is no {_FORMS}: it is {record!r:.80}.")
    answers: tuple[Any, ...]
    desired: bool | None
    if "completion" in record and "label" in record:
        label = record["label"]
        if label not in (True, False, 0, 1):
            raise ValueError(f'{place} has the "label" {label!r:.80}, which is true or false.')
        answers, desired = (record["completion"],), bool(label)
    elif "chosen" in record and "rejected" in record:
        answers, desired = (record["chosen"], record["rejected"]), None
    else:
        raise ValueError(f"{place} is no {_FORMS}: it has the fields {', '.join(map(repr, record))}.")
    prompt: Any = record.get("prompt")
    if prompt is None and all(isinstance(answer, list | tuple) for answer in answers) and desired is None:
        prompt, answers = _common_prompt(record["chosen"], record["rejected"])
    is_text = isinstance(prompt, str)
    if not is_text and not isinstance(prompt, list | tuple):
        raise ValueError(f'{place} has no "prompt", a text or a list of messages: it has {prompt!r:.80}.')
    if is_text and not all(isinstance(answer, str) for answer in answers):
        raise ValueError(f"{place} has a prompt that is a text, and answers that are not: give texts or messages.")
    if not is_text:
        answers = tuple([_said(answer)] if isinstance(answer, str) else answer for answer in answers)
        for answer in answers:
            checked_chat([*prompt, *answer], place)
            if not answer or answer[-1]["role"] != ANSWER:
                raise ValueError(f"{place} has an answer that ends with no message of the {ANSWER}.")
    return Preference(prompt, answers, desired)


def _as_messages(record, place):
    fields = dict(record) if isinstance(record, Mapping) else record
    if isinstance(fields, dict):
        if "prompt" not in fields and isinstance(fields.get("instruction"), str):
            given = fields.get("input")
            more = f"\n\n{given}" if isinstance(given, str) and given.strip() else ""
            fields["prompt"] = fields["instruction"] + more
        if isinstance(fields.get("label"), str):
            fields["label"] = {"true": True, "1": True, "false": False, "0": False}.get(
                fields["label"].lower(), fields["label"]
            )
        if isinstance(fields.get("prompt"), str):
            fields["prompt"] = [{"role": "user", "content": fields["prompt"]}]
        for name in ("prompt", "chosen", "rejected", "completion"):
            if isinstance(fields.get(name), list):
                fields[name] = [plain_message(message) for message in fields[name]]
    prompt, answers, desired = checked_preference(fields, place)
    names = ("chosen", "rejected") if desired is None else ("completion",)
    found = {"prompt": list(prompt), **dict(zip(names, map(list, answers), strict=True))}
    return found if desired is None else {**found, "label": desired}


def _is_preference(value):
    return isinstance(value, dict) and ({"chosen", "rejected"} <= value.keys() or {"completion", "label"} <= set(value))


def _common_prompt(chosen, rejected):
    """The messages with which two conversations begin, and what each goes on with."""
    alike = 0
    for one, other in zip(chosen[:-1], rejected[:-1], strict=False):
        if one != other:
            break
        alike += 1
    return list(chosen[:alike]), (list(chosen[alike:]), list(rejected[alike:]))


def _said(text):
    return {"role": ANSWER, "content": text}
