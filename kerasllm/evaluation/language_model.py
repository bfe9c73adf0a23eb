"""How well a causal language model predicts text, by the definitions of lm-evaluation-harness.

A document becomes ids with one prefix token in front, the ids become windows no longer than the model's context
(windows.py), and every token is scored exactly once. Shapes: B windows in a batch, T their length, V vocabulary.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from kerasllm.evaluation.documents import as_documents, checked_document
from kerasllm.evaluation.windows import batches, cut_windows, rows_at_once, window_lengths
from kerasllm.generation.causality import check_causal
from kerasllm.generation.loop import NOT_FINITE
from kerasllm.generation.options import whole_number
from kerasllm.models.shapes import log_of_probabilities, needs_endings, output_width, positions_until
from kerasllm.progress import progress_bar
from kerasllm.tasks import other_task
from kerasllm.tokenizers import Tokenizer, as_tokenizer


@dataclass(frozen=True)
class LanguageModelScores:
    """What `perplexity` found out.

    Attributes:
        loss: Mean negative log-likelihood of a token, in nats.
        perplexity: exp(loss). Depends on the tokenizer: compare models by it only when they share one.
        bits_per_byte: Total negative log-likelihood in bits, per UTF-8 byte of the text. Comparable across tokenizers.
        byte_perplexity: 2 ** bits_per_byte.
        word_perplexity: exp(total negative log-likelihood / words).
        tokens: How many tokens were scored.
        words: How many pieces `re.split(r"\\s+", document)` gives, over all documents.
        bytes: Length of the text in UTF-8.

    Numbers that need the text are None where only ids were given.
    """

    loss: float
    perplexity: float
    bits_per_byte: float | None
    byte_perplexity: float | None
    word_perplexity: float | None
    tokens: int
    words: int | None
    bytes: int | None

    @classmethod
    def from_total(cls, nll, tokens, words=None, bytes=None):
        """Derives every figure from the total negative log-likelihood `nll` (nats) and the counts."""
        return cls(
            loss=nll / tokens,
            perplexity=exp(nll / tokens),
            bits_per_byte=nll / (bytes * math.log(2)) if bytes else None,
            byte_perplexity=exp(nll / bytes) if bytes else None,
            word_perplexity=exp(nll / words) if words else None,
            tokens=tokens,
            words=words,
            bytes=bytes,
        )

    def __str__(self):
        figures = [
            ("loss", self.loss, "nats per token"),
            ("perplexity", self.perplexity, "per token"),
            ("bits per byte", self.bits_per_byte, ""),
            ("byte perplexity", self.byte_perplexity, ""),
            ("word perplexity", self.word_perplexity, ""),
        ]
        figures = [(name, _figure(value), unit) for name, value, unit in figures if value is not None]
        lines = [f"{name:<16}{value:>12}  {unit}".rstrip() for name, value, unit in figures]
        counts = [(self.tokens, "tokens"), (self.words, "words"), (self.bytes, "bytes")]
        scored = ", ".join(f"{count:,} {name}" for count, name in counts if count is not None)
        return "\n".join([*lines, f"{'scored':<16}{scored}"])


def perplexity(
    model: keras.Model,
    tokenizer: Tokenizer,
    documents: str | Iterable[str],
    stride: int | None = None,
    *,
    context: int | None = None,
    batch_size: int | None = None,
) -> LanguageModelScores:
    """Scores how well `model` predicts `documents`: token, word and byte perplexity and bits per byte.

    The definitions are those of lm-evaluation-harness (https://github.com/EleutherAI/lm-evaluation-harness):
    `loglikelihood_rolling` with the windows of `lm_eval/utils.py:get_rolling_token_windows`, and `word_perplexity`,
    `byte_perplexity` and `bits_per_byte` as `lm_eval/api/metrics.py` sums them over all documents.

    Each document is scored apart from the others. Its first token is predicted from what stands before a document in
    training: the start token where the tokenizer puts one there, or else the end token of the document before. A
    tokenizer with neither leaves the first token unscored, as nothing predicts it. A document longer than the context
    is cut into windows in which each token is scored exactly once; the last window reaches back so that it, too, has a
    full context.

    Args:
        model: A Keras model that maps token ids (B, T) to logits (B, T, V), position t predicting token t + 1:
            `CausalLM`, or a Sequential or Functional model of that kind.
        tokenizer: A `kerasllm.tokenizers.Tokenizer`, or anything with its `encode`, `start_id`, `end_id` and `pad_id`.
            Special tokens that its post-processor puts around the text are not scored.
        documents: A str (one document) or an iterable of str; bytes and strings of NumPy and TensorFlow are read as
            such. An iterator is read once and never held in memory.
        stride: How many tokens a window scores after the first one. None: as many as the context, which is fastest.
            Smaller strides cost more and give each token at least `context - stride + 1` tokens to look back on.
        context: Longest window, in tokens. None: `model.config.max_length`, or else the model's static input length.
        batch_size: Windows scored at once. None: up to 64, fewer where the logits would take more than 256 MB.

    Returns:
        A `LanguageModelScores`.

    Raises:
        TypeError: `documents` holds something that is not a str, or the model is of a kind that is not causal.
        ValueError: There is nothing to score, `documents` is the name of a file, an id is past the model's vocabulary,
            `stride` is not in [1, context], or the context is unknown or longer than the model's maximum; the model
            is not causal, or its logits are not finite.

    Example:

    >>> scores = kerasllm.evaluation.perplexity(model, tokenizer, "It was the best of times.")
    >>> print(scores.perplexity, scores.bits_per_byte)
    """
    return TextScorer(model, tokenizer, stride, context, batch_size)(as_documents(documents))


class TextScorer:
    """Scores a model as `perplexity` does, on documents after documents, for which it is compiled once.

    Args:
        model, tokenizer, stride, context, batch_size: as there.
    """

    def __init__(self, model, tokenizer, stride=None, context=None, batch_size=None):
        self._tokenizer = as_tokenizer(tokenizer)
        self._scorer = _WindowScorer(model, stride, context, batch_size)

    def __call__(self, documents: Iterable[str]) -> LanguageModelScores:
        text, tokenizer = _TextCounts(), self._tokenizer
        sequences: Iterable = (_encode(tokenizer, document, text) for document in documents)
        if isinstance(documents, list | tuple):
            sequences = list(sequences)  # the text is in memory already, and a known total makes the bar honest
        nll, tokens = self._scorer.score(sequences, pad_id=getattr(tokenizer, "pad_id", None) or 0)
        return LanguageModelScores.from_total(nll, tokens, text.words, text.bytes)


def score_tokens(
    model: keras.Model,
    token_ids: Sequence[int] | np.ndarray,
    stride: int | None = None,
    *,
    context: int | None = None,
    batch_size: int | None = None,
    num_words: int | None = None,
    num_bytes: int | None = None,
) -> LanguageModelScores:
    """Scores one sequence of ids, such as the validation split of a folder of token files.

    The first id is the prefix: it is looked at and not scored. Otherwise as `perplexity`.

    Args:
        model: A Keras model that maps token ids (B, T) to logits (B, T, V).
        token_ids: One-dimensional sequence or array of int ids (a memory-mapped one is read piece by piece).
        stride, context, batch_size: As in `perplexity`.
        num_words, num_bytes: Size of the text behind the ids, for the figures per word and per byte.

    Returns:
        A `LanguageModelScores`; the figures whose count was not given are None.

    Raises:
        ValueError: As `perplexity`, and for ids that are not one-dimensional integers.

    Example:

    >>> kerasllm.evaluation.score_tokens(model, np.arange(100), context=32).perplexity
    """
    token_ids = np.asanyarray(token_ids)
    if token_ids.ndim != 1 or not np.issubdtype(token_ids.dtype, np.integer):
        raise ValueError(
            f"token_ids has shape {token_ids.shape} and dtype {token_ids.dtype}; give a one-dimensional array of ints."
        )
    nll, tokens = _WindowScorer(model, stride, context, batch_size).score([token_ids], pad_id=0)
    return LanguageModelScores.from_total(nll, tokens, num_words, num_bytes)


class _Scorer(keras.Model):
    """Maps a batch of windows to their total negative log-likelihoods (B,), so that no logits leave the device.

    A model around the model, because `predict_on_batch` is compiled on every backend and leaves the inner model's own
    compiled functions alone.
    """

    def __init__(self, model):
        super().__init__(name="scorer", dtype="float32")
        self.model = model
        self._needs_endings = needs_endings(model)
        self.to_logits = log_of_probabilities(model)
        self.jit_compile = model.jit_compile

    def call(self, inputs):
        token_ids, labels, weights = inputs
        length = ops.shape(token_ids)[1]
        last = ops.max(ops.where(weights > 0, ops.arange(length, dtype="int32"), 0), axis=-1)
        options = {"position_ids": positions_until(last, length)} if self._needs_endings else {}
        logits = self.to_logits(ops.cast(self.model(token_ids, training=False, **options), "float32"))
        nll = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        # A padded position may hold anything, also an infinity, which times zero would be NaN.
        return ops.sum(ops.where(weights > 0, nll, 0.0), axis=-1)


class _WindowScorer:
    """Scores sequences of ids, each with its prefix, in windows of one width."""

    def __init__(self, model, stride, context, batch_size):
        self._context, self._width = window_lengths(model, context)
        self._stride = self._context if stride is None else whole_number("stride", stride, 0)
        if not 1 <= self._stride <= self._context:
            raise ValueError(
                f"stride={self._stride} is not possible; choose one from 1 to the context of {self._context}."
            )
        if other := other_task(model, scored_by="perplexity"):
            kind = type(model).__name__
            raise TypeError(f"Perplexity is of causal models, got a {kind}: `{other.scored_by}` is for a {kind}.")
        self._vocab_size = output_width(model)
        self._rows = rows_at_once(self._width, self._vocab_size) if batch_size is None else batch_size
        if self._rows < 1:
            raise ValueError(f"batch_size={self._rows} is not possible; give 1 or more, or None.")
        check_causal(model)
        self._scorer = _Scorer(model)

    def score(self, sequences, pad_id):
        """Returns (total negative log-likelihood in nats, tokens scored)."""
        windows = cut_windows(sequences, self._context, self._stride, self._vocab_size)
        total = sum(max(0, len(ids) - 1) for ids in sequences) if isinstance(sequences, list) else None
        pad_id = pad_id if pad_id < self._vocab_size else 0
        nll = tokens = 0
        with progress_bar(transient=True) as bar:
            task = bar.add_task("scoring", total=total, unit="tokens")
            for batch, scored in batches(windows, self._rows, self._width, pad_id):
                nll += np.asarray(self._scorer.predict_on_batch(batch), dtype="float64").sum()
                if np.isnan(nll):
                    raise ValueError(NOT_FINITE)
                tokens += scored
                bar.update(task, completed=tokens)
        if not tokens:
            raise ValueError(
                "There is nothing to score: the documents are empty, or hold a single token without a start or end "
                "token to predict it from. Give text that has at least two tokens."
            )
        return float(nll), tokens


class _TextCounts:
    """Words and bytes of the documents seen so far."""

    words = 0
    bytes = 0

    def add(self, document):
        self.words += len(re.split(r"\s+", document))
        self.bytes += len(document.encode("utf-8"))


def _encode(tokenizer, document, counts):
    """Returns the ids of a document behind its prefix token, and counts its words and bytes."""
    document = checked_document(document)
    counts.add(document)
    start_id, end_id = getattr(tokenizer, "start_id", None), getattr(tokenizer, "end_id", None)
    ids = list(tokenizer.encode(document))
    prefix = start_id if end_id is None else end_id
    # Special tokens are never read out of the text, so these can only come from the tokenizer's post-processor.
    if ids and ids[0] == start_id:
        prefix, ids = start_id, ids[1:]
    if ids and ids[-1] == end_id:
        ids = ids[:-1]
    return np.asarray(ids if prefix is None else [prefix, *ids], "int64")


def _figure(value):
    return f"{value:,.4f}" if value < 1e6 else f"{value:.4g}"


def exp(x):
    """exp(x), infinite where a float ends."""
    return math.exp(x) if x < 709 else math.inf
