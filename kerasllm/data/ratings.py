"""What a judge says of a reply, as text behind it: " UNSAFE 0 SENSIBLE 1 SPECIFIC 1 INTERESTING 0".

A reply that makes no sense is not specific, and one that is not specific is not interesting (LaMDA, section 4.1,
https://arxiv.org/abs/2201.08239). So a rating that a good reply does not have ends the text, and a judge reads the
probability of each rating behind all the good ones before it: their products are the probabilities of the attributes,
of one pass through the model.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from kerasllm.data.chats import ANSWER
from kerasllm.tokenizers import Tokenizer
from kerasllm.tokenizers.messages import LEADING

# Of each attribute, the rating that a good reply has, in the order in which they are said.
ATTRIBUTES = {"unsafe": 0, "sensible": 1, "specific": 1, "interesting": 1}
RATINGS = "ratings"  # the field of a message
NAME_OF_TOOLS, NAME_OF_USER = "TS", "User"  # to whom a reply is said, where it begins so


def rated_ids(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], ratings: Mapping[str, Any], **variables: Any
) -> tuple[list[int], list[bool]]:
    """The ids of a chat whose last reply is rated, and which of them a judge learns: the ratings that are known.

    Args:
        tokenizer: `Tokenizer`, with a chat template.
        messages: list of messages, the last of them the reply.
        ratings: dict from some of `ATTRIBUTES` to 0 or 1. Those that are not known are written as a good reply has
            them, and not learned.
        **variables: what else the template takes.

    Returns:
        A list of int, and a list of as many bools.

    Raises:
        ValueError: for other attributes, or ratings other than 0 and 1.
    """
    ratings = checked_ratings(ratings)
    ids = tokenizer.encode_chat(messages, add_generation_prompt=False, **variables)
    mask = [False] * len(ids)
    last = max(list(ATTRIBUTES).index(name) for name in ratings)
    for name, pieces in list(rating_pieces(tokenizer).items())[: last + 1]:
        rating = ratings.get(name, ATTRIBUTES[name])
        piece = pieces[rating]
        ids += piece
        mask += [False] * (len(piece) - 1) + [name in ratings]
        if rating != ATTRIBUTES[name]:
            break
    return ids, mask


def rating_pieces(tokenizer):
    """What is said of each attribute: a dict from its name to the ids of its rating 0 and of its rating 1, which differ
    in the last of them alone.

    Raises:
        ValueError: where the tokenizer does not tell them apart so.
    """
    pieces = {}
    for name in ATTRIBUTES:
        texts = [f" {name.upper()} {rating}" for rating in (0, 1)]
        no, yes = pieces[name] = [ids.tolist() for ids in tokenizer.encode_stream(texts, bare=True)]
        if len(no) != len(yes) or no[:-1] != yes[:-1] or no[-1] == yes[-1]:
            raise ValueError(
                f"Ratings are words with 0 or 1 behind them, and this tokenizer reads {texts[0]!r} and {texts[1]!r} as "
                f"{no} and {yes}, which do not differ in their last token alone: take a model with another tokenizer."
            )
    return pieces


def checked_ratings(ratings, place="The ratings"):
    """Ratings as a dict of ints, 0 or 1.

    Raises:
        ValueError: for what is none.
    """
    if not isinstance(ratings, Mapping) or not ratings or not ratings.keys() <= ATTRIBUTES.keys():
        raise ValueError(f"{place} must be a dict with some of {', '.join(ATTRIBUTES)}, got {ratings!r:.80}.")
    for name, rating in ratings.items():
        if rating not in (0, 1):
            raise ValueError(f"{place} must be 0 or 1, or false or true, got {rating!r:.40} for {name}.")
    return {name: int(rating) for name, rating in ratings.items()}


def reply_alone(messages):
    """The last message of a dialogue as a reply to nothing: behind what holds for the whole dialogue and an empty
    question, which templates want."""
    leading = itertools.takewhile(lambda message: message["role"] in LEADING, messages[:-1])
    return [*leading, {"role": "user", "content": ""}, messages[-1]]


def is_reply(message):
    """Whether a message is said by the assistant to the user, and not to tools: those nobody rates."""
    text = message.get("content")
    return message["role"] == ANSWER and isinstance(text, str) and not text.lstrip().startswith(f"{NAME_OF_TOOLS},")


def is_good(ratings):
    """Whether a writer may learn from a reply: nothing is known against its sense or its safety."""
    return all(ratings.get(name, ATTRIBUTES[name]) == ATTRIBUTES[name] for name in ("unsafe", "sensible"))
