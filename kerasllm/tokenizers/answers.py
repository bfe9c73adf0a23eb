"""Which tokens of a chat a model is to learn: those of the assistant's turns, for any template.

A template that says `{% generation %}` says it itself. With others, private-use characters at both ends of each message
tell where it lies in the text. A turn begins where the text does end that the model would be given to answer, and ends
behind the token that ends turns.
"""

import re
from itertools import islice

from kerasllm.tokenizers.chat_template import (
    GENERATION,
    PRIVATE_USE,
    characters_of,
    prepare,
    render_chat,
    token_names,
    turn_end,
)
from kerasllm.tokenizers.messages import LEADING, REASONING, plain_messages, plain_variables

_SAYS_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_ADVICE = (
    "Its answers cannot be found: put {% generation %} and {% endgeneration %} around what it writes for an answer."
)


def encode_with_mask(tokenizer, messages, chat_template=None, expand=None, **variables):
    """The ids of a chat and its mask; `Tokenizer.encode_chat_with_mask` says more."""
    messages = plain_messages(messages)
    variables = plain_variables({**variables, "add_generation_prompt": False, "continue_final_message": False})
    template, reader = prepare(tokenizer, chat_template, [messages, variables])
    used = characters_of(template, messages, variables)
    free = list(islice((chr(code) for code in reversed(PRIVATE_USE) if chr(code) not in used), 2 * len(messages) + 2))
    given = {**token_names(tokenizer), **reader.hide(variables)}

    def write(messages, **more):
        text = render_chat(template, messages, **{**given, **more})
        return expand(text) if expand else text

    hidden = [reader.hide_message(message) for message in messages]
    if _SAYS_GENERATION.search(template):
        text = write(hidden, **dict(zip(GENERATION, free, strict=False)))
        spans = _marked_spans(text, reader, *free[:2])
    else:
        begins, ends = free[2::2], free[3::2]
        marked = [_marked(*parts, reader.control.pattern) for parts in zip(hidden, begins, ends, strict=True)]
        text = write(marked)
        if text.translate(dict.fromkeys(map(ord, free))) != write(hidden):
            raise ValueError(f"The chat template writes other things where messages are marked. {_ADVICE}")
        _check_written(text, marked, ends)
        turn = turn_end(tokenizer, template, **variables)
        spans = _found_spans(text, marked, begins, ends, write, reader, turn)
    ids, mask = _read(text, spans, free, reader)
    if not any(mask) and any(message["role"] == "assistant" for message in messages):
        raise ValueError("The chat template writes no answer of these messages: none can be learned.")
    return ids, mask


def _marked_spans(text, reader, begin, end):
    """Where the template says that answers are. The token that ends a turn is one, also where it does not say so."""
    spans = []
    for found in re.finditer(f"{begin}[^{begin}{end}]*{end}", text):
        inside = found[0].rstrip(f"{end} \n")
        has_end = any(token.end() == len(inside) for token in reader.special.finditer(inside))
        spans.append((found.start(), found.end() if has_end else _behind(text, found.end(), reader)))
    return spans


def _check_written(text, messages, ends):
    """Refuses a chat of which a template leaves out without a word what was said."""
    for number, (message, end) in enumerate(zip(messages, ends, strict=True)):
        role = message["role"]
        says_something = end in characters_of(message.get("content")) and not message.get("tool_calls")
        if end in text or not says_something or role not in (*LEADING, "user", "assistant"):
            continue
        if role in LEADING:
            raise ValueError(
                f"The chat template has no place for the {role} role: put what its message says into the user's first "
                "message, or leave it out."
            )
        raise ValueError(
            f"The chat template does not write what messages[{number}] of the chat says: some templates want content "
            'as a list of {"type": "text", "text": …}.'
        )


def _found_spans(text, messages, begins, ends, write, reader, turn):
    """Where answers are in a text of messages that are marked."""
    any_begin = re.compile(f"[{''.join(begins)}]")
    spans, last = [], 0
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            begin = _begin(text, messages[:number], begins[number], last, write, reader)
            if begin is None:
                raise ValueError(
                    f"The chat template does not write messages[{number}] of the chat, an answer, as it is. {_ADVICE}"
                )
            behind = max(begin, text.rfind(ends[number]) + 1)
            following = any_begin.search(text, behind)
            limit = following.start() if following else len(text)
            last = _end(text, messages[: number + 1], behind, limit, write, reader, turn)
            spans.append((begin, last))
        last = max(last, text.rfind(ends[number]) + 1)
    return spans


def _begin(text, before, mark, last, write, reader):
    """Where an answer begins: behind what the model is given to answer; or else, as templates write older turns
    otherwise than the last, behind what announces an answer, or where its message begins. None where it is not there.
    """
    prompt = _written(write, before, add_generation_prompt=True)
    if prompt and text.startswith(prompt):
        return len(prompt)
    said = _written(write, before)
    announcement = prompt.removeprefix(said) if said and prompt.startswith(said) else ""
    place = text.find(mark)
    if place >= 0:
        found = text.rfind(announcement, last, place) if announcement else -1
        return found + len(announcement) if found >= 0 else place
    # It has calls of tools alone, or its beginning is cut off; what announces a thought does not announce these.
    ends = [token.end() for token in reader.control.finditer(announcement)]
    starts = [announcement[:end] for end in sorted({*ends, len(announcement)}, reverse=True) if end]
    found = ((text.find(start, last), start) for start in starts)
    return next((begin + len(start) for begin, start in found if begin >= 0), None)


def _end(text, so_far, behind, limit, write, reader, turn):
    """Where an answer ends: behind the token that ends turns, or another that stands there, as some do behind calls of
    tools; or else where the text would, were this all."""
    found = text.find(turn, behind, limit) if turn else -1
    if found >= 0:
        return found + len(turn)
    end = _behind(text, behind, reader)
    whole = _written(write, so_far).rstrip()
    return max(end, len(whole)) if end == behind and text.startswith(whole) else end


def _written(write, messages, **more):
    """The text of some messages, "" where a template wants others."""
    try:
        return write(messages, **more) if messages else ""
    except ValueError:
        return ""


def _behind(text, place, reader):
    """Where the special token ends that stands at a place, but for white space; that place where there is none."""
    rest = text[place:]
    found = reader.special.match(rest.lstrip())
    return place + len(rest) - len(rest.lstrip()) + found.end() if found else place


def _marked(message, begin, end, control):
    """A message whose texts have marks at both ends, inside of white space, which templates cut off; and where one may
    begin if they cut it at a control token of its own or the end of a tag, as at "</think>"."""
    cut = rf"(?:{control}|</\w+>)"
    beginnings = re.compile(rf"(?:\A|{cut})\s*+(?!\Z|{cut})")

    def mark(text):
        bare = text.rstrip()
        return beginnings.sub(rf"\g<0>{begin}", bare) + end + text[len(bare) :] if bare else text

    def mark_part(part):
        is_text = isinstance(part, dict) and isinstance(part.get("text"), str)
        return {**part, "text": mark(part["text"])} if is_text else part

    marked = {}
    for name in ("content", *REASONING):
        value = message.get(name)
        if isinstance(value, str):
            marked[name] = mark(value)
        elif isinstance(value, list):
            marked[name] = [mark_part(part) for part in value]
    return {**message, **marked}


def _read(text, spans, marks, reader):
    """The ids of a text and, for each, whether it has a part in a span."""
    without_marks = dict.fromkeys(map(ord, marks))
    places = [place for span in spans for place in span]
    parts = [text[begin:end] for begin, end in zip([0, *places], [*places, len(text)], strict=True)]
    parts = [reader.marked(part.translate(without_marks)) for part in parts]
    ids, offsets = reader.read_marked("".join(parts))
    mask = [False] * len(ids)
    begin = 0
    for number, part in enumerate(parts):
        if number % 2 and part:
            inside = [i for i, place in enumerate(offsets) if place[0] < begin + len(part) and place[1] > begin]
            if inside:
                mask[inside[0] : inside[-1] + 1] = [True] * (inside[-1] + 1 - inside[0])
        begin += len(part)
    return ids, mask
