"""Conversations in files: messages, ShareGPT, Alpaca, prompt/completion and turns, all as lists of messages.

A message is a dict with a "role" and a "content". A conversation is a list of them, or a dict with such "messages" and
the "tools" that they may call.
"""

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from kerasllm.data.formats import TEXT, kind_of, read_lines
from kerasllm.data.records import read_records
from kerasllm.data.sources import files_of
from kerasllm.tokenizers.messages import LEADING

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
ANSWER = "assistant"
_LISTS = ("messages", "conversations", "conversation")
_ROLE_NAMES = ("role", "from")
_CONTENT_NAMES = ("content", "value")
_OTHER_ROLES = {
    "human": "user",
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "bot", "model"), ANSWER),
    **dict.fromkeys(("observation", "function_response"), "tool"),
}
_FIELDS = (*_LISTS, "turns", "prompt", "completion", "tools")  # lists that are read of a Parquet file


def read_chats(
    source: str | os.PathLike | Sequence[str | os.PathLike],
) -> Iterator[list[dict[str, Any]] | dict[str, Any]]:
    """Reads conversations, one after the other, whatever their form.

    Each record is one of these, which its fields tell; a file may mix them:

    - messages, as OpenAI and Hugging Face write them: a list under "messages" (or "conversations"), or a bare one, of
      {"role", "content"}. A .json file that is one such list is one conversation. Where there are "tools", what comes
      is {"messages": …, "tools": …}.
    - ShareGPT: a list under "conversations" (or "messages") of {"from", "value"}, from "human" and "gpt".
    - Alpaca: "instruction" and "output". An "input" that is not blank stands below the instruction, after an empty
      line.
    - prompt and completion: two texts, or two lists of messages.
    - a dialogue: texts under "turns", or dicts with a "content", said by the user and the assistant in turn.

    A text under "system" is the system's message. White space is kept.

    Args:
        source: a file, a folder, a glob, or a list of those, as in `read_text`: .jsonl, .json or .parquet, and .csv or
            .tsv of Alpaca or prompt and completion; plain or compressed.

    Returns:
        An iterator of lists of {"role": str, "content": str, …}. What a message has besides is kept, but for nulls.

    Raises:
        FileNotFoundError: where a source does not exist.
        ValueError: for a file that is damaged, a record that is none of these, an unknown role, a conversation that has
            no answer, an empty one, or an answer before a question; each with the file and the line.

    Example:

    >>> from pathlib import Path
    >>> _ = Path("chats.jsonl").write_text('{"prompt": "To be?", "completion": "Or not to be."}')
    >>> next(read_chats("chats.jsonl"))
    [{'role': 'user', 'content': 'To be?'}, {'role': 'assistant', 'content': 'Or not to be.'}]
    """
    sources = source if isinstance(source, list | tuple) else [source]
    files = [file for one in sources for file in files_of(one)]
    return _not_none((chat for file in files for chat in _read_file(file)), source)


def read_questions(source: str | os.PathLike | Sequence[str | os.PathLike]) -> list[list[dict[str, Any]]]:
    """Reads what a model is to be asked, as lists of messages to be answered.

    Args:
        source: as in `read_chats`. A text file has a question on each line; in other files a record is a text, a dict
            with a "question" or "prompt" alone, or a conversation, of which the last answer is left out.

    Returns:
        A list of lists of {"role", "content"}.

    Raises:
        FileNotFoundError, ValueError: as `read_chats`.
    """
    sources = source if isinstance(source, list | tuple) else [source]
    files = [file for one in sources for file in files_of(one)]
    questions = [question for file in files for question in _questions_in(file)]
    if not questions:
        raise ValueError(f"{source!s} holds no question.")
    return questions


def checked_chat(chat, place):
    """A conversation's messages and tools (None where it has none), where something can be learned from it.

    Args:
        chat: list of messages, or dict with "messages" and "tools".
        place: str, what errors call it.

    Raises:
        ValueError: where nothing can be.
    """
    messages, tools = (chat.get("messages"), chat.get("tools")) if isinstance(chat, dict) else (chat, None)
    if not isinstance(messages, list | tuple) or not messages:
        raise ValueError(f'{place} is no list of {{"role": …, "content": …}}: it is {chat!r:.80}.')
    for number, message in enumerate(messages, start=1):
        _check_message(message, f"{place}, message {number}")
    roles = [message["role"] for message in messages]
    first = next((role for role in roles if role not in LEADING), None)
    if ANSWER not in roles:
        raise ValueError(f"{place} has no answer, a message of the {ANSWER}, and nothing can be learned from it.")
    if first != "user":
        raise ValueError(f"{place} starts with the {first}: put the user's message first, or leave out what is before.")
    return list(messages), tools


def _check_message(message, place):
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise ValueError(f'{place} is no {{"role": …, "content": …}}: it is {message!r:.80}.')
    role, content = message["role"], message.get("content")
    if role not in ROLES:
        raise ValueError(f"{place} has the role {role!r}; there are {', '.join(ROLES)}.")
    has_calls = bool(message.get("tool_calls") or message.get("function_call"))
    if not isinstance(content, str | list) and not (content is None and has_calls):
        raise ValueError(f"{place} has no text under 'content': it has {content!r:.80}.")
    if role == ANSWER and not has_calls and not (content.strip() if isinstance(content, str) else content):
        raise ValueError(f"{place} is an empty answer, which would teach a model to say nothing: leave it out.")


def _not_none(chats, source):
    chat = None
    for chat in chats:
        yield chat
    if chat is None:
        raise ValueError(f"{source!s} holds no conversation.")


def _read_file(path):
    kind = kind_of(path)
    if kind == TEXT:
        raise ValueError(f"{path} is a text, and conversations are in .jsonl, .json, .parquet, .csv or .tsv files.")
    for place, record in read_records(path, kind, _FIELDS, _is_chat):
        yield chat_of(record, place)


def _questions_in(path):
    kind = kind_of(path)
    if kind == TEXT:
        return [[_said("user", line.strip())] for line in read_lines(path) if line.strip()]
    records = read_records(path, kind, (*_FIELDS, "question"), _is_chat)
    return [_question_of(record, place) for place, record in records]


def _question_of(record, place):
    if isinstance(record, dict) and "completion" not in record:
        record = record.get("question", record.get("prompt", record))
    if isinstance(record, str) and record.strip():
        return [_said("user", record)]
    chat = chat_of(record, place)
    messages = chat["messages"] if isinstance(chat, dict) else chat
    return messages[: max(i for i, message in enumerate(messages) if message["role"] == ANSWER)]


def chat_of(record, place):
    fields = {"messages": record} if isinstance(record, list) else record
    messages = _messages_of(fields) if isinstance(fields, dict) else None
    if messages is None:
        what = f"the fields {', '.join(map(repr, record))}" if isinstance(record, dict) else f"{record!r:.80}"
        raise ValueError(
            f'{place} is no conversation: it has {what}, and not "messages", "conversations" or "turns", "instruction" '
            'and "output", or "prompt" and "completion".'
        )
    if isinstance(system := fields.get("system"), str) and system.strip():
        messages.insert(0, _said("system", system))
    tools = fields.get("tools")
    tools = json.loads(tools) if isinstance(tools, str) and _is_json_list(tools) else tools
    messages, _ = checked_chat([plain_message(message) for message in messages], place)
    return {"messages": messages, "tools": tools} if tools else messages


def _messages_of(fields):
    """The messages of a record before their roles are known; None where it has none."""
    for name in _LISTS:
        if isinstance(fields.get(name), list):
            return list(fields[name])
    if isinstance(fields.get("turns"), list):
        pairs = zip(itertools.cycle(("user", ANSWER)), fields["turns"], strict=False)
        return [{"role": role, **turn} if isinstance(turn, dict) else _said(role, turn) for role, turn in pairs]
    if isinstance(fields.get("instruction"), str) and "output" in fields:
        given = fields.get("input")
        question = f"{fields['instruction']}\n\n{given}" if isinstance(given, str) and given.strip() else None
        return [_said("user", question or fields["instruction"]), _said(ANSWER, fields["output"])]
    if "prompt" in fields and "completion" in fields:
        prompt, completion = fields["prompt"], fields["completion"]
        return [
            *(prompt if isinstance(prompt, list) else [_said("user", prompt)]),
            *(completion if isinstance(completion, list) else [_said(ANSWER, completion)]),
        ]
    return None


def _said(role, text):
    return {"role": role, "content": text}


def plain_message(message):
    """A message with our names for roles and fields, without nulls; what is none stays as it is."""
    if not _is_message(message):
        return message
    given = {name: value for name, value in message.items() if value is not None}
    role, content = (next((given.get(n) for n in names if n in given), None) for names in (_ROLE_NAMES, _CONTENT_NAMES))
    others = {name: value for name, value in given.items() if name not in (*_ROLE_NAMES, *_CONTENT_NAMES)}
    return {"role": _OTHER_ROLES.get(role, role) if isinstance(role, str) else role, "content": content, **others}


def _is_chat(value):
    lists = [value.get(name) for name in _LISTS] if isinstance(value, dict) else [value]
    return any(isinstance(messages, list) and messages and all(map(_is_message, messages)) for messages in lists)


def _is_message(value):
    return isinstance(value, dict) and any(isinstance(value.get(name), str) for name in _ROLE_NAMES)


def _is_json_list(text):
    try:
        return isinstance(json.loads(text), list)
    except (ValueError, RecursionError):
        return False
