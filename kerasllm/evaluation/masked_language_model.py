"""How well a masked language model names hidden tokens: pseudo-perplexity, and accuracy beside the best constant guess.

Shapes: B rows in a batch, T their length, V vocabulary.
"""

import itertools
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from kerasllm.data.token_files import TokenFiles
from kerasllm.evaluation.documents import as_documents, checked_document
from kerasllm.evaluation.language_model import exp
from kerasllm.evaluation.windows import check_ids, rolling_windows, rows_at_once
from kerasllm.generation.loop import NOT_FINITE
from kerasllm.models import MaskedLM
from kerasllm.progress import progress_bar
from kerasllm.tokenizers import Tokenizer, as_tokenizer
from kerasllm.tokenizers.masks import ordinary_ids, require_mask

_SHORTEST_ROW = 16


@dataclass(frozen=True)
class MaskedLanguageModelScores:
    """What `pseudo_perplexity` and `masked_accuracy` found out.

    Attributes:
        loss: Mean negative log-likelihood of a hidden token, in nats.
        perplexity: exp(loss). Depends on the tokenizer, and on how much else is hidden.
        accuracy: Share of the hidden tokens that the model holds for the likeliest.
        baseline_accuracy: The same for always naming the token that is the most frequent among them. No other constant
            guess does better.
        tokens: How many tokens were hidden and scored.
    """

    loss: float
    perplexity: float
    accuracy: float
    baseline_accuracy: float
    tokens: int

    def __str__(self):
        return "\n".join(
            [
                f"{'loss':<20}{self.loss:>12.4f}  nats per hidden token",
                f"{'perplexity':<20}{self.perplexity:>12,.4f}",
                f"{'accuracy':<20}{self.accuracy:>12.2%}",
                f"{'most frequent token':<20}{self.baseline_accuracy:>12.2%}",
                f"{'scored':<20}{self.tokens:>12,} tokens",
            ]
        )


def pseudo_perplexity(
    model: MaskedLM,
    tokenizer: Tokenizer,
    documents: str | Iterable[str],
    *,
    context: int | None = None,
    batch_size: int | None = None,
) -> MaskedLanguageModelScores:
    """Hides one token after the other and scores how well the model names it from all others.

    The perplexity is the PPPL of Salazar et al. 2020, "Masked Language Model Scoring", https://arxiv.org/abs/1910.14659,
    section 2.3. The end token follows each document, as in training; special tokens are not hidden. A document longer
    than the context is cut into windows in which each token is scored exactly once; the last window reaches back so
    that it, too, has a full context. Every token costs a pass over its window.

    Args:
        model: A `MaskedLM`.
        tokenizer: The model's `Tokenizer`, with a mask token.
        documents: A str (one document) or an iterable of str.
        context: Longest window, in tokens. None: `model.config.max_length`.
        batch_size: Hidden tokens scored at once. None: up to 64, fewer where the logits would take more than 256 MB.

    Returns:
        A `MaskedLanguageModelScores`; its accuracy is that of naming a single hidden token.

    Raises:
        TypeError: The model is no `MaskedLM`, or a document no str.
        ValueError: There is nothing to score, `documents` is the name of a file, the tokenizer has no mask token, the
            context is longer than the model's, or its logits are not finite.

    Example:

    >>> kerasllm.evaluation.pseudo_perplexity(model, tokenizer, "It was the best of times.").perplexity
    """
    context, batch_size = _sizes(model, context, batch_size)
    tokenizer = as_tokenizer(tokenizer)
    rows = _rows(as_documents(documents), tokenizer, context)
    return _score(model, _batches(rows, batch_size, context, tokenizer))


def masked_accuracy(
    model: MaskedLM,
    tokenizer: Tokenizer,
    documents_or_token_dir: Iterable[str] | str | os.PathLike | TokenFiles,
    *,
    mask_share: float = 0.15,
    strategy: str = "token",
    seed: int = 0,
    context: int | None = None,
    batch_size: int | None = None,
) -> MaskedLanguageModelScores:
    """Hides a share of the tokens at once, as in training, and scores how well the model names them.

    The windows and the choice are those of `kerasllm.data.masked_lm_dataset(shuffle=False)`. Every chosen token becomes
    the mask token: in training some stay as they are, which makes them easier to name.

    Args:
        model: A `MaskedLM`.
        tokenizer: The model's `Tokenizer`, with a mask token.
        documents_or_token_dir, mask_share, strategy, seed: As in `masked_lm_dataset`. The same seed hides the same
            tokens.
        context: Length of a window, in tokens. None: `model.config.max_length`.
        batch_size: Windows scored at once. None: up to 64, fewer where the logits would take more than 256 MB.

    Returns:
        A `MaskedLanguageModelScores`.

    Raises:
        TypeError: The model is no `MaskedLM`, or a document no str.
        ValueError: As `masked_lm_dataset`, and where nothing happens to be hidden.

    Example:

    >>> scores = kerasllm.evaluation.masked_accuracy(model, tokenizer, kerasllm.data.read_text("held-out.txt"))
    >>> print(scores.accuracy, scores.baseline_accuracy)
    """
    from kerasllm.data import masked_lm_dataset  # Needs TensorFlow, which the rest of this module does not.

    context, batch_size = _sizes(model, context, batch_size)
    tokenizer = as_tokenizer(tokenizer)
    dataset = masked_lm_dataset(
        documents_or_token_dir,
        tokenizer,
        context,
        batch_size,
        seed,
        mask_share=mask_share,
        strategy=strategy,
        shuffle=False,
        progress=False,
    )
    batches = (
        ({**inputs, "token_ids": np.where(weight > 0, tokenizer.mask_id, labels)}, labels, weight)
        for inputs, labels, weight in dataset.as_numpy_iterator()
    )
    return _score(model, batches)


def _sizes(model, context, batch_size):
    if not isinstance(model, MaskedLM):
        raise TypeError(f"A MaskedLM is needed, got {type(model).__name__}; `perplexity` scores causal models.")
    longest = model.config.max_length
    context = longest if context is None else context
    if not 1 <= context <= longest:
        raise ValueError(f"context={context} is not possible; give 1 to {longest}, the longest input of this model.")
    batch_size = rows_at_once(context, model.config.vocab_size) if batch_size is None else batch_size
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} is not possible; give 1 or more, or None.")
    return context, batch_size


def _rows(documents, tokenizer, context):
    """Yields (ids of a window, the place that is hidden) for each ordinary token of each document."""
    is_ordinary, end_id = ordinary_ids(tokenizer), tokenizer.end_id
    for document in documents:
        ids = tokenizer.encode(checked_document(document))
        if end_id is not None and end_id not in ids[-1:]:
            ids.append(end_id)
        for begin, end, scored in rolling_windows(len(ids), context, context):
            window = np.array(ids[begin:end], "int32")
            for place in range(len(window) - scored, len(window)):
                if is_ordinary[window[place]]:
                    yield window, place


def _batches(rows, batch_size, context, tokenizer):
    """Yields (inputs, labels, weights). Their widths are powers of two, so that there are few to compile."""
    mask_id = require_mask(tokenizer)
    while batch := list(itertools.islice(rows, batch_size)):
        longest = max(_SHORTEST_ROW, *(len(window) for window, _ in batch))
        width = min(context, 2 ** math.ceil(math.log2(longest)))
        labels = np.zeros((batch_size, width), "int32")
        document_ids, weights = np.zeros((batch_size, width), "int32"), np.zeros((batch_size, width), "float32")
        for row, (window, place) in enumerate(batch):
            labels[row, : len(window)] = window
            document_ids[row, : len(window)] = 1
            weights[row, place] = 1
        inputs = {"token_ids": np.where(weights > 0, mask_id, labels), "document_ids": document_ids}
        yield inputs, labels, weights


def _score(model, batches):
    scorer = _MaskScorer(model)
    nll = hits = 0
    counts = np.zeros(model.config.vocab_size, "int64")
    with progress_bar(transient=True) as bar:
        task = bar.add_task("scoring", total=None, unit="tokens")
        for inputs, labels, weights in batches:
            check_ids(np.stack([inputs["token_ids"], labels]), len(counts))
            sums = np.asarray(scorer.predict_on_batch((inputs, labels, weights)), "float64").sum(axis=0)
            nll, hits = nll + sums[0], hits + sums[1]
            if np.isnan(nll):
                raise ValueError(NOT_FINITE)
            counts += np.bincount(labels[weights > 0], minlength=len(counts))
            bar.update(task, completed=counts.sum())
    tokens = int(counts.sum())
    if not tokens:
        raise ValueError("There is nothing to score: no token of the documents was hidden. Give more text.")
    loss = float(nll) / tokens
    return MaskedLanguageModelScores(loss, exp(loss), float(hits) / tokens, counts.max() / tokens, tokens)


class _MaskScorer(keras.Model):
    """Maps a batch to (B, 2): the total negative log-likelihood of a row's hidden tokens, and how many are right.

    A model around the model, because `predict_on_batch` is compiled on every backend and no logits leave the device.
    """

    def __init__(self, model):
        super().__init__(name="mask_scorer", dtype="float32")
        self.model = model
        self.jit_compile = model.jit_compile

    def call(self, batch):
        inputs, labels, weights = batch
        logits = ops.cast(self.model(inputs, training=False), "float32")
        nll = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        is_right = ops.cast(ops.argmax(logits, axis=-1) == ops.cast(labels, "int32"), "float32")
        return ops.stack([ops.sum(ops.where(weights > 0, x, 0.0), axis=-1) for x in (nll, is_right)], axis=-1)
