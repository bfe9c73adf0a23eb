"""Batches of documents that are to be forgotten, each beside one that is to be kept, for `losses.Unlearning`."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from kerasllm.data.option_names import WINDOW_WORDS
from kerasllm.data.preference_batches import PreferenceTexts, batches_of, with_reference
from kerasllm.data.steps import check_least
from kerasllm.files import check_documents
from kerasllm.tokenizers import Tokenizer, as_tokenizer
from kerasllm.words import explain_keywords


@explain_keywords(WINDOW_WORDS)
def unlearning_dataset(
    forget: Iterable[str],
    retain: Iterable[str],
    tokenizer: Tokenizer,
    seq_len: int,
    batch_size: int,
    seed: int = 0,
    epochs: int = 1,
    start_step: int = 0,
    *,
    reference: Any = None,
    shuffle: bool = True,
) -> tf.data.Dataset:
    """Batches of pairs of a text that is to be kept and one that is to be forgotten; all tokens count.

    Documents are cut into texts of at most `seq_len` tokens, so that each token is learned once. An epoch has as many
    pairs as there are texts of the kind that has more; of the other kind they come again in turn. What is to be kept is
    best of the same kind as what is to be forgotten, and need not be all that the model ever read.

    `fit` starts a finite data set again in the same order at each of its own epochs, so give all epochs here, as for
    `causal_lm_dataset`.

    Args:
        forget, retain: iterables of str, documents.
        tokenizer: `kerasllm.tokenizers.Tokenizer`.
        seq_len: int, the longest text in tokens.
        batch_size: int B, pairs.
        seed, epochs, start_step, shuffle: see `classification_dataset`; texts of like length share a batch.
        reference: a `CausalLM`, the model as it was, of which the log-probabilities of what is to be forgotten are
            computed here, once: what `losses.Unlearning` by "npo" reads, unless a model with adapters says it itself.

    Returns:
        A `tf.data.Dataset` as of `preference_dataset`: what is to be kept first in each row, (B, 2, T).

    Raises:
        ValueError: for sizes below 1, a `seq_len` below 2, and where there is nothing to forget or nothing to keep.

    Example:

    >>> tokenizer = Tokenizer.train(["to be or not"], kind="char", progress=False)
    >>> dataset = unlearning_dataset(["not to be"], ["to be"], tokenizer, seq_len=16, batch_size=1)
    >>> inputs, targets, weight = next(iter(dataset))
    >>> tokenizer.decode(targets["labels"][0, 1][weight[0, 1] > 0])
    'not to be'
    """
    check_least(1, batch_size=batch_size, epochs=epochs)
    check_least(2, seq_len=seq_len)
    check_least(0, seed=seed, start_step=start_step)
    tokenizer = as_tokenizer(tokenizer)
    forgotten, numbers = _texts("forget", forget, tokenizer, seq_len)
    kept, _ = _texts("retain", retain, tokenizer, seq_len)
    rows = np.arange(max(len(kept), len(forgotten)))
    pairs = [text for row in rows for text in (kept[row % len(kept)], forgotten[row % len(forgotten)])]
    texts = _as_texts(pairs, numbers[rows % len(forgotten)])
    if reference is not None:
        said = with_reference(_as_texts(forgotten, numbers), reference)
        log_probs = np.split(said.log_probs, np.cumsum(said.lengths)[:-1])
        beside = [part for row in rows for part in (np.zeros(len(pairs[2 * row])), log_probs[row % len(forgotten)])]
        texts = texts._replace(log_probs=np.concatenate(beside).astype("float32"), reference=said.reference)
    return batches_of(texts, tokenizer, batch_size, seed, epochs, start_step, shuffle)


def _texts(name, documents, tokenizer, seq_len):
    """Documents as texts of at most `seq_len` ids, int32 each, and the number of the document that each is of. A text
    begins with the token before it, of which nothing is learned."""
    check_documents(name, documents)
    end = [] if tokenizer.end_id is None else [tokenizer.end_id]
    texts, numbers = [], []
    for number, ids in enumerate(tokenizer.encode_stream(documents, bare=True)):
        ids = np.array([*end, *ids, *end] if len(ids) else [], "int32")
        for begin in range(0, len(ids) - 1, seq_len - 1):
            texts.append(ids[begin : begin + seq_len])
            numbers.append(number)
    if not texts:
        raise ValueError(f"`{name}` holds no text: at least one document that is not empty is needed.")
    return texts, np.array(numbers)


def _as_texts(texts, numbers):
    """`PreferenceTexts` of which all but the first token of each is learned."""
    learned = [np.arange(len(ids)) > 0 for ids in texts]
    lengths = np.array([len(ids) for ids in texts])
    return PreferenceTexts(np.concatenate(texts), np.concatenate(learned), lengths, None, numbers)
