"""What the tokens of a text mean to a prediction, by gradients or by leaving each out.

Shapes: K logits that are asked for, N tokens of all sides, R rows of a batch, T tokens of a side, D d_model.
"""

import dataclasses
import itertools
import warnings

import numpy as np
from keras import ops

from kerasllm import backend
from kerasllm.interpret.baselines import embeddings_of
from kerasllm.interpret.drawings import ColouredText
from kerasllm.interpret.pictures import Picture
from kerasllm.interpret.reading import ask, read
from kerasllm.interpret.recording import as_array
from kerasllm.layers.options import check_choice

METHODS = ("integrated_gradients", "gradient_x_input", "occlusion")
CLOSE = 0.01  # how far integrated gradients may be from what they should add up to
FIRST_PARTS, POINTS, MOST_HALVINGS = 4, 8, 24


@dataclasses.dataclass(frozen=True)
class Saliency(Picture):
    """What tokens mean to a prediction. See `saliency`.

    Attributes:
        tokens: list of N str, what was read: of a translation, the source and then the target.
        targets: list of K str, what was asked for.
        contrasts: list of K str, what it was compared with, or empty.
        values: float64 (K, N), what each token adds to each logit; tokens that a logit does not see have 0.
        scores: float64 (K,), the logits, or how much larger they are than those of the contrast.
        baseline_scores: float64 (K,), the same of nothing but the baseline: integrated gradients add up to the
            difference.
        method: str.
        num_source: int, how many of the tokens are a translation's source; 0 elsewhere.
    """

    tokens: list
    targets: list
    contrasts: list
    values: np.ndarray
    scores: np.ndarray
    baseline_scores: np.ndarray
    method: str
    num_source: int = 0

    @property
    def total(self):
        """Of all logits together: float64 (N,)."""
        return self.values.sum(axis=0)

    def _drawing(self):
        rows = self.targets
        if self.contrasts:
            rows = [f"{target} / {other}" for target, other in zip(rows, self.contrasts, strict=True)]
        title = f"{self.method.replace('_', ' ')}: blue speaks for what stands at the left, red against it"
        return ColouredText(self.tokens, self.values, rows, title)


def saliency(
    model,
    tokenizer,
    text,
    target=None,
    *,
    method="integrated_gradients",
    contrast=None,
    baseline="mean",
    steps=None,
    batch_size=16,
):
    """What each token of a text means to a prediction.

    Args:
        model: `CausalLM`, `MaskedLM`, `Seq2SeqLM` or `SequenceClassifier`.
        tokenizer: the model's `Tokenizer`, or a pair (source, target).
        text: str, or token ids: what is continued, classified or translated, or has one mask.
        target: str, what is predicted: a continuation, of which each token is explained from all that stands before it;
            a translation; the token for a mask; the label of a classifier, or its number. None for the likeliest next
            token, label, or translation.
        method: "integrated_gradients" adds gradients up on the straight way from a baseline to the embeddings
            (https://arxiv.org/abs/1703.01365); "gradient_x_input" multiplies the gradient with the embedding;
            "occlusion" is how much smaller the logit is with the baseline in a token's place.
        contrast: what the target is compared with: another token, or as many as the target has, or another label. What
            is explained is then how much larger the target's logit is (https://arxiv.org/abs/2202.10419).
        baseline: what stands for no token: "mean", the mean of all embeddings; "zeros", which are no good start where a
            norm stands before anything is added, as in Llama; or a token, str or int, such as that of padding.
        steps: int, points on the way of integrated gradients; None for as many as it takes to be right to 1 %.
        batch_size: int, texts at once.

    Returns:
        `Saliency`.

    Raises:
        TypeError: for other models.
        ValueError: for a target that is not possible.

    Example:
        >>> found = interpret.saliency(model, tokenizer, "The class of a thing", contrast=" the")
        >>> found.save("saliency.html")
    """
    read_text = read(model, tokenizer, text, target)
    return saliency_of(model, read_text, ask(model, read_text, target, contrast), method, baseline, steps, batch_size)


def saliency_of(model, text, question, method="integrated_gradients", baseline="mean", steps=None, batch_size=16):
    """The `Saliency` of a `reading.Text` for a `reading.Question`."""
    check_choice("method", method, METHODS)
    embedded, baselines = embeddings_of(model, text, "zeros" if method == "gradient_x_input" else baseline)
    spans = text.inputs.get("span_ids")
    found = values_of(model, embedded, baselines, question, method, steps, batch_size, spans)
    tokens = [token for side in text.sides.values() for token in side]
    num_source = len(text.sides.get("source_ids", ()))
    answers = question.target_texts, question.contrast_texts
    return Saliency(tokens, *answers, *found, method, num_source)


def values_of(model, embedded, baselines, question, method, steps, batch_size, spans=None):
    """What each token adds to each logit, float64 (K, N), the logits, and those of the baseline, float64 (K,).

    Args:
        model: what makes logits of a dict of embeddings, whose names are its `_embeddings`.
        embedded, baselines: lists of float64 (T, D), of each side.
        question: `reading.Question`.
        method, steps, batch_size: see `saliency`.
        spans: int (1, T) or None, what the model takes as "span_ids".
    """
    asked = _Asked(model, embedded, baselines, question, batch_size, spans)
    scores, baseline_scores = asked.scores(1.0), asked.scores(0.0)
    if method == "integrated_gradients":
        values = _integrated(asked, steps)
    elif method == "gradient_x_input":
        values = asked.gradients([1.0])[0]
    else:
        values = scores[:, None] - asked.scores_without_each()
    return values, scores, baseline_scores


def _integrated(asked, steps):
    """Integrated gradients, float64 (K, N).

    Models change by leaps on the way, so that points at even distances miss what happens. Of each part of the way it is
    known what its gradients must add up to, the change of the logit: parts where they do not are halved.
    """
    if steps is not None:
        return _along(asked, [(0.0, 1.0)], steps)[0]
    points = np.linspace(0, 1, FIRST_PARTS + 1)
    parts = list(itertools.pairwise(points.tolist()))
    values = list(_along(asked, parts, POINTS))
    allowed = CLOSE * np.maximum(np.abs(asked.change(0.0, 1.0)), 0.01)
    for _ in range(MOST_HALVINGS):
        errors = np.array(
            [
                (np.abs(value.sum(axis=1) - asked.change(*part)) / allowed).max()
                for part, value in zip(parts, values, strict=True)
            ]
        )
        if errors.sum() <= 1:
            break
        worst = set(np.flatnonzero(errors > 0.5 / len(parts)).tolist())
        halves = [half for i in worst for half in _halved(*parts[i])]
        values = [value for i, value in enumerate(values) if i not in worst] + list(_along(asked, halves, POINTS))
        parts = [part for i, part in enumerate(parts) if i not in worst] + halves
    else:
        warnings.warn(
            f"Integrated gradients add up to the difference but for {CLOSE * errors.sum():.1%}.", stacklevel=4
        )
    return np.sum(values, axis=0)


def _halved(begin, end):
    middle = (begin + end) / 2
    return [(begin, middle), (middle, end)]


def _along(asked, parts, count):
    """Gradients integrated over parts of the way, by Gauss and Legendre's rule of so many points: (parts, K, N)."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    begins, ends = np.array(parts).T[:, :, None]
    factors = begins + (ends - begins) * (nodes + 1) / 2
    found = asked.gradients(factors.ravel())
    found = found.reshape(len(parts), count, *found.shape[1:])
    return np.einsum("ps,pskn->pkn", (ends - begins) * weights / 2, found)


class _Asked:
    """The logits that are asked for as a function of embeddings, a list with one tensor for each side."""

    def __init__(self, model, embedded, baselines, question, batch_size, spans=None):
        self._spans = spans  # of the text, int (1, T)
        self._model, self._question, self._batch_size = model, question, batch_size
        self._names = list(model._embeddings)
        self._baselines = baselines
        self._ways = [x - baseline for x, baseline in zip(embedded, baselines, strict=True)]
        self._num_logits = len(question.targets)
        self._scores = {}

    def scores(self, factor):
        """So far on the way from the baseline to the embeddings: float64 (K,)."""
        if factor not in self._scores:
            self._scores[factor] = np.concatenate([self._run(*rows, False)[0] for rows in self._rows([factor])])
        return self._scores[factor]

    def change(self, begin, end):
        """How much logits change on a part of the way: float64 (K,)."""
        return self.scores(end) - self.scores(begin)

    def gradients(self, factors):
        """Gradients at each point of the way, times the way, summed up for each token: float64 (factors, K, N)."""
        found = [self._run(*rows, True)[1] for rows in self._rows(factors)]
        return np.concatenate(found).reshape(len(factors), self._num_logits, -1)

    def scores_without_each(self):
        """Without each token: float64 (K, N)."""
        lengths = [len(way) for way in self._ways]
        masks = np.split(1.0 - np.eye(sum(lengths)), np.cumsum(lengths)[:-1], axis=1)
        count = sum(lengths)
        found = []
        for begin in range(0, count * self._num_logits, self._batch_size):
            rows = np.arange(begin, min(begin + self._batch_size, count * self._num_logits))
            parts = zip(self._baselines, self._ways, masks, strict=True)
            embedded = [baseline + way * mask[rows % count][..., None] for baseline, way, mask in parts]
            found.append(self._run(embedded, rows // count, False)[0])
        return np.concatenate(found).reshape(self._num_logits, count)

    def _rows(self, factors):
        """Yields batches: embeddings (R, T, D) of each side, and which logit each row is for, (R,)."""
        which = [(factor, number) for factor in factors for number in range(self._num_logits)]
        for begin in range(0, len(which), self._batch_size):
            some = which[begin : begin + self._batch_size]
            along = np.array([factor for factor, _ in some])[:, None, None]
            yield (
                [base + way * along for base, way in zip(self._baselines, self._ways, strict=True)],
                np.array([number for _, number in some]),
            )

    def _run(self, embedded, numbers, with_gradients):
        """The logits of rows, float64 (R,), and, where they are wanted, products of gradients and the way (R, N)."""
        tensors = [ops.cast(ops.convert_to_tensor(x), self._model.compute_dtype) for x in embedded]
        picked = self._picked(numbers)
        if not with_gradients:
            return as_array(picked(*tensors)).astype("float64"), None
        scores, gradients = backend.input_gradients(picked, tensors)
        products = [
            (as_array(gradient).astype("float64") * way).sum(axis=-1)
            for gradient, way in zip(gradients, self._ways, strict=True)
        ]
        return as_array(scores).astype("float64"), np.concatenate(products, axis=1)

    def _picked(self, numbers):
        """A function of embeddings whose result is the logit that each row is for, less that of its contrast."""
        question = self._question
        targets = np.array(question.targets, "int32")[numbers]
        contrasts = np.array(question.contrasts, "int32")[numbers] if question.contrasts else None
        positions = None if question.positions is None else np.array(question.positions, "int32")[numbers]

        def scores(*tensors):
            inputs = dict(zip(self._names, tensors, strict=True))
            if self._spans is not None:
                inputs["span_ids"] = ops.repeat(self._spans, len(numbers), axis=0)
            logits = self._model(inputs, training=False)
            if positions is not None:
                logits = ops.take_along_axis(logits, positions[:, None, None], axis=1)[:, 0]
            picked = ops.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
            if contrasts is not None:
                picked = picked - ops.take_along_axis(logits, contrasts[:, None], axis=1)[:, 0]
            return ops.cast(picked, "float32")

        return scores
