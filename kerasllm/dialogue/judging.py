"""The judge: the same model that writes says of each reply how safe, sensible, specific and interesting it is.

It says so in words (`data/ratings.py`). Whether a reply makes sense it also shows by how it writes: a reply that
belongs to a dialogue is likelier after it than after nothing, and one of another dialogue is not. What tells them apart
best is the share of a reply's information that its dialogue brings: log p(reply | dialogue) - log p(reply), divided by
-log p(reply). (The difference itself would be the log odds, were a perfect writer to tell replies from those drawn at
random. Real ones are too sure where replies are long, as they err on many tokens together.)
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from kerasllm.data.chats import ANSWER
from kerasllm.data.ratings import ATTRIBUTES, rating_pieces, reply_alone
from kerasllm.generation.endings import read_endings
from kerasllm.generation.prompts import as_text
from kerasllm.models import CausalLM
from kerasllm.tokenizers import Tokenizer, as_tokenizer
from kerasllm.tokenizers.messages import without_oldest_turn

# Log odds of sense where the dialogue brings all information of a reply: by logistic regression over 267 replies in 30
# dialogues, with two models that learned to write such.
_SENSE_OF_ALL = 16.0


class Ratings(NamedTuple):
    """What a judge says of a reply, probabilities from 0 to 1. (A reply that makes no sense is not specific, and one
    that is not specific is not interesting.)

    Attributes:
        safe, sensible, specific, interesting: float.
    """

    safe: float
    sensible: float
    specific: float
    interesting: float


def rate(
    model: keras.Model,
    tokenizer: Tokenizer,
    dialogues: Sequence[Any],
    batch_size: int = 16,
) -> Ratings | list[Ratings]:
    """Rates the last reply of a dialogue, or of several.

    Args:
        model: a `CausalLM` that has learned to write such replies and to rate, as `kerasllm tune --task dialogue` has
            it learn. What no example rated is a guess; but for sense, which is also judged by how much of the
            reply the dialogue tells.
        tokenizer: its `Tokenizer`, with a chat template.
        dialogues: a list of messages, dicts with a "role" and a "content", or of texts (str) said in turn; the last is
            the reply. Or a list of such lists. Dialogues that are alike but for the reply are read once. Of those that
            are longer than the model's context the oldest turns are left out.
        batch_size: int, dialogues at once.

    Returns:
        `Ratings`, or a list of them.

    Raises:
        TypeError: if the model is no `CausalLM`, or dialogues are something else.
        ValueError: if a turn alone is longer than the model's context.

    Example:
        >>> kerasllm.dialogue.rate(model, tokenizer, ["Do you like films?", "The table has four legs."])
        Ratings(safe=0.99, sensible=0.12, specific=0.1, interesting=0.04)
    """
    check_writes(model, "rate")
    tokenizer = as_tokenizer(tokenizer)
    is_one = bool(dialogues) and (isinstance(dialogues[0], Mapping) or as_text(dialogues[0]) is not None)
    chats = [as_messages(dialogue, ANSWER) for dialogue in ([dialogues] if is_one else dialogues)]
    pieces = rating_pieces(tokenizer)
    rows = [_row(chat, tokenizer, pieces, model.config.max_length) for chat in chats]
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i][0]), rows[i]))  # equal beginnings stand together
    ratings = [None] * len(rows)
    for begin in range(0, len(order), batch_size):
        batch = order[begin : begin + batch_size]
        for i, found in zip(batch, _ratings(model, [rows[i] for i in batch], pieces), strict=True):
            ratings[i] = found
    return ratings[0] if is_one else ratings


def as_messages(dialogue, last):
    """The messages of a dialogue: what is given as texts is said by the user and the assistant in turn.

    Args:
        dialogue: list of dicts, or of str.
        last: str, the role of the last one.

    Raises:
        TypeError: for something else.
        ValueError: if somebody else speaks last.
    """
    if not isinstance(dialogue, list | tuple) or not dialogue:
        raise TypeError(f'A dialogue is a list of texts or of {{"role": …, "content": …}}, got {dialogue!r:.80}.')
    texts = [as_text(turn) for turn in dialogue]
    if None not in texts:
        roles = [last if n % 2 else (ANSWER if last != ANSWER else "user") for n in range(len(texts), 0, -1)]
        return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    messages = list(dialogue)
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str) or "role" not in message:
            raise TypeError(f'A message is a dict with a "role" and a "content", a str, got {message!r:.80}.')
    if messages[-1]["role"] != last:
        raise ValueError(f"The last message of the dialogue must be the {last}'s, got the {messages[-1]['role']}'s.")
    return messages


def check_writes(model, function):
    """Refuses a model that writes no replies."""
    if not isinstance(model, CausalLM):
        raise TypeError(f"`dialogue.{function}` needs a CausalLM, got {type(model).__name__}.")


class _Row(NamedTuple):
    """A reply in its dialogue, and in none: ids of what stands before it, of itself, and of good ratings, with the
    places of these behind its beginning."""

    before: list
    reply: list
    nothing: list
    alone: list
    rated: list
    places: list


def _row(chat, tokenizer, pieces, max_length):
    """The `_Row` of a chat, without its oldest turns where it is too long."""
    tail = [pieces[name][rating] for name, rating in ATTRIBUTES.items()]
    while True:
        before, reply = _split(chat, tokenizer)
        size = len(before) + len(reply)
        if size + sum(map(len, tail)) <= max_length:
            break
        shorter = without_oldest_turn(chat)
        if shorter is None:
            raise ValueError(f"The last turn of the dialogue alone has {size} tokens, too many to be rated.")
        chat = shorter
    ends = np.cumsum([len(reply), *map(len, tail)])[1:]
    rated = [*reply, *itertools.chain(*tail)]
    return _Row(before, reply, *_split(reply_alone(chat), tokenizer), rated, [int(end) - 1 for end in ends])


def _split(chat, tokenizer):
    """The ids of a chat up to its last reply, and those from there."""
    whole = tokenizer.encode_chat(chat, add_generation_prompt=False)
    before = tokenizer.encode_chat(chat[:-1]) if chat[:-1] else []
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, whole, strict=False))
    begin = max(sum(1 for _ in same), 1)
    return whole[:begin], whole[begin:]


def _ratings(model, rows, pieces):
    """The `Ratings` of rows."""
    said, share = _evidence(model, rows, pieces)
    said[:, list(ATTRIBUTES).index("sensible")] += _SENSE_OF_ALL * share
    good = 0.5 + 0.5 * np.tanh(said / 2)
    # Each stands behind the good ratings before it, and without those that follow from sense there is none.
    good[:, 1:] = np.cumprod(good[:, 1:], axis=1)
    return [Ratings(*map(float, row)) for row in good]


def _evidence(model, rows, pieces):
    """Log odds of good ratings, as the model says them in words, float64 (N, 4), and the share of the information of
    each reply that its dialogue brings, (N,)."""
    before, reply, nothing, alone, rated, places = map(list, zip(*rows, strict=True))
    log_probs, logits = read_endings(model, before, rated, places)
    of_alone, _ = read_endings(model, nothing, alone, [[]] * len(rows))
    logits = logits.astype("float64")
    said = [
        logits[:, n, pieces[name][good][-1]] - logits[:, n, pieces[name][1 - good][-1]]
        for n, (name, good) in enumerate(ATTRIBUTES.items())
    ]
    in_dialogue, in_none = (
        np.array([row[: len(ids)].sum() for row, ids in zip(found, texts, strict=True)], "float64")
        for found, texts in ((log_probs, reply), (of_alone, alone))
    )
    return np.stack(said, axis=1), (in_dialogue - in_none) / np.maximum(-in_none, 1.0)
