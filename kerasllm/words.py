"""What others call things: a keyword that does not exist is answered with our word for it, or the nearest there is."""

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import TypeVar

Target = TypeVar("Target")


def advice(name, known, words):
    """What to write in place of a name that does not exist: the end of a sentence, empty where nothing is known.

    Args:
        name: str, what was written.
        known: list of str, the names there are.
        words: dict from names that other libraries use to ours, or to a clause that says what to do instead.

    Example:

    >>> "There is no n_layer" + advice("n_layer", ["num_layers"], {"n_layer": "num_layers"})
    'There is no n_layer: here it is `num_layers`.'
    """
    word = words.get(name)
    if word is not None:
        return f": here it is `{word}`." if word in known else f": {word}."
    if close := difflib.get_close_matches(name, known, n=1):
        return f". Did you mean `{close[0]}`?"
    return ""


def check_keywords(keywords, name, known, words):
    """Refuses keywords that something of that name does not have: see `advice`."""
    for keyword in keywords:
        if keyword not in known:
            instead = advice(keyword, known, words) or f". It takes {', '.join(known)}."
            raise TypeError(f"`{name}` has no `{keyword}`{instead}")


def explain_keywords(words, name=None, also=()) -> Callable[[Target], Target]:
    """A decorator of a function or class, whose unknown keywords then get a sentence that says what to write.

    Of a function that takes further keywords, and `also` does not say which, those only that are among `words`.

    Args:
        words: see `advice`.
        name: str or None, what the function is called where that is not its own name.
        also: names of parameters that are not in its signature.

    Raises (when the function is called):
        TypeError: for a keyword that it does not have.
    """

    def decorate(target):
        function = target.__init__ if isinstance(target, type) else target
        parameters = inspect.signature(function).parameters.values()
        known = [p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD] + list(also)
        takes_more = not also and any(p.kind is p.VAR_KEYWORD for p in parameters)

        @functools.wraps(function)
        def checked(*args, **keywords):
            asked = [keyword for keyword in keywords if keyword in words or not takes_more]
            check_keywords(asked, name or target.__name__, known, words)
            return function(*args, **keywords)

        if not isinstance(target, type):
            return checked
        target.__init__ = checked
        return target

    return decorate
