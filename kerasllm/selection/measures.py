"""How well a model does on a user's own sample, a part of it after the other."""

import functools
import statistics
import time
from pathlib import Path

import kerasllm
from kerasllm.evaluation.language_model import TextScorer
from kerasllm.models.shapes import context_length
from kerasllm.tasks import TASKS
from kerasllm.tasks.translation import pairs_of

_PIECE = 2000  # characters of text that are measured together
_CONTEXT = 512  # tokens that are seen of it at most: each piece is padded to what may be seen
_PROMPT, _NEW_TOKENS = 64, 33  # tokens of what is timed
_TIMED = 5  # answers


class Measure:
    """What a task asks of a model. An object is of one model, and adds up what that does with items, part by part.

    Attributes:
        task: str, of `kerasllm.tasks`.
        name: str, of the figure.
        lower_is_better: bool.
        answer: str, what is waited for, in the table.
    """

    task = name = answer = ""
    lower_is_better = False

    def __init__(self):
        self._seen = []

    @classmethod
    def check(cls, model):
        """Refuses a model of another kind."""
        wanted = TASKS[cls.task].model_class()
        if not isinstance(model, wanted):
            raise TypeError(f"it is a {type(model).__name__}, not a {wanted.__name__}")

    @staticmethod
    def items(sources, columns):
        """All items of a sample, a list."""
        raise NotImplementedError

    def add(self, model, tokenizer, items):
        """Measures more items; returns the figure of all so far."""
        raise NotImplementedError

    @classmethod
    def seconds(cls, model, tokenizer, items):
        """Seconds until an answer, and until the first token of one where there are several: (float, float or None)."""
        cls._answer(model, tokenizer, items[0])  # which compiles
        return statistics.median(_timed(cls._answer, model, tokenizer, item) for item in items[:_TIMED]), None

    @staticmethod
    def _answer(model, tokenizer, item):
        raise NotImplementedError


class OfText(Measure):
    """Bits per byte of text: comparable between models with different tokenizers."""

    task, name, answer = "causal", "bits per byte", "a token"
    lower_is_better = True

    def __init__(self):
        super().__init__()
        self._bits = self._bytes = 0.0
        self._scorer = None, None

    @staticmethod
    def items(sources, columns):
        documents = kerasllm.data.read_text(list(sources), field=next(iter(columns), None))
        return [piece for document in documents for piece in _pieces(document)]

    def add(self, model, tokenizer, items):
        if self._scorer[0] is not model:  # which may have been loaded anew
            context = min(_CONTEXT, context_length(model) or _CONTEXT)
            self._scorer = model, TextScorer(model, tokenizer, context=context)
        scores = self._scorer[1](list(items))
        self._bits += scores.bits_per_byte * scores.bytes
        self._bytes += scores.bytes
        return self._bits / self._bytes

    @classmethod
    def seconds(cls, model, tokenizer, items):
        length, times = model.config.max_length, {}
        prompt = list(tokenizer.encode(items[0]))[: min(_PROMPT, length // 2)]
        for count in (1, min(_NEW_TOKENS, length - len(prompt))):
            write = functools.partial(kerasllm.generate, max_new_tokens=count, min_new_tokens=count)
            write(model, tokenizer, prompt)  # which compiles
            times[count] = _timed(write, model, tokenizer, prompt)
        first, of_all, more = times[1], times[count], max(count - 1, 1)
        return max(of_all - first, 0.0) / more, first


class OfTranslations(Measure):
    """BLEU of all translations so far."""

    task, name, answer = "translate", "BLEU", "a sentence"

    @staticmethod
    def items(sources, columns):
        return pairs_of(sources, columns)

    def add(self, model, tokenizer, items):
        sources, targets = zip(*items, strict=True)
        self._seen += zip(kerasllm.translate(model, tokenizer, sources), targets, strict=True)
        return kerasllm.evaluation.bleu(*zip(*self._seen, strict=True)).score

    @staticmethod
    def _answer(model, tokenizer, item):
        kerasllm.translate(model, tokenizer, item[0])


class OfLabels(Measure):
    """The share of texts that are given their label."""

    task, name, answer = "classify", "accuracy", "a text"

    def __init__(self):
        super().__init__()
        self._right = self._all = 0

    @staticmethod
    def items(sources, columns):
        *texts, label = columns or (None, None)
        return list(kerasllm.data.read_labelled(list(sources), texts[0] if len(texts) == 1 else texts, label))

    def add(self, model, tokenizer, items):
        texts, labels = zip(*items, strict=True)
        scores = kerasllm.evaluation.classification_scores(model, tokenizer, texts, labels)
        if scores.accuracy is None:
            raise ValueError("it gives numbers, and these have no accuracy")
        self._right, self._all = self._right + scores.accuracy * scores.texts, self._all + scores.texts
        return self._right / self._all

    @staticmethod
    def _answer(model, tokenizer, item):
        kerasllm.classify(model, tokenizer, [item[0]])


class OfVectors(Measure):
    """The share of pairs whose second text is nearest to the first, of all seconds so far."""

    task, name, answer = "embed", "recall at 1", "a text"

    @staticmethod
    def items(sources, columns):
        return pairs_of(sources, columns)

    def add(self, model, tokenizer, items):
        self._seen += items
        return kerasllm.evaluation.retrieval_scores(model, tokenizer, self._seen).recall_at_1

    @staticmethod
    def _answer(model, tokenizer, item):
        kerasllm.embed(model, tokenizer, item[0])


MEASURES = {"generate": OfText, "translate": OfTranslations, "classify": OfLabels, "embed": OfVectors}


def items_of(task, sources, columns=()):
    """The items of a sample for a task, in an order of chance that is the same each time: a list."""
    import numpy as np

    for source in sources:
        if "*" not in source and ":" not in source and source != "python_docs" and not Path(source).exists():
            raise FileNotFoundError(f"There is no sample at {source}.")
    items = MEASURES[task].items(tuple(sources), tuple(columns))
    return [items[at] for at in np.random.default_rng(0).permutation(len(items))]


def _pieces(document):
    """A document in pieces that end with lines where they can."""
    piece = []
    for line in document.splitlines(keepends=True):
        for begin in range(0, len(line), _PIECE):
            piece.append(line[begin : begin + _PIECE])
            if sum(map(len, piece)) >= _PIECE:
                yield "".join(piece)
                piece = []
    if "".join(piece).strip():
        yield "".join(piece)


def _timed(function, *arguments):
    begin = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - begin
