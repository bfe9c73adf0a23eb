"""What a causal model learns from tokens: to predict the next one. masking.py is the same for masked models."""

import os
from collections.abc import Iterable

import tensorflow as tf

from kerasllm.data.option_names import WINDOW_WORDS
from kerasllm.data.token_streams import TokenStream
from kerasllm.data.windows import window_dataset
from kerasllm.tokenizers import Tokenizer
from kerasllm.words import explain_keywords


@explain_keywords(WINDOW_WORDS)
def causal_lm_dataset(
    documents_or_token_dir: Iterable[str] | str | os.PathLike | TokenStream,
    tokenizer: Tokenizer,
    seq_len: int,
    batch_size: int,
    seed: int = 0,
    epochs: int = 1,
    start_step: int = 0,
    packed: bool = False,
    *,
    shuffle: bool = True,
    poisson: bool = False,
    token_folder: str | os.PathLike | None = None,
    progress: bool = True,
) -> tf.data.Dataset:
    """Batches for next-token prediction.

    Without packing, the documents stand end to end, each with its end token, and are cut into windows of seq_len
    tokens; the labels are the same tokens one place on. The first epoch cuts at multiples of seq_len, each later one at
    a shifted place, so that no token always stands at a window's beginning. With `packed=True`, windows hold whole
    documents where they fit (see `packing.plan_windows`), `document_ids` keeps them apart, and no label reaches from
    one document into the next. Documents longer than seq_len go on in further windows.

    `fit` starts a finite data set again in the same order at each of its own epochs. So give all epochs here and tell
    `fit` their length: `model.fit(dataset, epochs=3, steps_per_epoch=len(dataset) // 3)`.

    Args:
        documents_or_token_dir: iterable of str, which is tokenized to disk first; or a folder made by
            `write_tokens`; or `TokenFiles`, or a `TokenMixture` of several.
        tokenizer: `kerasllm.tokenizers.Tokenizer`.
        seq_len: int T, tokens in a window.
        batch_size: int B, windows in a batch.
        seed: int, decides the order.
        epochs: int, how often the data set goes through the windows, shuffled anew each time.
        start_step: int, batches to leave out at the beginning: those that an interrupted run has seen.
        packed: bool, as described above.
        shuffle: bool. False is for validation: windows in order, the last one and the last batch filled up with weight
            0, so that every label counts once. With True, windows that do not fill a batch are left out of that epoch.
        poisson: bool. True draws each window for each batch by chance, with the probability B / windows, as the account
            of `privacy.DPAdamW` takes it: batches have B windows on average, and more rows, of which those left over
            have a weight of 0. The same windows in all epochs.
        token_folder: where the tokens of documents are to be kept. By default they go to a temporary folder that lives
            as long as the data set.
        progress: bool, whether to show the progress of tokenizing.

    Returns:
        A `tf.data.Dataset` of known length, with static shapes: (token_ids int32 (B, T), labels int32 (B, T),
        sample_weight float32 (B, T)). With `packed=True` the first is {"token_ids": (B, T), "document_ids": int32 (B,
        T)}, where the documents of a window are 1, 2, … and padding is 0. Its attribute `num_examples` is the number of
        windows.

    Raises:
        ValueError: for sizes below 1, a start_step past the end, tokens of another tokenizer, or too little text to
            fill one batch.
        FileNotFoundError: where there are no token files.

    Example:

    >>> from kerasllm.tokenizers import Tokenizer
    >>> documents = ["to be, or not to be", "that is the question"]
    >>> tokenizer = Tokenizer.train(documents, kind="char", progress=False)
    >>> dataset = causal_lm_dataset(documents, tokenizer, seq_len=8, batch_size=2, progress=False)
    >>> len(dataset)
    2
    """
    return window_dataset(
        _next_token,
        documents_or_token_dir,
        tokenizer,
        seq_len,
        batch_size,
        ahead=1,
        with_document_ids=packed,
        seed=seed,
        epochs=epochs,
        start_step=start_step,
        packed=packed,
        shuffle=shuffle,
        poisson=poisson,
        token_folder=token_folder,
        progress=progress,
    )


def _next_token(step, token_ids, next_ids, document_ids):
    return token_ids, next_ids, document_ids > 0
