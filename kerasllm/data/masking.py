"""What a masked model learns from tokens: to say which ones are hidden.

Which tokens are hidden is a function of (seed, step), as the order of the windows is; each epoch hides others.

Shapes: B batch, T time, V vocab.
"""

import os
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from kerasllm.data.option_names import WINDOW_WORDS
from kerasllm.data.token_streams import TokenStream
from kerasllm.data.windows import window_dataset
from kerasllm.tokenizers import Tokenizer, as_tokenizer
from kerasllm.tokenizers.masks import ordinary_ids, require_mask, word_joins
from kerasllm.words import explain_keywords

STRATEGIES = ("token", "word", "span")
# Of the chosen tokens, 80 % are masked, 10 % replaced and 10 % left alone (Devlin et al. 2019, section 3.1).
MASKED, REPLACED = 0.8, 0.1
# Lengths of spans in words: geometric with p = 0.2, none longer than 10 (Joshi et al. 2020, section 3.1).
SPAN_P, LONGEST_SPAN = 0.2, 10
_MASKS = 1  # Sets these draws apart from those of the windows, which have the same seed.


@explain_keywords(WINDOW_WORDS)
def masked_lm_dataset(
    documents_or_token_dir: Iterable[str] | str | os.PathLike | TokenStream,
    tokenizer: Tokenizer,
    seq_len: int,
    batch_size: int,
    seed: int = 0,
    epochs: int = 1,
    start_step: int = 0,
    packed: bool = False,
    *,
    mask_share: float = 0.15,
    strategy: str = "token",
    shuffle: bool = True,
    poisson: bool = False,
    token_folder: str | os.PathLike | None = None,
    progress: bool = True,
) -> tf.data.Dataset:
    """Batches for predicting hidden tokens, as BERT, RoBERTa and SpanBERT learn.

    Some tokens of each window are chosen. Of these, 80 % become the mask token, 10 % another token and 10 % stay as
    they are; the model is to say what each of them was. Special tokens and padding are never chosen, and no token is
    replaced by a special one. The windows are those of `causal_lm_dataset`, but that a label is the token itself.

    Args:
        documents_or_token_dir, seq_len, batch_size, seed, epochs, start_step, token_folder, progress: see
            `causal_lm_dataset`.
        tokenizer: `kerasllm.tokenizers.Tokenizer` that has a mask token.
        packed: bool. Windows hold whole documents where they fit, which do not see each other. Without, documents stand
            end to end, and a window shows all that is in it.
        mask_share: float, the share of tokens that is chosen, on average.
        strategy: "token", "word" or "span".

            - "token" chooses each token by itself, as BERT does.
            - "word" chooses whole words, so that no part of a word gives the others away. `tokenizers.masks.word_joins`
              says what a word is.
            - "span" cuts the text into spans of 1 to 10 words, short ones more often, and chooses whole spans, as
              SpanBERT does. A span is masked, replaced or left alone as a whole.
        shuffle: bool. False is for validation: windows in order, the last one and the last batch filled up with
            padding.

    Returns:
        A `tf.data.Dataset` of known length, with static shapes: ({"token_ids" int32 (B, T), "document_ids" int32 (B,
        T)}, labels int32 (B, T), sample_weight float32 (B, T)). `document_ids` are 0 for padding, and 1, or with
        `packed=True` 1, 2, … for the documents of a window. Labels are the tokens before any was hidden; the weight is
        1 for those that were chosen and 0 elsewhere.

    Raises:
        ValueError: as `causal_lm_dataset`; for a tokenizer without a mask token, a mask_share that is no share, an
            unknown strategy, and words in a vocabulary that does not show where they begin.

    Example:

    >>> documents = ["to be, or not to be", "that is the question"]
    >>> tokenizer = Tokenizer.train(documents, kind="char", special_tokens=["<|mask|>"], progress=False)
    >>> dataset = masked_lm_dataset(documents, tokenizer, seq_len=8, batch_size=2, progress=False)
    >>> inputs, labels, sample_weight = next(iter(dataset))

    References: Devlin et al. 2019, BERT, https://arxiv.org/abs/1810.04805; other tokens in each epoch, Liu et al. 2019,
    RoBERTa, https://arxiv.org/abs/1907.11692; spans, Joshi et al. 2020, SpanBERT, https://arxiv.org/abs/1907.10529
    """
    if not 0 < mask_share <= 1:
        raise ValueError(f"mask_share must be more than 0 and at most 1, got {mask_share}.")
    if strategy not in STRATEGIES:
        raise ValueError(f"Unknown strategy {strategy!r}; choose one of {', '.join(STRATEGIES)}.")
    tokenizer = as_tokenizer(tokenizer)
    mask_id, is_ordinary = require_mask(tokenizer), ordinary_ids(tokenizer)
    joins = None if strategy == "token" else word_joins(tokenizer)

    def hidden_tokens(step, token_ids, _, document_ids):
        draw = np.random.default_rng([seed, step, _MASKS])
        may_be_chosen = is_ordinary[token_ids] & (document_ids > 0)
        units = number_units(token_ids, document_ids, may_be_chosen, joins)
        if strategy == "span":
            units = join_units(units, document_ids, may_be_chosen, draw)
        chosen = may_be_chosen & (draw.random(units.max() + 1) < mask_share)[units]
        fates = draw.random(units.max() + 1)[units] if strategy == "span" else draw.random(units.shape)
        others = np.flatnonzero(is_ordinary)[draw.integers(is_ordinary.sum(), size=units.shape)]
        return hide(token_ids, chosen, fates, mask_id, others), token_ids, chosen

    return window_dataset(
        hidden_tokens,
        documents_or_token_dir,
        tokenizer,
        seq_len,
        batch_size,
        ahead=0,
        with_document_ids=True,
        seed=seed,
        epochs=epochs,
        start_step=start_step,
        packed=packed,
        shuffle=shuffle,
        poisson=poisson,
        token_folder=token_folder,
        progress=progress,
    )


def number_units(token_ids, document_ids, may_be_chosen, joins=None):
    """Numbers what is chosen as a whole: tokens, or words.

    Args:
        token_ids, document_ids: int (B, T).
        may_be_chosen: bool (B, T).
        joins: as `word_joins` returns it, for words; None for single tokens.

    Returns:
        int (B, T), ascending from 0 through all rows.

    Example: "so be it" in the tokens s, o, space, b, e, space, i, t; letters are 1 and the space is 0.

    >>> letters = np.array([[1, 1, 0, 1, 1, 0, 1, 1]])
    >>> documents, joins = np.ones_like(letters), (np.array([False, True]),) * 2
    >>> number_units(letters, documents, letters >= 0, joins).tolist()
    [[0, 0, 1, 2, 2, 3, 4, 4]]
    """
    begins = np.ones(token_ids.shape, bool)
    if joins is not None:
        continues, may_continue = joins
        begins[:, 1:] = ~(continues[token_ids[:, 1:]] & may_continue[token_ids[:, :-1]])
        begins |= _breaks(document_ids, may_be_chosen)
    return np.cumsum(begins).reshape(begins.shape) - 1


def join_units(units, document_ids, may_be_chosen, draw):
    """Joins neighbouring units to spans of geometric lengths, which end where rows, documents and special tokens do.

    Args:
        units: int (B, T), as `number_units` returns them.
        document_ids, may_be_chosen: as in `number_units`.
        draw: `np.random.Generator`.

    Returns:
        int (B, T), the number of each token's span, ascending from 0 through all rows.
    """
    shares = (1 - SPAN_P) ** np.arange(LONGEST_SPAN)
    lengths = draw.choice(np.arange(1, LONGEST_SPAN + 1), size=units.max() + 1, p=shares / shares.sum())
    spans = np.repeat(np.arange(len(lengths)), lengths)[units]
    begins = _breaks(document_ids, may_be_chosen)
    begins[:, 1:] |= spans[:, 1:] != spans[:, :-1]
    return np.cumsum(begins).reshape(begins.shape) - 1


def hide(token_ids, chosen, fates, mask_id, others):
    """What the model sees in place of the chosen tokens.

    Args:
        token_ids: int (B, T).
        chosen: bool (B, T).
        fates: float (B, T) in [0, 1), which decides between the mask, another token and none.
        mask_id: int.
        others: int (B, T), the tokens to replace by.

    Returns:
        int32 (B, T).

    Example:

    >>> chosen, fates = np.array([[True, True, True, False]]), np.array([[0.5, 0.85, 0.95, 0.5]])
    >>> hide(np.array([[10, 11, 12, 13]]), chosen, fates, 3, np.array([[20, 21, 22, 23]])).tolist()
    [[3, 21, 12, 13]]
    """
    seen = np.where(fates < MASKED, mask_id, np.where(fates < MASKED + REPLACED, others, token_ids))
    return np.where(chosen, seen, token_ids).astype(np.int32)


def _breaks(document_ids, may_be_chosen):
    """The places that nothing reaches across: where rows and documents begin, special tokens, and what follows them."""
    breaks = ~may_be_chosen
    breaks[:, 1:] |= ~may_be_chosen[:, :-1] | (document_ids[:, 1:] != document_ids[:, :-1])
    breaks[:, 0] = True
    return breaks
