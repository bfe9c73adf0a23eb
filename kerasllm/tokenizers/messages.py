"""The messages of a chat before a template writes them: in plain types, with the last one left open, the oldest left
out."""

from kerasllm.tokenizers.tool_schemas import tool_schema

REASONING = ("reasoning_content", "thinking", "reasoning")  # what models thought, as servers and templates call it
_HERE = "THE MESSAGE GOES ON HERE "  # The blank at its end shows whether a template cuts white space.
LEADING = ("system", "developer")  # roles of messages that hold for the whole chat


def plain_messages(messages):
    """Messages as templates take them: a list of dicts without keys that hold nothing.

    Raises:
        TypeError: where they are something else.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise TypeError(f'Messages are a list of {{"role": …, "content": …}}, got {messages!r:.80}.')
    plain = []
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise TypeError(f'Message {number} must be a dict with a "role" and a "content", got {message!r:.80}.')
        message = {key: value for key, value in message.items() if value is not None}
        thought = next((message[name] for name in REASONING if name in message), None)
        named = {} if thought is None else {"thinking": thought, **message, "reasoning_content": thought}
        plain.append({**message, **named})
    return plain


def plain_variables(variables):
    """What else a template takes, with the JSON schemas of tools in the place of Python functions.

    Raises:
        TypeError: where tools or documents are something else.
        ValueError: where a function does not say what a schema needs.
    """
    given = {"tools": None, "documents": None, **variables}
    for name in ("tools", "documents"):
        if given[name] is not None and not isinstance(given[name], list | tuple):
            raise TypeError(f"`{name}` must be a list, got {given[name]!r:.80}.")
    for document in given["documents"] or ():
        if not isinstance(document, dict):
            raise TypeError(f'Documents are a list of {{"title": …, "text": …}}, and one of them is {document!r:.80}.')
    if given["tools"] is not None:
        given["tools"] = [tool if isinstance(tool, dict) else tool_schema(tool) for tool in given["tools"]]
    return given


def left_open(messages, field):
    """Messages with a mark behind the last one, and the text that it ends with (str).

    Args:
        messages: from `plain_messages`.
        field: str, the part of the message that is to go on.
    """
    *before, last = messages
    content = last.get(field)
    if isinstance(content, list | tuple):
        content = list(content)
        texts = [i for i, part in enumerate(content) if isinstance(part, dict) and isinstance(part.get("text"), str)]
        if texts:
            text = content[texts[-1]]["text"]
            content[texts[-1]] = {**content[texts[-1]], "text": text + _HERE}
            return [*before, {**last, field: content}], text
    if not isinstance(content, str):
        raise ValueError(
            f"The final message cannot go on, for it has no text under {field!r}: give one, or leave out "
            f"continue_final_message."
        )
    names = [name for name in (REASONING if field in REASONING else [field]) if last.get(name) == content]
    return [*before, {**last, **dict.fromkeys(names, content + _HERE)}], content


def cut_open(text, final):
    """The text that a template makes of messages left open, up to where their last one ends.

    Args:
        text: str.
        final: str, how that message ends.
    """
    begin = text.rfind(_HERE.strip())
    if begin < 0 or final.strip() not in text:
        raise ValueError(
            "The chat template does not write the final message as it is, so that it cannot go on there: leave out "
            "continue_final_message."
        )
    # A template that cuts white space off a message has none before the mark either.
    return text[:begin] if text.startswith(_HERE, begin) else text[:begin].rstrip()


def without_oldest_turn(messages):
    """Messages without the first turn: a user's message and what is said until the next. What holds for the whole chat
    stays. None where there is but one turn.

    Args:
        messages: list of dicts with a "role".
    """
    roles = [message["role"] for message in messages]
    begin = next((i for i, role in enumerate(roles) if role not in LEADING), len(roles))
    later = [i for i in range(begin + 1, len(roles)) if roles[i] == "user"]
    return [*messages[:begin], *messages[later[0] :]] if later else None
