"""Pairs of sentences that differ in one thing, of which one is grammatical: which does a model hold for likelier?"""

import numpy as np

from kerasllm.evaluation.items import drawn_items, read_json_lines
from kerasllm.evaluation.tasks.questions import Question

_NOUNS = {  # singular, plural
    "teacher": "teachers", "girl": "girls", "doctor": "doctors", "farmer": "farmers", "child": "children",
    "woman": "women", "artist": "artists", "guest": "guests", "driver": "drivers", "student": "students",
}  # fmt: skip
_THINGS = {
    "book": "books", "picture": "pictures", "chair": "chairs", "letter": "letters", "house": "houses",
    "window": "windows", "bottle": "bottles", "key": "keys", "box": "boxes", "lamp": "lamps",
}  # fmt: skip
_VERBS = {"sleeps": "sleep", "laughs": "laugh", "waits": "wait", "sings": "sing", "listens": "listen", "runs": "run"}
_SEEN = ("watched", "praised", "blamed", "helped", "saw", "hurt")
_ADJECTIVES = ("old", "tall", "tired", "happy", "famous", "hungry")
_PARTICIPLES = {  # participle, past tense
    "written": "wrote", "taken": "took", "broken": "broke", "chosen": "chose", "stolen": "stole", "forgotten": "forgot",
}  # fmt: skip
_PRONOUNS = {"them": "they", "him": "he", "us": "we", "me": "I"}
_NAMES = ("Anna", "Peter", "Maria", "David", "Laura", "Simon")


def minimal_pairs(conditions):
    """Pairs of English sentences by phenomenon, made of a small lexicon; the likelier of each pair is to be the
    grammatical one, as in BLiMP (Warstadt et al. 2020, https://arxiv.org/abs/1912.00582), whose files are read too."""
    rng = np.random.default_rng(conditions.seed)
    phenomena, found = list(_PHENOMENA), {}
    for number in range(20 * conditions.limit):
        name = phenomena[number % len(phenomena)]
        pair = _PHENOMENA[name](lambda words: str(rng.choice(list(words))))
        found.setdefault(pair, Question("", pair, (name,)))
        if len(found) == conditions.limit:
            break
    return list(found.values())


def _verb(draw):
    noun, verb = draw(_NOUNS), draw(_VERBS)
    forms = (verb, _VERBS[verb])
    if draw((True, False)) == "True":
        return f"The {noun} {forms[0]}.", f"The {noun} {forms[1]}."
    return f"The {_NOUNS[noun]} {forms[1]}.", f"The {_NOUNS[noun]} {forms[0]}."


def _verb_across(draw):
    noun, thing, adjective = draw(_NOUNS), draw(_THINGS), draw(_ADJECTIVES)
    if draw((True, False)) == "True":
        begin, forms = f"The {noun} near the {_THINGS[thing]}", ("is", "are")
    else:
        begin, forms = f"The {_NOUNS[noun]} near the {thing}", ("are", "is")
    return f"{begin} {forms[0]} {adjective}.", f"{begin} {forms[1]} {adjective}."


def _determiner(draw):
    name, seen, thing = draw(_NAMES), draw(_SEEN[:5]), draw(_THINGS)
    right, wrong = (thing, _THINGS[thing]) if (word := draw(("this", "these"))) == "this" else (_THINGS[thing], thing)
    return f"{name} {seen} {word} {right}.", f"{name} {seen} {word} {wrong}."


def _reflexive(draw):
    noun, seen = draw(_NOUNS), draw(_SEEN)
    return f"The {_NOUNS[noun]} {seen} themselves.", f"The {_NOUNS[noun]} {seen} itself."


def _polarity(draw):
    noun, participle, thing = draw(_NOUNS), draw(_PARTICIPLES), draw(_THINGS)
    rest = f"{noun} has ever {participle} this {thing}."
    return f"No {rest}", f"The {rest}"


def _participle(draw):
    noun, participle, thing = draw(_NOUNS), draw(_PARTICIPLES), draw(_THINGS)
    begin, end = f"The {noun} has", f"the {thing}."
    return f"{begin} {participle} {end}", f"{begin} {_PARTICIPLES[participle]} {end}"


def _case(draw):
    noun, seen, pronoun = draw(_NOUNS), draw(_SEEN), draw(_PRONOUNS)
    begin = f"The {noun} {seen}"
    return f"{begin} {pronoun} yesterday.", f"{begin} {_PRONOUNS[pronoun]} yesterday."


def _order(draw):
    noun, adjective, verb = draw(_NOUNS), draw(_ADJECTIVES), draw(_VERBS)
    return f"The {adjective} {noun} {verb} here.", f"The {noun} {adjective} {verb} here."


_PHENOMENA = {
    "subject and verb": _verb,
    "subject and verb across a phrase": _verb_across,
    "determiner and noun": _determiner,
    "reflexive pronoun": _reflexive,
    "negative polarity": _polarity,
    "irregular participle": _participle,
    "case of pronouns": _case,
    "order of words": _order,
}


def is_pair(row):
    """Whether a dict is of BLiMP's format."""
    return isinstance(row.get("sentence_good"), str) and isinstance(row.get("sentence_bad"), str)


def read_pairs(path, limit, seed):
    """`Question`s of a file of pairs in BLiMP's format.

    Args:
        path: .jsonl file, gzipped or not, whose objects have "sentence_good" and "sentence_bad", and where they are to
            be told apart "UID".
        limit: int, at most so many, drawn by chance.
        seed: int.

    Raises:
        ValueError: for another file.
    """
    rows = read_json_lines(path)
    for number, row in enumerate(rows, 1):
        if not is_pair(row):
            raise ValueError(f'Object {number} of {path} is no pair: it lacks "sentence_good" or "sentence_bad".')
    rows = drawn_items(rows, limit, seed)
    return [Question("", (row["sentence_good"], row["sentence_bad"]), (str(row.get("UID", "pairs")),)) for row in rows]
