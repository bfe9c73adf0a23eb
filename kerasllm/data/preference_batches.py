"""Batches of preferred answers and what they were preferred to, for `losses.DPO` and its kin and a `RewardModel`.

Shapes: B rows in a batch, each of 2 texts, T their length.
"""

import functools
import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from kerasllm.data.bucketing import BUCKET_WIDTH
from kerasllm.data.chats import ANSWER
from kerasllm.data.option_names import CHAT_WORDS
from kerasllm.data.preferences import checked_preference
from kerasllm.data.reference import reference_of
from kerasllm.data.steps import Batches, check_least, dataset_of
from kerasllm.data.text_batches import batches_by_length
from kerasllm.tokenizers import Tokenizer, as_tokenizer
from kerasllm.words import explain_keywords

NOTHING = -100  # the label where a row is padding


@explain_keywords(CHAT_WORDS)
def preference_dataset(
    pairs: Iterable[Mapping[str, Any]],
    tokenizer: Tokenizer,
    seq_len: int,
    batch_size: int,
    seed: int = 0,
    epochs: int = 1,
    start_step: int = 0,
    *,
    reference: Any = None,
    reference_file: str | os.PathLike | None = None,
    shuffle: bool = True,
    chat_template: str | None = None,
    template_variables: Mapping[str, Any] | None = None,
) -> tf.data.Dataset:
    """Batches of pairs of answers, or of single answers with labels; the weight is 1 on the tokens of answers.

    A pair is one row, of two texts, which no micro-batch and no device parts. A row of a single answer has, as its
    second text, the same prompt with the answer to another one, of which `losses.KTO` estimates how far the model is
    from the reference.

    `fit` starts a finite data set again in the same order at each of its own epochs, so give all epochs here, as for
    `causal_lm_dataset`.

    Args:
        pairs: iterable of {"prompt", "chosen", "rejected"}, or of {"prompt", "completion", "label"}, where label says
            whether the answer is wanted. Either all are texts, which stand one after the other and end with the end
            token; or messages, which the chat template writes, as `read_preferences` gives them.
        tokenizer: `kerasllm.tokenizers.Tokenizer`.
        seq_len: int, the longest text in tokens, prompt and answer. Pairs with a longer one are left out, with a
            warning that says how many.
        batch_size: int B, pairs or single answers.
        seed, epochs, start_step, shuffle: see `classification_dataset`; texts of like length share a batch.
        reference: a `CausalLM`, of which the log-probabilities of all answers are computed here, once. The losses that
            need them ask a model with adapters for its own, without its adapters, where there are none.
        reference_file: path of a .safetensors file that keeps them: it is written, or, where it exists, read in place
            of computing them again.
        chat_template, template_variables: see `chat_dataset`.

    Returns:
        A `tf.data.Dataset` of known length: ({"token_ids": int32 (B, 2, T), "document_ids": int32 (B, 2, T), 0 where
        there is padding}, {"labels": int32 (B, 2, T), the token that follows, or -100; and where there are any
        "reference_log_probs": float32 (B, 2, T); and of single answers "desired": float32 (B,)}, sample_weight float32
        (B, 2, T)). Its attributes: `reference`, the fingerprint of the reference's weights or None, and
        `tokens_per_step`, the mean number of tokens in a batch.

    Raises:
        ValueError: for sizes below 1, a record that is none of these, pairs among single answers, no pair that is short
            enough, or a `reference_file` of another reference or other texts.

    Example:

    >>> pairs = [{"prompt": "to be ", "chosen": "or not", "rejected": "or be"}]
    >>> tokenizer = Tokenizer.train(["to be or not"], kind="char", progress=False)
    >>> inputs, targets, weight = next(iter(preference_dataset(pairs, tokenizer, seq_len=16, batch_size=1)))
    >>> tokenizer.decode(targets["labels"][0, 1][weight[0, 1] > 0], skip_special=False)
    'or be<|endoftext|>'
    """
    check_least(1, seq_len=seq_len, batch_size=batch_size, epochs=epochs)
    check_least(0, seed=seed, start_step=start_step)
    tokenizer = as_tokenizer(tokenizer)
    variables = {"chat_template": chat_template, **(template_variables or {})}
    texts = tokenized(pairs, tokenizer, seq_len, variables)
    if reference is not None or reference_file is not None:
        texts = with_reference(texts, reference, reference_file)
    return batches_of(texts, tokenizer, batch_size, seed, epochs, start_step, shuffle)


class PreferenceTexts(NamedTuple):
    """Texts one after the other, the two of a row behind each other.

    Attributes:
        tokens: (tokens,) int32.
        learned: (tokens,) bool, which of them are of an answer.
        lengths: (texts,) int64.
        desired: (rows,) float32, or None for pairs.
        numbers: (rows,) int64, of which record each is.
        log_probs: (tokens,) float32, which a reference gives to the token; or None.
        reference: str, its fingerprint, or None.
    """

    tokens: np.ndarray
    learned: np.ndarray
    lengths: np.ndarray
    desired: np.ndarray | None
    numbers: np.ndarray
    log_probs: np.ndarray | None = None
    reference: str | None = None

    def summed(self):
        """What a reference says of the answer of each text, (texts,)."""
        return np.add.reduceat(self.log_probs, np.cumsum(self.lengths) - self.lengths)

    def padded(self, texts, pad_id):
        """Some texts as rows: ids, the labels that follow them, which are of a text, which labels are learned, and
        their log-probabilities; (texts, T) each."""
        lengths, ends = self.lengths[texts], np.cumsum(self.lengths)[texts]
        width = -(-int(lengths.max()) // BUCKET_WIDTH) * BUCKET_WIDTH
        ids, labels = np.full((len(texts), width), pad_id, "int32"), np.full((len(texts), width), NOTHING, "int32")
        learned, log_probs = np.zeros((2, len(texts), width), "float32")
        for row, (length, end) in enumerate(zip(lengths, ends, strict=True)):
            begin = end - length
            ids[row, :length] = self.tokens[begin:end]
            labels[row, : length - 1] = self.tokens[begin + 1 : end]
            learned[row, : length - 1] = self.learned[begin + 1 : end]
            if self.log_probs is not None:
                log_probs[row, : length - 1] = self.log_probs[begin + 1 : end]
        return ids, labels, np.arange(width) < lengths[:, None], learned, log_probs


def tokenized(pairs, tokenizer, seq_len, variables):
    """The `PreferenceTexts` of records; `variables` is what a template takes besides messages."""
    records = [checked_preference(record, f"pairs[{i}]") for i, record in enumerate(pairs)]
    if len({record.desired is None for record in records}) > 1:
        raise ValueError("Either all records are pairs, {prompt, chosen, rejected}, or none is, got both.")
    encode = functools.partial(_encoded, tokenizer=tokenizer, variables=variables)
    is_single = bool(records) and records[0].desired is not None
    others = _answers_to_others(records) if is_single else [None] * len(records)
    parts, numbers = [], []
    for number, (record, other) in enumerate(zip(records, others, strict=True)):
        try:
            texts = [encode(record.prompt, answer) for answer in record.answers]
            if other is not None:
                texts.append([part[:seq_len] for part in encode(record.prompt, other)])
        except ValueError as error:
            raise ValueError(f"pairs[{number}]: {error}") from error
        if all(len(ids) <= seq_len for ids, _ in texts):
            parts += texts
            numbers.append(number)
    left_out = len(records) - len(numbers)
    if not numbers:
        raise ValueError(
            f"There is nothing to learn from: {len(records)} records were given, and {left_out} of them are longer "
            f"than seq_len={seq_len} tokens."
        )
    if left_out:
        message = f"{left_out} of {len(records)} records are longer than seq_len={seq_len} tokens and left out."
        warnings.warn(message, stacklevel=3)
    return PreferenceTexts(
        np.concatenate([np.array(ids, "int32") for ids, _ in parts]),
        np.concatenate([np.array(mask, bool) for _, mask in parts]),
        np.array([len(ids) for ids, _ in parts]),
        np.array([records[i].desired for i in numbers], "float32") if is_single else None,
        np.array(numbers),
    )


def with_reference(texts, reference, file=None):
    """`PreferenceTexts` with the log-probabilities that a reference gives, computed, or read from a file."""
    log_probs, fingerprint = reference_of(texts, reference, file)
    return texts._replace(log_probs=log_probs, reference=fingerprint)


def batches_of(texts, tokenizer, batch_size, seed=0, epochs=1, start_step=0, shuffle=True):
    """What `preference_dataset` makes of `PreferenceTexts`."""
    lengths = texts.lengths.reshape(-1, 2).max(axis=1)
    steps_per_epoch = -(-len(lengths) // batch_size)
    by_length = functools.partial(batches_by_length, lengths, batch_size, seed, shuffle)
    batches_in = functools.lru_cache(maxsize=1)(by_length)

    def rows_of(step):
        epoch, place = divmod(int(step), steps_per_epoch)
        return batches_in(epoch)[place]

    def read(step):
        rows = rows_of(step)
        found = texts.padded((2 * rows[:, None] + np.arange(2)).ravel(), tokenizer.pad_id or 0)
        desired = np.zeros(len(rows)) if texts.desired is None else texts.desired[rows]
        return *(array.reshape(len(rows), 2, -1) for array in found), desired.astype("float32")

    def element(ids, labels, is_text, learned, log_probs, desired):
        nested = (ids, tf.cast(is_text, tf.int32), labels, learned, log_probs)
        ids, documents, labels, learned, log_probs = (tf.ensure_shape(tensor, (None, 2, None)) for tensor in nested)
        targets = {"labels": labels}
        if texts.log_probs is not None:
            targets["reference_log_probs"] = log_probs
        if texts.desired is not None:
            targets["desired"] = tf.ensure_shape(desired, (None,))
        return {"token_ids": ids, "document_ids": documents}, targets, learned

    def documents_at(step):
        return sorted(texts.numbers[rows_of(step)].tolist())

    types = [tf.int32, tf.int32, tf.bool, tf.float32, tf.float32, tf.float32]
    dataset = dataset_of(Batches(steps_per_epoch, read, types, element, documents_at), epochs, start_step)
    dataset.reference = texts.reference
    dataset.tokens_per_step = float(texts.lengths.sum() / steps_per_epoch)
    return dataset


def _answers_to_others(records):
    """For each record an answer to another prompt, that of the one before."""
    for i, record in enumerate(records):
        before = (records[i - step] for step in range(1, len(records)))  # the first after the last
        other = next((one for one in before if one.prompt != record.prompt), None)
        if other is None:
            raise ValueError(f"All {len(records)} answers are to the same prompt; KTO needs at least two of them.")
        yield other.answers[0]


def _encoded(prompt, answer, tokenizer, variables):
    """The ids of a prompt and an answer, up to its end, and which of them are of the answer."""
    if isinstance(prompt, str):
        begin, (ids,) = tokenizer.encode(prompt), tokenizer.encode_stream([answer], bare=True)
        ids = [*ids.tolist(), *([] if tokenizer.end_id is None else [tokenizer.end_id])]
        return begin + ids, [False] * len(begin) + [True] * len(ids)
    ids, mask = tokenizer.encode_chat_with_mask([*prompt, *answer], **variables)
    turns = np.flatnonzero(np.diff([False, *mask, False])).reshape(-1, 2)  # begins and ends of what the assistant says
    begin = turns[sum(message["role"] == ANSWER for message in prompt)][0]
    return ids[: turns[-1][1]], [False] * begin + mask[begin : turns[-1][1]]
