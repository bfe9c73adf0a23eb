"""Tools: a model writes "TS, query", reads what all of them find, and writes "User, answer" in the end.

A tool is a function from a query (str) to a list of str; one that can do nothing with a query finds nothing.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from kerasllm.data.ratings import NAME_OF_TOOLS, NAME_OF_USER
from kerasllm.dialogue.grounding import supports
from kerasllm.generation.translation import translate
from kerasllm.models import Seq2SeqLM
from kerasllm.tokenizers import Tokenizer

ROUNDS = 4
NOTHING = "nothing found"
_ADDRESSED = re.compile(rf"\s*({NAME_OF_TOOLS}|{NAME_OF_USER}),\s*(.*)", re.DOTALL)
_SOURCE = re.compile(r"(.*\S)\s*\[([^\[\]]+)\]\s*", re.DOTALL)


class Finding(NamedTuple):
    """What a tool found.

    Attributes:
        text: str.
        source: str, where it is from: what stands in brackets at its end, or else the tool's name.
    """

    text: str
    source: str


def translator(model: Seq2SeqLM, tokenizer: Tokenizer) -> Callable[[str], list[str]]:
    """A tool that translates: "translate: A dog runs." finds "Ein Hund läuft.".

    Args:
        model: a `Seq2SeqLM`.
        tokenizer: its `Tokenizer`.

    Returns:
        A function from a query to a list of the translation, or of nothing where the query does not begin so.

    Raises:
        TypeError: if the model is no `Seq2SeqLM`.

    Example:
        >>> kerasllm.dialogue.translator(*kerasllm.load("en-de"))("translate: A dog runs.")
        ['Ein Hund läuft.']
    """
    if not isinstance(model, Seq2SeqLM):
        raise TypeError(f"`translator` needs a Seq2SeqLM, got {type(model).__name__}.")

    def translation(query):
        asked = re.fullmatch(r"\s*translate\s*:?\s+(.+)", query, re.IGNORECASE | re.DOTALL)
        return [translate(model, tokenizer, asked[1].strip())] if asked else []

    return translation


def addressed(text):
    """To whom a text is said, and what: a pair of the name and the rest of it; the user where it names nobody."""
    found = _ADDRESSED.fullmatch(text)
    return (found[1], found[2].strip()) if found else (NAME_OF_USER, text.strip())


def ask(tools, query):
    """What tools find, a list of `Finding`.

    Raises:
        TypeError: if one gives something else than a list of str.
    """
    findings = []
    for tool in tools:
        name = getattr(tool, "__name__", type(tool).__name__)
        results = tool(query)
        if not isinstance(results, list | tuple) or not all(isinstance(result, str) for result in results):
            raise TypeError(f"The tool {name} must give a list of str, got {results!r:.80} for {query!r:.40}.")
        sourced = ((result, _SOURCE.fullmatch(result)) for result in results)
        findings += [Finding(found[1], found[2]) if found else Finding(text, name) for text, found in sourced]
    return findings


def with_tools(messages, tools, answer):
    """The messages with what tools were asked and found, and a list of all `Finding`s.

    Args:
        messages: list of dicts.
        tools: list of functions.
        answer: function from messages to a text, what the model says next.
    """
    messages, findings = list(messages), []
    for _ in range(ROUNDS if tools else 0):
        text = answer(messages)
        name, query = addressed(text)
        if name != NAME_OF_TOOLS or not query:
            break
        found = ask(tools, query)
        findings += found
        results = "\n".join(f"{one.text} [{one.source}]" for one in found) or NOTHING
        messages += [
            {"role": "assistant", "content": text.strip()},
            {"role": "user", "content": f"{NAME_OF_TOOLS}, {results}"},
        ]
    return messages, findings


def sources_of(text, findings, messages):
    """The sources of the findings that an answer rests on, each once."""
    said = " ".join(message["content"] for message in messages)
    return list(dict.fromkeys(one.source for one in findings if supports(one.text, text, said)))


def with_sources(text, findings, messages):
    """An answer that names at its end those of its sources that it does not name itself."""
    unnamed = [source for source in sources_of(text, findings, messages) if source not in text]
    return f"{text} [{'; '.join(unnamed)}]" if unnamed else text
