"""Chats as token ids: a Jinja2 template makes one text of messages, and only special tokens of its own count in it.

The text is rendered with private-use characters in the place of control tokens that stand in a message. Those that are
found in it then are the template's own: they in turn become private-use characters, which an engine that knows no
special tokens reads as tokens, and the messages' are put back as text. So ids are those of the whole text at once,
and nothing that a user writes can end a turn or begin another.
"""

import datetime
import functools
import json
import re
from typing import NamedTuple

import jinja2
import tokenizers
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from kerasllm.tokenizers.encoding import checked
from kerasllm.tokenizers.messages import cut_open, left_open, plain_messages, plain_variables

MOST_CHARACTERS = 2**24  # of a chat
GENERATION = "generation_begins", "generation_ends"
PRIVATE_USE = range(0xF0000, 0x10FFFE)
_ESCAPED_PRIVATE_USE = re.compile(r"\\udb[89a-f][0-9a-f]\\ud[c-f][0-9a-f]{2}")


def render_chat(template, messages, *, add_generation_prompt=None, continue_final_message=False, **variables):
    """The text that a template makes of messages.

    Args:
        template: str, in Jinja2's language, as transformers reads it. It runs in a sandbox.
        messages: list of dicts with a "role" (str) and what the template asks for, "content" for the most part.
        add_generation_prompt: bool, whether the text ends with what stands before an answer; None means that it does
            where no message is left open.
        continue_final_message: bool. Leave the last message open, for a model to go on with: the text ends with it. Or
            a str, the part of the message that is open, "content" where nothing is said.
        **variables: what else the template takes: `tools`, Python functions or their JSON schemas; `documents`.

    Returns:
        str.

    Raises:
        TypeError: where `messages`, tools or documents are something else.
        ValueError: where the template is wrong, refuses the messages, or makes a text of more than 2^24 characters; or
            where a message is to be left open and an answer to begin.

    Example:

    >>> template = "{% for message in messages %}{{ message.role }}: {{ message.content }};{% endfor %}"
    >>> render_chat(template, [{"role": "user", "content": "Hello"}])
    'user: Hello;'
    """
    messages, variables = plain_messages(messages), plain_variables(variables)
    if continue_final_message and add_generation_prompt:
        raise ValueError(
            "continue_final_message goes on with the last message, and add_generation_prompt begins another: give one."
        )
    if continue_final_message:
        field = continue_final_message if isinstance(continue_final_message, str) else "content"
        messages, final = left_open(messages, field)
    variables["add_generation_prompt"] = not continue_final_message and add_generation_prompt is not False
    text = _rendered(template, {**variables, "messages": messages})
    return cut_open(text, final) if continue_final_message else text


def _rendered(template, variables):
    parts, size = [], 0
    try:
        for part in _compiled(template).generate(variables):
            parts.append(part)
            size += len(part)
            if size > MOST_CHARACTERS:
                raise SecurityError(f"it makes more than {MOST_CHARACTERS} characters")
    except Exception as error:  # a template can raise whatever Python's operators do
        reason = " ".join(str(error).split()).removesuffix(".") or type(error).__name__
        raise ValueError(f"The chat template cannot write these messages: {reason}.") from error
    return "".join(parts)


def encode_chat(tokenizer, messages, chat_template=None, expand=None, **variables):
    """The ids of a chat; `Tokenizer.encode_chat` says more."""
    messages, variables = plain_messages(messages), plain_variables(variables)
    template, reader = prepare(tokenizer, chat_template, [messages, variables])
    messages = [reader.hide_message(message) for message in messages]
    text = render_chat(template, messages, **{**token_names(tokenizer), **reader.hide(variables)})
    return reader.read(expand(text) if expand else text)


def turn_end_id(tokenizer, chat_template=None, **variables):
    """The id of the special token that a template puts behind an answer, an int; None where it puts none there."""
    template, reader = prepare(tokenizer, chat_template, variables)
    found = reader.control.match(turn_end(tokenizer, template, **variables))
    return tokenizer.engine.token_to_id(found[0]) if found else None


def turn_end(tokenizer, chat_template=None, **variables):
    """The special tokens, one or several in a row, that a template puts behind an answer, a str; "" for none."""
    variables = plain_variables({**variables, "add_generation_prompt": False, "continue_final_message": False})
    template, reader = prepare(tokenizer, chat_template, variables)
    for content in (str, lambda text: [{"type": "text", "text": text}]):  # some templates write nothing but parts
        messages = [
            {"role": "user", "content": content("?")},
            {"role": "assistant", "content": content(reader.guard)},
        ]
        try:
            text = render_chat(template, messages, **{**token_names(tokenizer), **variables})
        except ValueError:  # A template that wants other messages than these.
            continue
        if reader.guard in text:
            rest = text.rpartition(reader.guard)[2].lstrip()
            return re.match(f"(?:{reader.control.pattern})*", rest)[0]
    return ""


def prepare(tokenizer, chat_template, texts):
    """The template, and a reader for these texts and it."""
    template = tokenizer.chat_template if chat_template is None else chat_template
    if template is None:
        raise ValueError(
            "This tokenizer has no chat template, which says how its model writes chats: give chat_template=…, or "
            "continue a text with `generate`."
        )
    return template, _reader(tokenizer, template, characters_of(template, texts))


def token_names(tokenizer):
    """What templates call the special tokens that they write."""
    names = {"start": "bos_token", "end": "eos_token", "pad": "pad_token", "mask": "mask_token"}
    return {names[role]: token for role, token in tokenizer.special_tokens.items() if token}


class _Reader(NamedTuple):
    """Hides control tokens in messages, and reads texts in which they are hidden.

    Control tokens are the special ones, and others that the template names, as some models' do for turns. Of these, an
    answer's are its own: templates cut what a model thought at "</think>".

    Attributes:
        control, special: patterns of all control tokens, and of the special ones.
        hidden: dict from control tokens to what stands for them in messages.
        marks: dict from control tokens to what stands for them in the template's own text.
        guard: str, which keeps the ends of messages from making control tokens with what stands beside them.
        engine: a `tokenizers.Tokenizer` that reads the marks as tokens.
        ids: dict from ids of marks to those of their control tokens.
    """

    control: re.Pattern
    special: re.Pattern
    hidden: dict
    marks: dict
    guard: str
    engine: tokenizers.Tokenizer
    ids: dict

    def hide_message(self, message):
        """A message whose texts are no control tokens and cannot become any, but for its role, which templates make
        control tokens of."""
        pattern = self.special if message["role"] == "assistant" else self.control
        return {**self.hide(message, pattern), "role": self._without(self.control, message["role"])}

    def hide(self, value, pattern=None):
        pattern = pattern or self.control
        if isinstance(value, str):
            return self._guarded(self._without(pattern, value))
        if isinstance(value, dict):
            return {self._without(pattern, key): self.hide(part, pattern) for key, part in value.items()}
        return [self.hide(part, pattern) for part in value] if isinstance(value, list | tuple) else value

    def _without(self, pattern, text):
        return pattern.sub(lambda found: self.hidden[found[0]], text) if isinstance(text, str) else text

    def _guarded(self, text):
        bare = text.strip()
        begin = text.index(bare)
        before = any(bare.startswith(token[i:]) for token in self.hidden for i in range(1, len(token)))
        behind = any(bare.endswith(token[:i]) for token in self.hidden for i in range(1, len(token)))
        return text[:begin] + before * self.guard + bare + behind * self.guard + text[begin + len(bare) :]

    def read(self, text):
        """The ids of a text that a template has made of hidden messages."""
        return self.read_marked(self.marked(text))[0]

    def marked(self, text):
        """Such a text, or a part of it, as the engine reads it."""
        text = self.control.sub(lambda found: self.marks[found[0]], text)
        return text.translate({ord(self.guard): None, **{ord(place): token for token, place in self.hidden.items()}})

    def read_marked(self, text):
        """The ids of a text from `marked`, and where each of its tokens begins and ends, a list of (int, int)."""
        encoding = self.engine.encode(checked(text), add_special_tokens=False)
        return [self.ids.get(index, index) for index in encoding.ids], encoding.offsets


def _reader(tokenizer, template, used):
    """The reader whose characters are none of those used."""
    readers = vars(tokenizer).setdefault("_chat_readers", {})
    added = tokenizer.engine.get_added_tokens_decoder().values()
    control = {token.content: token for token in added if token.special or token.content in template}
    width = 2 * len(control) + 1
    for begin in range(PRIVATE_USE.start, PRIVATE_USE.stop - width, width):
        if used.isdisjoint(map(chr, range(begin, begin + width))):
            key = begin, *control
            if key not in readers:
                readers[key] = _make_reader(tokenizer.engine, control, [chr(begin + i) for i in range(width)])
            return readers[key]
    raise ValueError("The messages leave no private-use character over, which reading a chat needs: remove some.")


def _make_reader(engine, control, characters):
    guard, marks, hidden = characters[0], characters[1 : len(control) + 1], characters[len(control) + 1 :]
    spec = json.loads(engine.to_str())
    for token in spec["added_tokens"]:
        token["special"] |= token["content"] in control
    _keep_white_space(spec["post_processor"])
    reading = tokenizers.Tokenizer.from_str(json.dumps(spec))
    reading.encode_special_tokens = True
    added = []
    for mark, token in zip(marks, control.values(), strict=True):
        is_kept = reading.normalizer is None or mark in reading.normalizer.normalize_str(mark)
        flags = {"lstrip": token.lstrip, "rstrip": token.rstrip, "normalized": token.normalized and is_kept}
        added.append(tokenizers.AddedToken(mark, single_word=token.single_word, **flags))
    reading.add_tokens(added)
    return _Reader(
        control=_any_of(control),
        special=_any_of(text for text, token in control.items() if token.special),
        hidden=dict(zip(control, hidden, strict=True)),
        marks=dict(zip(control, marks, strict=True)),
        guard=guard,
        engine=reading,
        ids={reading.token_to_id(mark): engine.token_to_id(t) for mark, t in zip(marks, control, strict=True)},
    )


def _keep_white_space(processor):
    """Has tokens begin where their white space does, ids being what they were."""
    if processor and "trim_offsets" in processor:
        processor["trim_offsets"] = False
    for part in (processor or {}).get("processors", ()):
        _keep_white_space(part)


def _any_of(tokens):
    """The pattern of the longest of these that stands at a place."""
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")


def characters_of(*texts):
    """The set of the characters that are in texts, whatever holds these."""
    return set("".join(_strings(texts)))


def _strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _strings(part)


class _Generation(Extension):
    """`{% generation %}`, which marks what a model is trained on, and writes what it encloses, between the variables
    of GENERATION where these are given."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        begin, end = (nodes.Output([nodes.Name(name, "load")], lineno=line) for name in GENERATION)
        return [begin, *body, end]


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox, in which no operator makes a huge text."""

    intercepted_binops = frozenset(["+", "*", "**"])

    def call_binop(self, context, operator, left, right):
        sizes = [len(side) if isinstance(side, str | list | tuple) else 0 for side in (left, right)]
        if operator == "*" and any(sizes):
            sizes = [max(sizes) * (right if isinstance(right, int) else left)]
        if operator == "**" or sum(sizes) > MOST_CHARACTERS:
            raise SecurityError(f"it asks for too much with {operator!r}")
        return super().call_binop(context, operator, left, right)


@functools.lru_cache(maxsize=16)
def _compiled(template):
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _raise, "strftime_now": _now}
    return environment.from_string(template)


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return _ESCAPED_PRIVATE_USE.sub(lambda found: json.loads(f'"{found[0]}"'), text)


def _raise(message):
    raise jinja2.TemplateError(message)


def _now(pattern):
    return datetime.datetime.now().strftime(pattern)
