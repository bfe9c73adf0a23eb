"""Ratings without raters: replies of real dialogues are sensible, those of other dialogues are not, and those of common
words alone are not specific."""

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kerasllm.data.ratings import RATINGS, is_reply

GENERIC_SHARE = 0.1
_WORD = re.compile(r"\w+")


def rate_replies(conversations: Iterable[Sequence[Mapping[str, Any]]], seed: int = 0) -> list[list[dict[str, Any]]]:
    """Makes rated dialogues of dialogues that nobody has rated: two of each reply.

    The reply itself is sensible; it is specific unless it is among the tenth of all replies whose rarest word is the
    most common. And in its place another comes, which is drawn at random: four times of five a specific reply of
    another dialogue, which is not sensible; else a generic one, which is not specific.

    Args:
        conversations: iterable of lists of messages. Those of the assistant are replies, but for what it asks tools
            ("TS, 135+7721").
        seed: int. The same seed draws the same replies.

    Returns:
        A list of dialogues that end with a reply, which has "ratings": see `dialogue_dataset`.

    Raises:
        ValueError: for fewer than two dialogues, from which there is nothing to draw.

    Example:

    >>> films = [{"role": "user", "content": "A good film?"}, {"role": "assistant", "content": "Alien frightened me."}]
    >>> food = [{"role": "user", "content": "Hungry?"}, {"role": "assistant", "content": "Pizza would be lovely."}]
    >>> for dialogue in rate_replies([films, food])[:2]:
    ...     print(dialogue[-1]["content"], dialogue[-1]["ratings"])
    Alien frightened me. {'sensible': 1, 'specific': 1}
    Pizza would be lovely. {'sensible': 0}
    """
    dialogues = [list(map(dict, dialogue)) for dialogue in conversations]
    replies = [(number, m["content"]) for number, d in enumerate(dialogues) for m in d if is_reply(m)]
    if len({number for number, _ in replies}) < 2:
        raise ValueError(f"Replies are drawn from other dialogues, got {len(dialogues)} with replies: give more.")
    is_generic = _generic([text for _, text in replies])
    specific = [(number, text) for number, text in replies if not is_generic(text)]
    generic = [text for _, text in replies if is_generic(text)]
    draw, rated = random.Random(seed), []
    for number, dialogue in enumerate(dialogues):
        for place, message in enumerate(dialogue):
            if not is_reply(message):
                continue
            before = dialogue[:place]
            own = {"sensible": 1, "specific": int(not is_generic(message["content"]))}
            rated.append([*before, {**message, RATINGS: own}])
            if generic and draw.random() < 0.2:
                rated.append([*before, {**message, "content": draw.choice(generic), RATINGS: {"specific": 0}}])
            elif (text := _of_another(number, specific, draw)) is not None:
                rated.append([*before, {**message, "content": text, RATINGS: {"sensible": 0}}])
    return rated


def _generic(texts):
    """A function that says of a text whether it is generic among these."""
    counts = Counter(word for text in texts for word in _words(text))

    def commonness(text):
        return min((counts[word] for word in _words(text)), default=len(texts))

    least = sorted(map(commonness, texts), reverse=True)[int(GENERIC_SHARE * len(texts))]
    return lambda text: commonness(text) > least


def _words(text):
    return set(_WORD.findall(text.lower()))


def _of_another(number, replies, draw):
    """A reply of another dialogue than that of a number; None where ten draws find none."""
    drawn = (draw.choice(replies) for _ in range(10 if replies else 0))
    return next((text for other, text in drawn if other != number), None)
