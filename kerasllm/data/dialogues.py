"""Batches of dialogues, of which one model learns to write replies and to judge them."""

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kerasllm.data.chat_windows import Stream, batches_of
from kerasllm.data.chats import ANSWER, checked_chat
from kerasllm.data.made_ratings import rate_replies
from kerasllm.data.option_names import CHAT_WORDS
from kerasllm.data.ratings import RATINGS, checked_ratings, is_good, rated_ids, reply_alone
from kerasllm.data.steps import check_least
from kerasllm.tokenizers import Tokenizer, as_tokenizer
from kerasllm.tokenizers.messages import without_oldest_turn
from kerasllm.words import explain_keywords

_MADE = 2  # ratings of a dialogue, so that what is learned of them has about as many tokens as its replies


@explain_keywords(CHAT_WORDS)
def dialogue_dataset(
    conversations: Iterable[Sequence[Mapping[str, Any]]],
    tokenizer: Tokenizer,
    seq_len: int,
    batch_size: int,
    seed: int = 0,
    epochs: int = 1,
    start_step: int = 0,
    *,
    shuffle: bool = True,
    written: Iterable[Sequence[Mapping[str, Any]]] | None = None,
) -> tf.data.Dataset:
    """Batches of which a model learns both to reply and to rate replies, as LaMDA does.

    A message of the assistant may have "ratings", a dict of some of "unsafe", "sensible", "specific" and "interesting"
    to 0 or 1. For conversations in which none has any, `rate_replies` makes them, and two for each are drawn. Of each
    rated reply comes an example whose ratings are learned, and of each conversation one whose replies are, up to the
    first that is rated unsafe or not sensible. One of these is learned without its dialogue too, as a judge compares
    both. Examples share windows and do not see each other; those that are longer lose their oldest turns.

    Args:
        conversations: iterable of lists of {"role", "content", "ratings"}, such as `read_chats` gives.
        tokenizer: `kerasllm.tokenizers.Tokenizer`, with a chat template.
        seq_len, batch_size, seed, epochs, start_step, shuffle: see `chat_dataset`.
        written: iterable of conversations whose replies are learned in place of those, such as
            `kerasllm.dialogue.keep_good` keeps. None for the same.

    Returns:
        A `tf.data.Dataset`, as `chat_dataset` gives it.

    Raises:
        ValueError: as `chat_dataset`; and for ratings that are none.

    Reference: Thoppilan et al. 2022, "LaMDA: Language Models for Dialog Applications",
    https://arxiv.org/abs/2201.08239, section 6.1.

    Example:

    >>> tokenizer = Tokenizer.train(["to be or not? UNSAFE SENSIBLE 01"], kind="char", progress=False)
    >>> tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    >>> reply = {"role": "assistant", "content": "not", "ratings": {"sensible": 1}}
    >>> chats = [[{"role": "user", "content": "to be?"}, reply]]
    >>> _, labels, weight = next(iter(dialogue_dataset(chats, tokenizer, 64, batch_size=1)))
    >>> tokenizer.decode(labels[weight > 0], skip_special=False)
    'not<|endoftext|>not<|endoftext|>1'
    """
    check_least(1, seq_len=seq_len, batch_size=batch_size, epochs=epochs)
    check_least(0, seed=seed, start_step=start_step)
    tokenizer = as_tokenizer(tokenizer)
    stream = dialogue_stream(conversations, tokenizer, seq_len, seed, written)
    return batches_of(stream, tokenizer, seq_len, batch_size, seed, epochs, start_step, True, shuffle)


def dialogue_stream(conversations, tokenizer, seq_len, seed=0, written=None):
    """The `Stream` of both kinds of examples, first those of replies. What is learned has weights: a rating is one
    token, and counts as much as the mean reply."""
    chats = [checked_chat(chat, f"conversations[{n}]")[0] for n, chat in enumerate(conversations)]
    written = list(filter(None, map(_worth_writing, chats))) if written is None else list(written)
    replies = _examples(written + _alone(written, seed), tokenizer.encode_chat_with_mask, seq_len)
    rated = with_ratings(chats, seed, _MADE)
    ratings = _examples(rated, lambda chat: rated_ids(tokenizer, chat, chat[-1][RATINGS]), seq_len)
    if not replies and not ratings:
        raise ValueError(f"There is nothing to learn from: no dialogue fits into seq_len={seq_len} tokens.")
    num_replies = len(written) + sum(message["role"] == ANSWER for chat in written for message in chat)
    weight = max(1, round(sum(sum(mask) for _, mask in replies) / max(num_replies, 1)))
    tokens = [np.array(ids, "int32") for ids, _ in replies + ratings]
    learned = [np.array(mask, "int32") for _, mask in replies] + [
        np.array(mask, "int32") * weight for _, mask in ratings
    ]
    ends = np.cumsum([len(ids) for ids in tokens], dtype=np.int64)
    return Stream(np.concatenate(tokens), np.concatenate(learned), ends, np.arange(len(tokens)))


def _alone(chats, seed):
    """Of each chat a reply to nothing, so that a judge can tell how much of its likelihood is the dialogue's."""
    draw = random.Random(seed)
    places = ([n for n, message in enumerate(chat) if message["role"] == ANSWER] for chat in chats)
    return [reply_alone(chat[: draw.choice(found) + 1]) for chat, found in zip(chats, places, strict=True) if found]


def with_ratings(chats, seed=0, most=None):
    """Beginnings of chats that end with a reply that has ratings; for those without any, ratings are made, of which no
    more are drawn than `most` times as many as these chats are."""
    rated = [[chat[: n + 1] for n, message in enumerate(chat) if message.get(RATINGS)] for chat in chats]
    unrated = [chat for chat, found in zip(chats, rated, strict=True) if not found]
    made = rate_replies(unrated, seed) if unrated else []
    if most is not None and len(made) > most * len(unrated):
        made = random.Random(seed).sample(made, most * len(unrated))
    return [one for found in rated for one in found] + made


def _worth_writing(chat):
    """A chat up to its first reply that is not to be learned from; None where that is the first."""
    bad = (n for n, m in enumerate(chat) if m.get(RATINGS) and not is_good(checked_ratings(m[RATINGS])))
    chat = chat[: next(bad, len(chat))]
    return chat if any(message["role"] == ANSWER for message in chat) else None


def _examples(chats, encode, seq_len):
    """The ids and masks of chats without the oldest turns, as many as need be; of those that fit so."""
    return list(filter(None, (_fitting(chat, encode, seq_len) for chat in chats)))


def _fitting(chat, encode, seq_len):
    """The ids and mask of a chat without the oldest turns, as many as need be; None where one turn is too long."""
    while chat:
        ids, mask = encode(chat)
        if len(ids) <= seq_len + 1:
            return ids, mask
        chat = without_oldest_turn(chat)
    return None
