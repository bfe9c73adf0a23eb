"""Python functions as chat templates take tools: the JSON schema that a signature and its docstring say.

Schemas are those that transformers makes, so that a model reads of a tool what it read in its training.
"""

import enum
import inspect
import json
import re
import types
import typing

_SCALARS = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
_TYPES = _SCALARS | {list: "array", tuple: "array", dict: "object"}
_CHOICES = re.compile(r"\(choices:\s*(.*?)\)\s*$", re.IGNORECASE)
_ARGUMENT = re.compile(r"([ \t]*)(\w+)(?:[ \t]*\([^()]*\))?:(.*)")


def tool_schema(function):
    """The JSON schema of a function.

    Args:
        function: with a docstring in Google's style that describes each argument, and a type for each: int, float, str,
            bool, list, tuple, dict, `Literal`, an Enum, or unions and nested kinds of these. Choices stand at the end
            of a description: `(choices: ["tea", "coffee"])`.

    Returns:
        dict, {"type": "function", "function": {"name", "description", "parameters"}}, and "return" where its type is
        given.

    Raises:
        TypeError: where it is no function.
        ValueError: where its docstring or a type is missing, or is none of those; the message names it.

    Example:

    >>> def add(a: int):
    ...     \"\"\"Adds one.
    ...
    ...     Args:
    ...         a: A number.
    ...     \"\"\"
    >>> tool_schema(add)["function"]["parameters"]["properties"]
    {'a': {'type': 'integer', 'description': 'A number.'}}
    """
    if not (inspect.isfunction(function) or inspect.ismethod(function)):
        raise TypeError(f"A tool is a Python function, or a dict that holds its JSON schema; got {function!r:.80}.")
    name, text = function.__name__, inspect.getdoc(function)
    if not (text or "").strip():
        raise ValueError(
            f"The tool {name} has no docstring, from which a model learns what it does: write one that describes each "
            f"argument under 'Args:', or give its JSON schema."
        )
    description, arguments, returned = _parts(text.strip())
    properties, required = {}, []
    hints = typing.get_type_hints(function)
    for number, parameter in enumerate(inspect.signature(function).parameters.values()):
        has_type = parameter.annotation is not parameter.empty
        if number == 0 and parameter.name in ("self", "cls") and not has_type:
            continue
        where = f"The argument {parameter.name!r} of the tool {name}"
        if not has_type:
            raise ValueError(f"{where} has no type: annotate it, as in `{parameter.name}: str`.")
        if parameter.name not in arguments:
            raise ValueError(f"{where} is not described: write '{parameter.name}: …' under 'Args:' in the docstring.")
        properties[parameter.name] = _described(_schema(hints[parameter.name], where), arguments[parameter.name], where)
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    parameters = {"type": "object", "properties": properties, **({"required": required} if required else {})}
    schema = {"name": name, "description": description, "parameters": parameters}
    if "return" in hints:
        try:
            schema["return"] = _schema(hints["return"], name)
        except ValueError:  # No model writes what is returned: no schema says nothing wrong of it.
            pass
        else:
            schema["return"] |= {} if returned is None else {"description": returned}
    return {"type": "function", "function": schema}


def _described(schema, description, where):
    """A schema with its description, and with the choices that this ends with."""
    choices = _CHOICES.search(description)
    if choices is None:
        return {**schema, "description": description}
    try:
        values = [value.strip() if isinstance(value, str) else value for value in json.loads(choices[1])]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where} has choices that are no list in JSON: {choices[1]}.") from error
    return {**schema, "enum": values, "description": description[: choices.start()].strip()}


def _parts(text):
    """What a docstring says of a function (str), of its arguments (dict), and of what it returns (str or None)."""
    description = re.split("Args:|Returns:|Raises:", text, maxsplit=1)[0].strip()
    block = re.search(r"\n\s*Args:\n(.*)", text, re.DOTALL)
    arguments = _arguments(re.split("Returns:|Raises:", block[1], maxsplit=1)[0]) if block else {}
    block = re.search(r"\n\s*Returns:\n(.*)", text, re.DOTALL)
    return description, arguments, block[1].partition("Raises:")[0].strip() if block else None


def _arguments(block):
    """Descriptions by name. Lines that are indented deeper than the name go on with its description."""
    found, indent, name = {}, "", None
    for line in filter(str.strip, block.split("\n")):
        match = _ARGUMENT.match(line)
        if match and (name is None or not re.match(indent + "[ \t]", line)):
            indent, name = match[1], match[2]
            found[name] = match[3].strip()
        elif name is not None:
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found


def _schema(hint, where):
    """The JSON schema of a type."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is None:
        return _plain_schema(hint, where)
    if origin in (typing.Union, types.UnionType):
        return _union([_schema(kind, where) for kind in inner if kind is not type(None)], type(None) in inner)
    if origin is typing.Literal:
        return _enumeration(list(inner), where)
    if origin is list:
        return {"type": "array", **({"items": _schema(inner[0], where)} if inner else {})}
    if origin is tuple and len(inner) != 1 and ... not in inner:
        return {"type": "array", **({"prefixItems": [_schema(kind, where) for kind in inner]} if inner else {})}
    if origin is dict:
        values = {"additionalProperties": _schema(inner[1], where)} if len(inner) == 2 else {}
        return {"type": "object", **values}
    return _refuse(hint, where)


def _plain_schema(hint, where):
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _enumeration([member.value for member in hint], where)
    if hint is typing.Any:
        return {}
    if isinstance(hint, type) and hint in _TYPES:
        return {"type": _TYPES[hint]}
    return _refuse(hint, where)


def _union(schemas, nullable):
    if len(schemas) == 1:
        (schema,) = schemas
    elif all(schema.keys() == {"type"} and isinstance(schema["type"], str) for schema in schemas):
        names = sorted({schema["type"] for schema in schemas})
        schema = {"type": names[0] if len(names) == 1 else names}
    else:
        schema = {"anyOf": schemas}
    return {**schema, "nullable": True} if nullable else schema


def _enumeration(values, where):
    if not values or any(type(value) not in _SCALARS for value in values):
        raise ValueError(f"{where} takes one of {values!r:.80}, which are not str, int, float, bool or None.")
    kinds = list(dict.fromkeys(_SCALARS[type(value)] for value in values))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": values}


def _refuse(hint, where):
    name = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    raise ValueError(
        f"{where} has the type {name:.80}, of which no JSON schema is known: use int, float, str, bool, list, dict, "
        f"Literal, an Enum or unions of these, or give the tool's schema as a dict."
    )
