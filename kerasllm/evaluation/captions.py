"""How close what a model says of images comes to what people say: exact matches, BLEU, CIDEr, and VQA's accuracy."""

import collections
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kerasllm.evaluation.translation import Score, bleu, checked_texts

_ORDERS = 4  # CIDEr's longest n-gram
_SIGMA = 6.0  # of its penalty for another length
_WORD = re.compile(r"\w+(?:'\w+)*")
_NUMBERS = "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"
_ARTICLES = {"a", "an", "the"}
_BETWEEN_DIGITS = re.compile(r"(?<=\d)[.,](?=\d)")


@dataclass(frozen=True)
class CaptionScores:
    """What `caption_scores` found out.

    Attributes:
        exact_match: Share of the hypotheses that are one of their references, but for case and white space around.
        bleu: `Score`, of 4-grams over the whole set, in percent.
        cider: `Score`, CIDEr-D times 100, as papers write it.
        captions: How many were scored.
    """

    exact_match: float
    bleu: Score
    cider: Score
    captions: int

    def to_dict(self):
        """Returns what goes into JSON."""
        scores = {name: {"score": s.score, "signature": s.signature} for name, s in self._scores().items()}
        return {"captions": self.captions, "exact_match": self.exact_match, **scores}

    def __str__(self):
        exact = f"{'exact match':<16}{100 * self.exact_match:>12.2f}"
        return "\n".join([exact, *map(str, self._scores().values()), f"{'scored':<16}{self.captions:,} captions"])

    def _scores(self):
        return {"bleu": self.bleu, "cider": self.cider}


def caption_scores(hypotheses: Iterable[str], references: Iterable[str] | Iterable[Sequence[str]]) -> CaptionScores:
    """Scores captions by exact match, BLEU and CIDEr.

    Args:
        hypotheses: Captions, an iterable of str.
        references: An iterable that holds, for each of them, what people wrote: a str, or a list of str.

    Returns:
        `CaptionScores`: `print` shows it as a table, `to_dict()` is ready for JSON.

    Raises:
        TypeError, ValueError: As `bleu`.

    Example:

    >>> scores = caption_scores(["A red cat.", "two dogs"], [["a red cat.", "a cat"], ["a dog"]])
    >>> scores.exact_match
    0.5
    """
    texts, written = checked_texts(hypotheses, references)
    return CaptionScores(
        exact_match=exact_match(texts, written),
        bleu=bleu(texts, written),
        cider=cider(texts, written),
        captions=len(texts),
    )


def exact_match(hypotheses: Iterable[str], references: Iterable[str] | Iterable[Sequence[str]]) -> float:
    """Share of the hypotheses that are one of their references, but for case and white space around.

    Args:
        hypotheses, references: As in `caption_scores`.

    Returns:
        float from 0 to 1.

    Example:

    >>> exact_match(["Cat ", "dog"], ["cat", "cow"])
    0.5
    """
    texts, written = checked_texts(hypotheses, references)
    found = (_bare(text) in map(_bare, several) for text, several in zip(texts, written, strict=True))
    return sum(found) / len(texts)


def cider(hypotheses: Iterable[str], references: Iterable[str] | Iterable[Sequence[str]]) -> Score:
    """CIDEr-D: how alike captions and references are in the n-grams that few images have.

    An n-gram counts the more, the fewer of the images in `references` have it, so that figures of different sets of
    images do not compare. Words are letters and digits in small letters, without punctuation, where the first
    implementation takes the tokenizer of Stanford's parser; captions of plain words score the same.

    Args:
        hypotheses, references: As in `caption_scores`; of two images at least, else nothing is rare.

    Returns:
        A `Score`, 100 times the mean of CIDEr-D, which is from 0 to 10.

    Raises:
        TypeError, ValueError: As `bleu`, and for one image.

    Example:

    >>> cider(["a red cat", "two dogs"], ["a red cat", "two dogs"]).score > 100
    True

    Reference: Vedantam et al. 2015, https://arxiv.org/abs/1411.5726
    """
    texts, written = checked_texts(hypotheses, references)
    if len(texts) < 2:
        raise ValueError("CIDEr weighs words by how few of the images have them: give captions of two images at least.")
    grams = [[_ngrams(text) for text in several] for several in written]
    images = collections.Counter(gram for several in grams for gram in set().union(*several))
    vectors = _Weighted(images, len(written))
    scores = []
    for text, several in zip(texts, grams, strict=True):
        said = vectors.of(_ngrams(text))
        alike = [_likeness(said, vectors.of(one)) for one in several]
        scores.append(10 * sum(alike) / len(alike))
    nrefs = max(map(len, written))
    signature = f"nrefs:{nrefs}|case:lc|tok:words|n:{_ORDERS}|sigma:{_SIGMA:g}|images:{len(written)}"
    return Score("CIDEr-D", 100 * sum(scores) / len(scores), signature)


def vqa_accuracy(answers: Iterable[str], references: Iterable[str] | Iterable[Sequence[str]]) -> float:
    """The accuracy of answers to questions about images, as VQA's challenge counts it.

    An answer counts in full where three people or more gave it: the mean, over all ways to leave one of them out, of
    min(those who gave it / 3, 1). Where a question has fewer than three answers, it counts where one is the same.
    Case, punctuation, articles, and numbers up to ten as words do not matter.

    Args:
        answers: iterable of str.
        references: iterable of the answers of people to each question: a list of str, or one str.

    Returns:
        float from 0 to 1.

    Raises:
        TypeError, ValueError: As `bleu`.

    Example:

    >>> round(vqa_accuracy(["The two."], [["2"] * 2 + ["3"] * 8]), 2)
    0.6

    Reference: Antol et al. 2015, https://arxiv.org/abs/1505.00468
    """
    answers, references = checked_texts(answers, references)
    shares = []
    for answer, several in zip(answers, references, strict=True):
        same = [_plain(answer) == _plain(one) for one in several]
        if len(same) < 3:
            shares.append(float(any(same)))
        else:
            shares.append(sum(min((sum(same) - one) / 3, 1) for one in same) / len(same))
    return sum(shares) / len(shares)


def _bare(text):
    return text.strip().casefold()


def _plain(answer):
    """An answer without what does not matter."""
    words = re.sub(r"[^\w'\s.,]", " ", answer.casefold())
    words = _BETWEEN_DIGITS.sub("\0", words).replace(".", " ").replace(",", " ").replace("\0", ".")
    numbers = {word: str(number) for number, word in enumerate(_NUMBERS)} | {"none": "0"}
    return " ".join(numbers.get(word, word) for word in words.split() if word not in _ARTICLES)


# CIDEr


def _ngrams(text):
    words = _WORD.findall(text.casefold())
    return collections.Counter(
        tuple(words[i : i + n]) for n in range(1, _ORDERS + 1) for i in range(len(words) - n + 1)
    )


class _Weighted:
    """Counts of n-grams as vectors, a dict for each n, weighed by how few of the images have them."""

    def __init__(self, images, count):
        self._images, self._most = images, math.log(count)

    def of(self, counts):
        vectors = [{} for _ in range(_ORDERS)]
        for gram, number in counts.items():
            vectors[len(gram) - 1][gram] = number * (self._most - math.log(max(1, self._images[gram])))
        norms = [math.sqrt(sum(value * value for value in vector.values())) for vector in vectors]
        return vectors, norms, sum(number for gram, number in counts.items() if len(gram) == 1)


def _likeness(said, reference):
    """The mean over n of the cosines, where no word counts oftener than in the reference, less for another length."""
    cosines = []
    for ours, theirs, norm, other in zip(said[0], reference[0], said[1], reference[1], strict=True):
        product = sum(min(value, theirs.get(gram, 0.0)) * theirs.get(gram, 0.0) for gram, value in ours.items())
        cosines.append(product / (norm * other) if norm and other else 0.0)
    shorter = said[2] - reference[2]
    return math.exp(-(shorter**2) / (2 * _SIGMA**2)) * sum(cosines) / len(cosines)
