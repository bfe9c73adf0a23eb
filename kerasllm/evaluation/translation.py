"""How close translations come to reference translations: sacrebleu's BLEU, chrF and TER, and Keras NLP's ROUGE.

Each figure comes with the signature that makes it comparable, as sacrebleu's command line prints it.
"""

import importlib.metadata
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sacrebleu.metrics import BLEU, CHRF, TER

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_KANA = "\u3041-\u30ff\uff66-\uff9d"
_HANGUL = "\u1100-\u11ff\uac00-\ud7a3"


@dataclass(frozen=True)
class Score:
    """One figure about translations.

    Attributes:
        name: "BLEU", "chrF2", "TER", "ROUGE-L" and so on.
        score: The figure, in percent. Of TER less is better, and it may pass 100; of the others more is better.
        signature: How it was computed. Compare only scores whose signatures are equal.
    """

    name: str
    score: float
    signature: str

    def __str__(self):
        return f"{self.name:<16}{self.score:>12.2f}  {self.signature}"


@dataclass(frozen=True)
class TranslationScores:
    """What `translation_scores` found out.

    Attributes:
        sentences: How many hypotheses were scored.
        bleu, chrf, ter: A `Score` each.
        rouge1, rouge2, rougeL: A `Score` each, or None where ROUGE was not asked for.
    """

    sentences: int
    bleu: Score
    chrf: Score
    ter: Score
    rouge1: Score | None = None
    rouge2: Score | None = None
    rougeL: Score | None = None

    def to_dict(self):
        """Returns what goes into JSON: {"sentences": 1000, "bleu": {"score": ..., "signature": ...}, ...}."""
        scores = {name: {"score": s.score, "signature": s.signature} for name, s in self._scores().items()}
        return {"sentences": self.sentences, **scores}

    def __str__(self):
        return "\n".join([*map(str, self._scores().values()), f"{'scored':<16}{self.sentences:,} sentences"])

    def _scores(self):
        return {name: value for name, value in vars(self).items() if isinstance(value, Score)}


def translation_scores(
    hypotheses: Iterable[str],
    references: Iterable[str] | Iterable[Sequence[str]],
    tokenize: str | None = None,
    lowercase: bool = False,
    *,
    with_rouge: bool = False,
) -> TranslationScores:
    """Scores translations by BLEU, chrF and TER, and by ROUGE where asked.

    Args:
        hypotheses, references, tokenize: As in `bleu`.
        lowercase: Whether BLEU and chrF ignore case. TER and ROUGE always do.
        with_rouge: Whether to add ROUGE-1, ROUGE-2 and ROUGE-L.

    Returns:
        A `TranslationScores`: `print` shows it as a table, `to_dict()` is ready for JSON.

    Raises:
        TypeError, ValueError: As `bleu` and `rouge`.

    Example:

    >>> print(translation_scores(["The cat sat down."], ["The cat sat."]))
    """
    texts, references = checked_texts(hypotheses, references)
    variants = ("rouge1", "rouge2", "rougeL") if with_rouge else ()
    return TranslationScores(
        sentences=len(texts),
        bleu=bleu(texts, references, tokenize, lowercase),
        chrf=chrf(texts, references, lowercase),
        ter=ter(texts, references),
        **{variant: rouge(texts, references, variant) for variant in variants},
    )


def bleu(
    hypotheses: Iterable[str],
    references: Iterable[str] | Iterable[Sequence[str]],
    tokenize: str | None = None,
    lowercase: bool = False,
) -> Score:
    """BLEU over a whole set of translations, as sacrebleu computes it.

    Args:
        hypotheses: Translations, an iterable of str, as a reader would see them: sacrebleu itself divides into words.
        references: An iterable that holds, for each hypothesis, what it should be: a str, or a list of str where there
            are several right ones.
        tokenize: sacrebleu's name of a way to divide into words, such as "13a", "intl", "zh" or "char". None: what
            sacrebleu takes for the language that the references are written in, "zh" for Chinese, "ja-mecab" for
            Japanese, "ko-mecab" for Korean and else "13a". The signature tells.
        lowercase: Whether to ignore case.

    Returns:
        A `Score`.

    Raises:
        TypeError: Something is not a str.
        ValueError: There is nothing to score, a reference is blank, the lengths differ, or `tokenize` is unknown or
            needs a package that is not installed.

    Example:

    >>> bleu(["The cat sat on the mat."], [["The cat sat on a mat.", "A cat sat on the mat."]]).score
    """
    hypotheses, references = checked_texts(hypotheses, references)
    if tokenize is None:
        tokenize = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}.get(_language(references), BLEU.TOKENIZER_DEFAULT)
    if tokenize not in BLEU.TOKENIZERS:
        raise ValueError(f"tokenize={tokenize!r} is not possible; choose one of {', '.join(BLEU.TOKENIZERS)}.")
    try:
        metric = BLEU(lowercase=lowercase, tokenize=tokenize)
    except (RuntimeError, ImportError, OSError) as error:  # a package or a file that this tokenizer fetches is absent
        raise ValueError(
            f"sacrebleu's {tokenize!r} does not work here: {' '.join(str(error).split()).rstrip('.')}; or choose "
            'another with tokenize=, such as "char", which needs nothing.'
        ) from error
    return _score(metric, hypotheses, references)


def chrf(
    hypotheses: Iterable[str],
    references: Iterable[str] | Iterable[Sequence[str]],
    lowercase: bool = False,
    *,
    word_order: int = 0,
) -> Score:
    """chrF, the F-score of the characters' n-grams, as sacrebleu computes it.

    Args:
        hypotheses, references, lowercase: As in `bleu`.
        word_order: Longest n-gram of words that counts too: 0 is chrF, 2 is chrF++.

    Returns:
        A `Score`.

    Raises:
        TypeError, ValueError: As `bleu`.

    Example:

    >>> chrf(["The cat sat down."], ["The cat sat."], word_order=2).name
    'chrF2++'
    """
    return _score(CHRF(lowercase=lowercase, word_order=word_order), *checked_texts(hypotheses, references))


def ter(hypotheses: Iterable[str], references: Iterable[str] | Iterable[Sequence[str]]) -> Score:
    """TER, how many edits turn translations into their references, per word, as sacrebleu computes it; case is ignored.

    Chinese and Japanese are divided into characters, sacrebleu's --ter-normalized --ter-asian-support; the signature
    tells. Without that, a sentence would be one word.

    Args:
        hypotheses, references: As in `bleu`.

    Returns:
        A `Score`; less is better.

    Raises:
        TypeError, ValueError: As `bleu`.

    Example:

    >>> ter(["The cat sat down."], ["The cat sat."]).score
    """
    hypotheses, references = checked_texts(hypotheses, references)
    asian = _language(references) in ("zh", "ja")
    return _score(TER(normalized=asian, asian_support=asian), hypotheses, references)


def rouge(
    hypotheses: Iterable[str], references: Iterable[str] | Iterable[Sequence[str]], variant: str = "rougeL"
) -> Score:
    """ROUGE's F1, the mean over all sentences, as `keras_nlp.metrics.RougeL` and `RougeN` compute it; case is ignored.

    They divide text with the package rouge-score, which knows the letters a to z and digits and takes everything else
    for spaces: text in other alphabets is refused, and accents divide words.

    Args:
        hypotheses: As in `bleu`.
        references: An iterable of str, one for each hypothesis.
        variant: "rougeL" (longest common subsequence) or "rouge1" to "rouge9" (n-grams of so many words).

    Returns:
        A `Score`. Its signature has sacrebleu's form and names the version of rouge-score.

    Raises:
        TypeError: Something is not a str.
        ValueError: As `bleu`, for several references, other alphabets and unknown variants.

    Example:

    >>> rouge(["The cat sat down."], ["The cat sat."]).score
    """
    hypotheses, references = checked_texts(hypotheses, references)
    if any(len(several) > 1 for several in references):
        raise ValueError(
            "ROUGE in Keras takes one reference for each hypothesis, and here are several: give one of them."
        )
    if not re.fullmatch("rouge[L1-9]", variant):
        raise ValueError(f"variant={variant!r} is not possible; choose rougeL, or rouge1 to rouge9.")
    if _share(references, "a-zA-Z") < 0.5:
        raise ValueError(
            "ROUGE in Keras knows only the letters a to z, and most of these are others: use chrf instead."
        )
    import keras_nlp

    kind = variant.removeprefix("rouge")
    metrics = keras_nlp.metrics
    metric = metrics.RougeL(dtype="float64") if kind == "L" else metrics.RougeN(order=int(kind), dtype="float64")
    metric.update_state([reference for (reference,) in references], hypotheses)
    version = importlib.metadata.version("rouge-score")
    signature = f"nrefs:1|case:lc|measure:f1|stem:no|tok:rouge-score|version:{version}"
    return Score(f"ROUGE-{kind}", 100 * float(metric.result()["f1_score"]), signature)


def _score(metric, hypotheses, references):
    """Runs one of sacrebleu's metrics, which take the first reference of each sentence, then the second, and so on."""
    found = metric.corpus_score(hypotheses, list(itertools.zip_longest(*references)))
    return Score(found.name, found.score, str(metric.get_signature()))


def checked_texts(hypotheses, references):
    """A list of str, and a list of equal length of the list of references of each."""
    hypotheses, references = _list(hypotheses, "hypotheses"), _list(references, "references")
    for number, hypothesis in enumerate(hypotheses):
        if not isinstance(hypothesis, str):
            raise TypeError(f"hypotheses[{number}] is of type {type(hypothesis).__name__}; each hypothesis is a str.")
    if not hypotheses:
        raise ValueError("There is nothing to score: hypotheses is empty; give at least one translation.")
    if len(hypotheses) != len(references):
        by_reference = all(isinstance(one, list | tuple) and len(one) == len(hypotheses) for one in references)
        turn = ", such as list(zip(*references)) of yours" if references and by_reference else ""
        raise ValueError(
            f"There are {len(hypotheses)} hypotheses and {len(references)} references: give a str for each hypothesis, "
            f"or a list of str where there are several{turn}."
        )
    references = [
        [one] if isinstance(one, str) else _list(one, f"references[{number}]") for number, one in enumerate(references)
    ]
    for number, several in enumerate(references):
        for reference in several:
            if not isinstance(reference, str):
                kind = type(reference).__name__
                raise TypeError(f"references[{number}] holds an item of type {kind}; each reference is a str.")
        if not several or not all(map(str.strip, several)):
            raise ValueError(f"references[{number}] is blank: give text, or leave this sentence out on both sides.")
    return hypotheses, references


def _list(values, name):
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"{name} is of type {type(values).__name__}; give a list of str.")
    return list(values)


def _language(references):
    """Returns "zh", "ja" or "ko" where a third of the letters are of such a script, or None."""
    han, kana, hangul = (_share(references, script) for script in (_HAN, _KANA, _HANGUL))
    if han + kana + hangul < 1 / 3:
        return None
    if hangul > han + kana:
        return "ko"
    return "ja" if kana > han / 5 else "zh"


def _share(references, script):
    """The share of the letters that lie in a range of characters."""
    text = "".join(itertools.chain.from_iterable(references))
    return len(re.findall(f"[{script}]", text)) / max(1, sum(map(str.isalpha, text)))
