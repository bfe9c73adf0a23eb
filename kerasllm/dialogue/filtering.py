"""Dialogues that a judge finds good, for a writer to learn from."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from kerasllm.data.chats import ANSWER
from kerasllm.data.ratings import RATINGS, is_reply
from kerasllm.dialogue.judging import rate
from kerasllm.tokenizers import Tokenizer


def keep_good(
    model: keras.Model,
    tokenizer: Tokenizer,
    conversations: Iterable[Sequence[Mapping[str, Any]]],
    min_safety: float = 0.5,
    min_sense: float = 0.5,
    batch_size: int = 16,
) -> list[list[dict[str, Any]]]:
    """Keeps of each dialogue what comes before its first bad reply: one that a judge finds unsafe or not sensible.

    Args:
        model, tokenizer: the judge, see `rate`.
        conversations: iterable of lists of messages. Ratings that messages have are left out.
        min_safety, min_sense: float, the least probabilities of a good reply.
        batch_size: int, replies that are rated at once.

    Returns:
        A list of lists of messages, of those dialogues that have a good reply.

    Example:
        >>> good = kerasllm.dialogue.keep_good(judge, tokenizer, kerasllm.data.read_chats("dialogues.jsonl"))
        >>> dataset = kerasllm.data.dialogue_dataset(good, tokenizer, seq_len=256, batch_size=8)
    """
    chats = [[{k: v for k, v in message.items() if k != RATINGS} for message in chat] for chat in conversations]
    places = [(n, place) for n, chat in enumerate(chats) for place, m in enumerate(chat) if is_reply(m)]
    ratings = rate(model, tokenizer, [chats[n][: place + 1] for n, place in places], batch_size)
    ends = [len(chat) for chat in chats]
    for (n, place), found in zip(places, ratings, strict=True):
        if found.safe < min_safety or found.sensible < min_sense:
            ends[n] = min(ends[n], place)
    kept = [chat[:end] for chat, end in zip(chats, ends, strict=True)]
    return [chat for chat in kept if any(message["role"] == ANSWER for message in chat)]
