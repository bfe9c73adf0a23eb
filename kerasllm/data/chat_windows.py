"""Batches of conversations, of which a model learns the answers.

A conversation that is longer than a window is split at turns: a turn is what a user says, and all up to what they say
next. So each answer that is learned stands behind its question, and has its end.
"""

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from kerasllm.data.chats import ANSWER, checked_chat
from kerasllm.data.option_names import CHAT_WORDS
from kerasllm.data.packing import Plan, lay_out, plan_windows
from kerasllm.data.steps import check_least
from kerasllm.data.windows import in_order, windows_of
from kerasllm.tokenizers import Tokenizer, as_tokenizer
from kerasllm.tokenizers.messages import LEADING
from kerasllm.words import explain_keywords


@explain_keywords(CHAT_WORDS)
def chat_dataset(
    conversations: Iterable[Sequence[Mapping[str, Any]] | Mapping[str, Any]],
    tokenizer: Tokenizer,
    seq_len: int,
    batch_size: int,
    seed: int = 0,
    epochs: int = 1,
    start_step: int = 0,
    packed: bool = True,
    *,
    shuffle: bool = True,
    poisson: bool = False,
    chat_template: str | None = None,
    template_variables: Mapping[str, Any] | None = None,
) -> tf.data.Dataset:
    """Batches of conversations for supervised fine-tuning: the weight is 1 where a token of an answer is to be said.

    An answer counts from where a model begins it to the token that ends its turn, as `Tokenizer.encode_chat_with_mask`
    says. With `packed=True`, conversations share windows and `document_ids` keeps them apart, so that each sees itself
    alone; without, each has a row of its own. Of a conversation that is longer than a window come several, split at
    turns, each with the system's message; a single turn that is longer is left out. A warning says how many there were.
    What stands behind the last answer is dropped.

    `fit` starts a finite data set again in the same order at each of its own epochs. So give all epochs here and tell
    `fit` their length: `model.fit(dataset, epochs=3, steps_per_epoch=len(dataset) // 3)`.

    Args:
        conversations: iterable of lists of {"role", "content"}, or of {"messages", "tools"}, such as `read_chats`
            gives; read once. Their tokens are held in memory, 5 bytes each.
        tokenizer: `kerasllm.tokenizers.Tokenizer`, with a chat template.
        seq_len: int T, tokens in a window.
        batch_size: int B, windows in a batch.
        seed, epochs, start_step, shuffle, poisson: see `causal_lm_dataset`.
        packed: bool, as described above.
        chat_template: str or None, a template in place of the tokenizer's own.
        template_variables: dict or None, what else the template takes, such as {"enable_thinking": False}.

    Returns:
        A `tf.data.Dataset` of known length, as `causal_lm_dataset` gives it: ({"token_ids": int32 (B, T),
        "document_ids": int32 (B, T)}, labels int32 (B, T), sample_weight float32 (B, T)), or with `packed=False` the
        token ids alone in the place of the dict.

    Raises:
        TypeError: where conversations are a path or a text.
        ValueError: for sizes below 1, a start_step past the end, a conversation that has no answer, an empty one or
            one before any question, a template that refuses a conversation, or too few to fill one batch.

    Example:

    >>> tokenizer = Tokenizer.train(["to be or not?"], kind="char", progress=False)
    >>> tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    >>> chat = [{"role": "user", "content": "to be?"}, {"role": "assistant", "content": "not"}]
    >>> _, labels, weight = next(iter(chat_dataset([chat], tokenizer, seq_len=12, batch_size=1)))
    >>> tokenizer.decode(labels[weight > 0], skip_special=False)
    'not<|endoftext|>'
    """
    check_least(1, seq_len=seq_len, batch_size=batch_size, epochs=epochs)
    check_least(0, seed=seed, start_step=start_step)
    tokenizer = as_tokenizer(tokenizer)
    given = {"chat_template": chat_template, **(template_variables or {})}
    stream = tokenized(conversations, tokenizer, seq_len, given)
    return batches_of(stream, tokenizer, seq_len, batch_size, seed, epochs, start_step, packed, shuffle, poisson)


def batches_of(
    stream, tokenizer, seq_len, batch_size, seed=0, epochs=1, start_step=0, packed=True, shuffle=True, poisson=False
):
    """What `chat_dataset` makes of a `Stream`."""
    if packed:
        plan = plan_windows(stream.document_ends, seq_len)
    else:
        begins = np.concatenate([[0], stream.document_ends[:-1]])
        plan = Plan(np.arange(len(begins) + 1), begins, stream.document_ends - begins - 1)

    def read(step, pieces, shape):
        token_ids, labels, document_ids = lay_out(stream.tokens, *pieces, shape, tokenizer.pad_id or 0)
        _, weight, _ = lay_out(stream.learned, *pieces, shape)
        return token_ids, labels, document_ids, weight

    shape = batch_size, seq_len
    dataset = in_order(windows_of(plan), read, stream, shape, packed, seed, epochs, start_step, shuffle, poisson)
    documents_at = dataset.documents_at
    dataset.documents_at = lambda step: sorted({int(stream.numbers[part]) for part in documents_at(step)})
    return dataset


class Stream(NamedTuple):
    """Conversations, or parts of them, one after the other.

    Attributes:
        tokens: (tokens,) int32.
        learned: (tokens,) bool, which of them are learned.
        document_ends: (parts,) int64, one past the last token of each.
        numbers: (parts,) int64, of which conversation each is.
    """

    tokens: np.ndarray
    learned: np.ndarray
    document_ends: np.ndarray
    numbers: np.ndarray

    @property
    def num_tokens(self):
        return len(self.tokens)


def tokenized(conversations, tokenizer, seq_len, given):
    """The `Stream` of conversations; `given` is what a template takes besides them."""
    if isinstance(conversations, str | bytes | os.PathLike):
        raise TypeError(
            f"conversations is an iterable of lists of messages, got one {type(conversations).__name__}: give "
            "kerasllm.data.read_chats(path) for what is in files."
        )
    tokens, learned, numbers = [], [], []
    split = left_out = number = 0
    for number, chat in enumerate(conversations, start=1):
        place = f"conversations[{number - 1}]"
        messages, tools = checked_chat(chat, place)
        variables = {**given, "tools": tools} if tools else given
        try:
            parts, skipped = _parts(messages, tokenizer, seq_len, variables)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        split += len(parts) + skipped > 1
        left_out += skipped
        for ids, mask in parts:
            tokens.append(np.array(ids, np.int32))
            learned.append(np.array(mask, bool))
            numbers.append(number - 1)
    if not tokens:
        raise ValueError(
            f"There is nothing to learn from: {number} conversations were given, and {left_out} turns are longer than "
            f"seq_len={seq_len} tokens."
        )
    added = tokenizer.engine.get_added_tokens_decoder()
    if not any(added[index].special for index in tokens[0][learned[0]].tolist() if index in added):
        warnings.warn(
            "The chat template puts no special token behind an answer, so that a model will not learn to end one: "
            "let it write {{ eos_token }} there.",
            stacklevel=4,
        )
    if split or left_out:
        warnings.warn(
            f"Of {number} conversations, {split} are longer than seq_len={seq_len} tokens and split at turns; "
            f"{left_out} turns that are longer alone are left out.",
            stacklevel=4,
        )
    ends = np.cumsum([len(ids) for ids in tokens], dtype=np.int64)
    return Stream(np.concatenate(tokens), np.concatenate(learned), ends, np.array(numbers))


def _parts(messages, tokenizer, seq_len, variables):
    """The parts of a conversation that fit into a window, as (ids, mask), and how many turns fit into none."""
    last = max(i for i, message in enumerate(messages) if message["role"] == ANSWER)
    messages = messages[: last + 1]
    whole = tokenizer.encode_chat_with_mask(messages, **variables)
    if _fits(whole, seq_len):
        return [whole], 0
    leading, turns = _turns(messages)
    parts, skipped, begin, part = [], 0, 0, None
    for end in range(1, len(turns) + 1):
        longer = _encoded(leading, turns[begin:end], tokenizer, variables)
        if not _fits(longer, seq_len):
            parts += [part] if part else []
            begin = end - 1
            longer = _encoded(leading, turns[begin:end], tokenizer, variables)
        part = longer
        if not _fits(part, seq_len):
            skipped, begin, part = skipped + 1, end, None
    parts += [part] if part else []
    return [part for part in parts if any(part[1])], skipped


def _turns(messages):
    """What holds for the whole conversation, and its turns, each a list of messages that begins with a user's."""
    leading = [message for message in messages if message["role"] in LEADING]
    turns = []
    for before, message in zip([None, *messages], messages, strict=False):
        if message["role"] == "user" and (not turns or before["role"] != "user"):
            turns.append([message])
        elif message["role"] not in LEADING:
            turns[-1].append(message)
    return leading, turns


def _encoded(leading, turns, tokenizer, variables):
    return tokenizer.encode_chat_with_mask([*leading, *(message for turn in turns for message in turn)], **variables)


def _fits(part, seq_len):
    """A window of T places shows T + 1 tokens, the last of them as a label."""
    return len(part[0]) <= seq_len + 1
