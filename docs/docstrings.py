"""The docstrings of the package as griffe's parser of Google's style, of which the reference is made, takes them.

What that style has not: Args of several names, lists of options inside of `**options`, "Call arguments" of a layer, and
an Example that is not indented. Griffe would make running text of these.
"""

import re
import textwrap

import griffe

_HEADER = re.compile(r"(Args|Attributes|Call arguments.*|Example|Raises|Reference|Returns|Yields):( .*)?$")
_ITEM = re.compile(r"( *)((?:\*{0,2}\w+, )*\*{0,2}\w+): +(?=\S)")
_OPENS_LIST = re.compile(r"(:|\band)$")  # how a line ends that a list of options follows, if no empty line does


class Docstrings(griffe.Extension):
    """Rewrites the docstring of each object before it is parsed."""

    def on_object(self, *, obj, **_):
        if obj.docstring:
            obj.docstring.value = rewritten(obj.docstring.value)


def rewritten(docstring):
    """A docstring in the words of griffe's parser."""
    sections = [["", []]]
    for line in docstring.split("\n"):
        if header := _HEADER.match(line):
            sections.append([header[1], [header[2].strip()] if header[2] else []])
            continue
        if sections[-1][0] not in ("", "Example") and re.match(r"\S", line):  # running text behind a section
            sections.append(["", []])
        sections[-1][1].append(line)
    return "\n".join(_section(header, lines) for header, lines in sections).strip()


def _section(header, lines):
    if not header:
        return _with_lists("\n".join(lines)) + "\n"
    body = textwrap.dedent("\n".join(lines)).strip("\n")
    if header == "Example":
        return f"Examples:\n{textwrap.indent(body, '    ')}\n"
    if header == "Attributes":  # Of "a, b: int" griffe would make an attribute "a," of type b.
        body = re.sub(r"(?m)^((?:\w+, )+\w+): (.*)$", lambda item: _each(item[1].split(", "), item[2]), body)
    elif header == "Args":
        body = _with_lists(_whole_items(body))
    elif header.startswith("Call arguments"):
        _, _, what = header.partition(" of ")
        header = f"Call arguments of {what.strip('`')}" if what else "Call arguments"
        body = _with_lists("\n" + _whole_items(body))
    return f"{header}:\n{textwrap.indent(body, '    ')}\n"


def _each(names, text):
    return "\n".join(f"{name}: {text}" for name in names)


def _whole_items(body):
    """Puts the names of an item on one line, where they take several."""
    return re.sub(r"(?m)^((?:\*{0,2}\w+, )*\*{0,2}\w+,|(?:\*{0,2}\w+, )+\*{0,2}\w+:)\n +(?=\S)", r"\1 ", body)


def _with_lists(body):
    """Makes Markdown's lists of options that stand inside of an item, or of all items behind an empty line."""
    lines, in_list, start = [], False, 0
    for line in body.split("\n"):
        item = _ITEM.match(line)
        indent = len(line) - len(line.lstrip())
        before = lines[-1] if lines else None
        if in_list and line and indent < start:
            in_list = False
        if item and not in_list and before is not None and indent >= (4 if before else 0):
            in_list, start = not before or bool(_OPENS_LIST.search(before)), indent
            if in_list and before:
                lines.append("")
        lines.append(f"{item[1]}- `{item[2]}`: {line[item.end() :]}" if item and in_list else line)
    return "\n".join(lines).strip("\n")
