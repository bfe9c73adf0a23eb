"""JSON schemas as regular expressions, where that is all they are: without recursion, and not too large.

What such a schema allows is a table, which the compiled loop looks up by itself: it need not stop at each token. Of any
other, and of words that are not known here, nothing is said: llguidance reads those.
"""

import json
from collections.abc import Mapping
from typing import NamedTuple

MOST_STATES = 8000  # of an automaton over bytes, about: its table takes a second or two
_MOST_INTEGERS = 1000  # that are written one by one
_MOST_OPTIONAL = 8  # properties of an object that needs none

# What says nothing about a text.
_NOTES = {"title", "description", "default", "examples", "deprecated", "$schema", "$comment", "$defs", "definitions"}
_WORDS = {
    "string": {"minLength", "maxLength"},
    "integer": {"minimum", "maximum"},
    "number": set(),
    "boolean": set(),
    "null": set(),
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
}
_INTEGER = r"-?(?:0|[1-9][0-9]*)"
_NUMBER = _INTEGER + r"(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
# A letter as it is or with a backslash; of halves of a letter, as UTF-16 has them, none stands alone.
_CODE = r"u(?:[0-9a-ce-fA-CE-F][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2})"
_LETTER = rf'(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|{_CODE}))'
_STATES_OF_LETTER, _STATES_OF_NUMBER = 14, 8


class _Other(Exception):
    """A schema that is something else than a regular expression."""


class _Part(NamedTuple):
    """A regular expression, and of how many states it is, about."""

    pattern: str
    states: int


def schema_pattern(schema):
    """The regular expression of a JSON schema, written as `json.dumps` writes, or None.

    Args:
        schema: dict.

    Example:
        >>> schema_pattern({"type": "array", "items": {"type": "boolean"}, "minItems": 1})
        '\\\\[(?:true|false)(?:, (?:true|false)){0,}\\\\]'

    Reference: https://json-schema.org/draft/2020-12
    """
    try:
        return _read(schema, schema, ()).pattern
    except (_Other, RecursionError):
        return None


def _read(schema, root, within):
    """The `_Part` of a schema, which stands in others (names of references)."""
    if not isinstance(schema, Mapping):
        raise _Other
    words = {word: value for word, value in schema.items() if word not in _NOTES}
    if list(words) == ["$ref"]:
        name = words["$ref"]
        if name in within:
            raise _Other
        return _read(_referred(name, root), root, (*within, name))
    if list(words) == ["anyOf"] and isinstance(words["anyOf"], list):
        return _one_of([_read(each, root, within) for each in words["anyOf"]])
    kind = words.pop("type", None)
    if list(words) in (["enum"], ["const"]):
        return _values(words["enum"] if "enum" in words else [words["const"]], kind)
    kinds = [kind] if isinstance(kind, str) else kind
    if not kinds or not isinstance(kinds, list) or not set(kinds) <= _WORDS.keys():
        raise _Other
    if words.keys() - set().union(*(_WORDS[kind] for kind in kinds)):
        raise _Other
    return _one_of([_KINDS[kind](_Words(words), root, within) for kind in kinds])


class _Words(dict):
    """The words of a schema."""

    def count(self, word, default):
        """A whole number, of 0 or more."""
        value = self.get(word, default)
        if value is not None and (type(value) is not int or value < 0):
            raise _Other
        return value


def _referred(name, root):
    """The schema that a reference within another one names."""
    if not isinstance(name, str) or not name.startswith("#/"):
        raise _Other
    found = root
    for key in name[2:].split("/"):
        if not isinstance(found, Mapping) or key not in found:
            raise _Other
        found = found[key]
    return found


def _one_of(parts):
    states = sum(part.states for part in parts)
    if not parts or states > MOST_STATES:
        raise _Other
    if len(parts) == 1:
        return parts[0]
    return _Part(f"(?:{'|'.join(part.pattern for part in parts)})", states)


def _values(values, kind):
    if not isinstance(values, list) or (kind is not None and not (kind == "string" and _are_texts(values))):
        raise _Other
    return _one_of([_json(value) for value in values])


def _are_texts(values):
    return all(isinstance(value, str) for value in values)


def _json(value):
    """What JSON a value is."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        states = len(text.encode())
    except ValueError:  # of numbers that JSON does not know, and of halves of letters
        raise _Other from None
    return _Part("".join("\\" + letter if letter in r"\.+*?()|[]{}^$" else letter for letter in text), states)


def _string(words, root, within):
    least, most = words.count("minLength", 0), words.count("maxLength", None)
    if most is not None and most < least:
        raise _Other
    count = f"{{{least},{'' if most is None else most}}}"
    return _Part(f'"{_LETTER}{count}"', _STATES_OF_LETTER * max(least, most or 0, 1))


def _integer(words, root, within):
    if not words.keys() & _WORDS["integer"]:
        return _Part(_INTEGER, _STATES_OF_NUMBER)
    least, most = words.get("minimum"), words.get("maximum")
    if type(least) is not int or type(most) is not int or not 0 <= most - least < _MOST_INTEGERS:
        raise _Other
    return _one_of([_json(number) for number in range(least, most + 1)])


def _array(words, root, within):
    least, most = words.count("minItems", 0), words.count("maxItems", None)
    if "items" not in words or (most is not None and most < max(least, 1)):
        raise _Other
    item = _read(words["items"], root, within)
    more = f"(?:, {item.pattern}){{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
    some = f"{item.pattern}{more}"
    return _Part(rf"\[{some if least else f'(?:{some})?'}\]", (item.states + 2) * max(least, most or 0, 2))


def _object(words, root, within):
    """Properties come in their order, and commas between those that are there."""
    properties, required = words.get("properties", {}), words.get("required", [])
    if words.get("additionalProperties", True) is not False or not isinstance(properties, Mapping):
        raise _Other
    if not isinstance(required, list) or not _are_texts(required) or not set(required) <= properties.keys():
        raise _Other
    parts, states = [], 2
    for name, schema in properties.items():
        key, value = _json(name), _read(schema, root, within)
        parts.append((f"{key.pattern}: {value.pattern}", name in required))
        states += key.states + value.states + 4
    first = next((place for place, (_, is_required) in enumerate(parts) if is_required), None)
    if first is not None:
        before = "".join(f"(?:{pattern}, )?" for pattern, _ in parts[:first])
        return _Part(rf"\{{{before}{parts[first][0]}{_behind(parts[first + 1 :])}\}}", states)
    if len(parts) > _MOST_OPTIONAL:
        raise _Other
    begun = [f"{pattern}{_behind(parts[place + 1 :])}" for place, (pattern, _) in enumerate(parts)]
    return _Part(rf"\{{(?:{'|'.join([*begun, ''])})\}}", states * max(len(parts), 1))


def _behind(parts):
    return "".join(f"(?:, {pattern}){'' if is_required else '?'}" for pattern, is_required in parts)


_KINDS = {
    "string": _string,
    "integer": _integer,
    "number": lambda words, root, within: _Part(_NUMBER, 2 * _STATES_OF_NUMBER),
    "boolean": lambda words, root, within: _Part("(?:true|false)", 9),
    "null": lambda words, root, within: _Part("null", 4),
    "array": _array,
    "object": _object,
}
