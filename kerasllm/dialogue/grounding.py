"""Which of what tools found an answer rests on: by numbers and words, not by sense.

A person who reads both is the judge in the paper. This is what can be said without one, and errs on both sides.
"""

import re

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WORD = re.compile(r"[^\W\d_]{4,}")
_SENTENCE_END = re.compile(r"[.!?:;]\s+")


def new_numbers(text, said):
    """The numbers of a text that are not in what was said before, a set of str."""
    return _numbers(text) - _numbers(said)


def makes_claims(text, said):
    """Whether a reply says something of the world that the dialogue does not: it has numbers that nobody has said, or
    names, words that begin with a capital letter within a sentence."""
    within = (word for sentence in _SENTENCE_END.split(text) for word in _WORD.findall(sentence.partition(" ")[2]))
    names = {word.lower() for word in within if word[0].isupper()}
    return bool(new_numbers(text, said) or names - _words(said))


def supports(found, text, said):
    """Whether what was found holds all the numbers of a text, and half of its words, that nobody has said before."""
    numbers, words = new_numbers(text, said), _words(text) - _words(said)
    if not numbers <= _numbers(found):
        return False
    return bool(numbers) or (bool(words) and 2 * len(words & _words(found)) >= len(words))


def _numbers(text):
    return {number.replace(",", "").rstrip(".") for number in _NUMBER.findall(text)}


def _words(text):
    return set(_WORD.findall(text.lower()))
