"""What values a setting takes: its description, which is that of its flag too, and the checks."""

import re


def about(kind, help, *, choices=None, least=None, below=None, metavar=None, alone=None):
    """What describes a flag and the values it takes: `least` <= value < `below`; `alone` is what it says by itself."""
    names = ("kind", "help", "choices", "least", "below", "metavar", "alone")
    return dict(zip(names, (kind, help, choices, least, below, metavar, alone), strict=True))


def checked(name, about, value, default=None):
    """The value as the setting's type, or a ValueError that says which values it takes."""
    kind, choices, least, below = (about[key] for key in ("kind", "choices", "least", "below"))
    if kind is bool:
        if not isinstance(value, bool):
            raise ValueError(f"{name} takes true or false, not {value!r}.")
        return value
    if isinstance(default, tuple):
        return _checked_texts(name, about, default if value is None and not about["alone"] else value)
    if value is None and default is None:
        return None
    wanted = {int: "a whole number", float: "a number", str: "a text"}[kind]
    try:
        # YAML reads 1e-3 as a text and 32 as an int; a float setting takes both, an int setting takes no 2.5.
        typed = kind(value) if not isinstance(value, (bool, list, dict, type(None))) else None
    except (ValueError, OverflowError):
        typed = None
    if typed is None or (kind is int and isinstance(value, float) and typed != value) or typed != typed:
        raise ValueError(f"{name} takes {wanted}, not {value!r}.")
    if choices and typed not in choices:
        raise ValueError(f"{name} takes {', '.join(choices)}, not {value!r}.")
    if (least is not None and typed < least) or (below is not None and typed >= below):
        limits = f"{wanted} of at least {least}" + (f" and below {below}" if below is not None else "")
        raise ValueError(f"{name} takes {limits}, not {value!r}.")
    return typed


def _checked_texts(name, about, value):
    if about["alone"] and (value is None or isinstance(value, bool)):
        return about["alone"] if value else ()
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, (list, tuple)) or not all(isinstance(item, str) for item in values):
        raise ValueError(f"{name} takes a {(about['metavar'] or 'name').lower()} or a list of them, not {value!r}.")
    return tuple(values)


def pairs_of(name, what, texts):
    """Texts such as "1024:2000" as pairs of int above 0."""
    if not all(re.fullmatch("[1-9][0-9]*:[1-9][0-9]*", text) for text in texts):
        raise ValueError(f"{name} takes {what}, not {' '.join(texts)}.")
    return [tuple(map(int, text.split(":"))) for text in texts]


_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def plain(value):
    """A value as JSON has it; YAML reads 1e-6 as a text."""
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    if not isinstance(value, (str, bool, int, float, type(None))) or value != value:
        raise ValueError(f"model takes numbers, texts, lists and mappings, not {value!r}.")
    return value
