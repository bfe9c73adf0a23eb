"""A regular expression of Python's as an automaton over bytes.

outlines-core builds it, by the library of regular expressions of Rust. Where that language has another meaning than
Python's, the pattern is written otherwise, or refused. (The texts are those that `re.fullmatch` takes.)
"""

import re
import unicodedata
import warnings

import numpy as np

from kerasllm.extras import optional
from kerasllm.generation.constraints.automata import Automaton

# Letters and digits as this Python knows them, which may be fewer than another library does.
_AGE = f"&&\\p{{Age={'.'.join(unicodedata.unidata_version.split('.')[:2])}}}"
_DIGIT, _LETTER = rf"\p{{Nd}}{_AGE}", rf"[\p{{L}}\p{{N}}_]{_AGE}"
_CLASSES = {
    "\\d": f"[{_DIGIT}]",
    "\\D": f"[^[{_DIGIT}]]",
    "\\w": f"[{_LETTER}]",
    "\\W": f"[^[{_LETTER}]]",
    "\\s": r"[\s\x1c-\x1f]",
    "\\S": r"[^\s\x1c-\x1f]",
}
_OTHERWISE = {"\\<": "<", "\\>": ">", "{,": "{0,"}
# A class's beginning, with a bracket that it holds first; a group's beginning, perhaps with flags; any other.
_PART = re.compile(r"\\.|\[\^?\]?|\(\?[a-zA-Z]*-?[a-zA-Z]*[:)]?|\{,|.", re.DOTALL)
_PART_OF_CLASS = re.compile(r"\\.|.", re.DOTALL)
_END_OF_VOCABULARY = 256  # the end token of a vocabulary of all bytes
# outlines-core makes an automaton for searching, too, which may be as large as 2 to the power of a text's length.
# Behind the first byte the empty alternative matches, and of several matches the first one counts: so no other is
# looked for. The \z alone is there as the library wants a text to be able to end behind both bytes.
_BEFORE, _ANCHORED = b"\x00\x01", r"\x00(?:\x01(?:(?:{})\z|\z)|)"


def pattern_automaton(pattern):
    """The `Automaton` of a pattern.

    Args:
        pattern: str, in Python's language of regular expressions, without what an automaton cannot do: look around,
            refer to groups, ask for the edges of words.

    Raises:
        TypeError: if it is no str.
        ValueError: if it is no such pattern, or nothing matches it.
        ImportError: where outlines-core is not installed.
    """
    outlines_core = optional("outlines_core", "Text is held to a regular expression")
    if isinstance(pattern, re.Pattern):
        pattern = ("(?i)" if pattern.flags & re.IGNORECASE else "") + pattern.pattern
    if not isinstance(pattern, str):
        raise TypeError(f"`regex` is a str, got {type(pattern).__name__}.")
    vocabulary = outlines_core.Vocabulary(_END_OF_VOCABULARY, {bytes([byte]): [byte] for byte in range(256)})
    written, nothing = _ANCHORED.format(as_rust(pattern)), f"`regex` {pattern!r:.200} matches no text."
    try:
        index = outlines_core.Index(written, vocabulary)
    except ValueError as error:
        if "no transitions" in str(error):
            raise ValueError(nothing) from None
        raise ValueError(
            f"`regex` {pattern!r:.200} cannot be made an automaton, which knows no look-around, back-references or "
            f"edges of words: {str(error).removeprefix('Failed to build DFA ')[:300]}."
        ) from None
    moves, numbers = index.get_transitions(), {}
    begin = index.get_initial_state()
    for byte in _BEFORE:
        begin = moves.pop(begin)[byte]
    for state in (begin, *moves):
        numbers.setdefault(state, len(numbers))
    following = np.full((len(numbers), 257), -1, "int32")
    for state, row in moves.items():
        following[numbers[state], list(row)] = [numbers.get(end, -1) for end in row.values()]
    ends = np.zeros(len(numbers), bool)
    ends[[numbers[state] for state in index.get_final_states() if state in numbers]] = True
    ends[0] = re.fullmatch(pattern, "") is not None
    if not ends.any():
        raise ValueError(nothing)
    return Automaton(following[:, :256], ends)


def as_rust(pattern):
    """The same pattern in the language of Rust's library, within a group that is to match all of a text.

    Raises:
        ValueError: if Python does not know it, or it has something that Rust reads in another way.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # such as that [[ may have another meaning one day, as it has in Rust
            flags = re.compile(pattern).flags
    except (re.error, Warning, RecursionError) as error:
        raise ValueError(f"`regex` {pattern!r:.200} is no regular expression of Python's: {error}.") from None
    if flags & (re.ASCII | re.VERBOSE | re.LOCALE):
        raise ValueError(f"`regex` {pattern!r:.200} has a flag other than i, m and s: write it without.")
    written, place, depth, in_class, begins = [], 0, 0, False, True
    while place < len(pattern):
        part = (_PART_OF_CLASS if in_class else _PART).match(pattern, place)[0]
        place += len(part)
        if in_class:
            in_class = part != "]"
            written.append("\\" + part if part in ("[", "&", "~") else _CLASSES.get(part, part))
            continue
        if part in ("^", "\\A", "$", "\\Z"):
            # The text is matched as a whole, so at the edges of the pattern they say nothing.
            ends = depth == 0 and pattern[place : place + 1] in ("", "|")
            if not (begins if part in ("^", "\\A") else ends):
                raise ValueError(
                    f"`regex` {pattern!r:.200} has {part} within: it is to match a whole text, so leave it out."
                )
            continue
        if part.startswith("(?") and set("xaL") & set(part):
            raise ValueError(f"`regex` {pattern!r:.200} has a flag other than i, m and s: write it without.")
        if part == "+" and written[-1][-1:] in ("*", "+", "?", "}") and written[-1][:1] != "\\":
            raise ValueError(f"`regex` {pattern!r:.200} has a possessive repetition: write it without its last +.")
        is_flags = part.startswith("(?") and part.endswith(")")
        depth += part.startswith("(") - (part.endswith(")") and part != "\\)")
        begins = (begins and is_flags) or (part == "|" and depth == 0)
        in_class = part.startswith("[")
        written.append(_OTHERWISE.get(part) or _CLASSES.get(part, part))
    return "".join(written)
