"""Which labels texts have."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from kerasllm.generation.prompts import as_text
from kerasllm.generation.whole_texts import answers_to
from kerasllm.models import SequenceClassifier
from kerasllm.tokenizers import Tokenizer, as_tokenizer


class Classification(NamedTuple):
    """What `classify` says of a text.

    Attributes:
        label: str, the likeliest label; with several labels a list of those whose probability is at least 0.5; in
            regression the number, or a list of several.
        probability: float, that of the label, or a list; None in regression.
        probabilities: dict from all labels to their probabilities; None in regression.
    """

    label: object
    probability: object
    probabilities: dict | None


def classify(
    model: SequenceClassifier,
    tokenizer: Tokenizer,
    texts: str | Iterable[str] | Iterable[tuple[str, str]],
    batch_size: int = 32,
) -> Classification | list[Classification]:
    """Says which label a text has, and how sure that is.

    Args:
        model: a `SequenceClassifier`.
        tokenizer: the model's `Tokenizer`.
        texts: str, or several, or a list of pairs (str, str), such as a premise and a hypothesis, for a model that
            learned from pairs. Longer ones than the model takes are cut.
        batch_size: int, texts at once.

    Returns:
        `Classification`, or a list of them.

    Raises:
        TypeError: if the model is no `SequenceClassifier`, a text no str, or there are pairs among single texts.
        ValueError: if the model's logits are not finite.

    Example:
        >>> model, tokenizer = kerasllm.load("distilbert-base-uncased-finetuned-sst-2-english")
        >>> print(kerasllm.classify(model, tokenizer, "What a film!").label)
    """
    if not isinstance(model, SequenceClassifier):
        raise TypeError(f"`classify` needs a SequenceClassifier, got {type(model).__name__}.")
    is_one = as_text(texts) is not None
    strings = [_text_or_pair(text) for text in ([texts] if is_one else texts)]
    found = [_classification(model, row) for row in text_logits(model, as_tokenizer(tokenizer), strings, batch_size)]
    return found[0] if is_one else found


def _text_or_pair(text):
    one = as_text(text)
    pair = tuple(map(as_text, text)) if one is None and isinstance(text, list | tuple) else ()
    if one is None and (len(pair) != 2 or None in pair):
        raise TypeError("`classify` takes a text, a str, or several of them, or a list of pairs of them.")
    return one if pair == () else pair


def text_logits(model, tokenizer, texts, batch_size=32):
    """What a `SequenceClassifier` makes of texts, list of str or of pairs of them: float32 (N, L)."""
    return answers_to(model, tokenizer, texts, model.num_labels, model.config.max_length, batch_size)


def label_names_of(model):
    """The labels of a classifier: its own, or numbers."""
    return model.labels or [str(i) for i in range(model.num_labels)]


def _classification(model, logits):
    if model.problem == "regression":
        return Classification(logits.tolist() if len(logits) > 1 else float(logits[0]), None, None)
    names = label_names_of(model)
    if model.problem == "multi_label":
        probabilities = dict(zip(names, (1 / (1 + np.exp(-logits.astype("float64")))).tolist(), strict=True))
        has = [name for name, probability in probabilities.items() if probability >= 0.5]
        return Classification(has, [probabilities[name] for name in has], probabilities)
    shares = np.exp(logits.astype("float64") - logits.max())
    probabilities = dict(zip(names, (shares / shares.sum()).tolist(), strict=True))
    label = max(probabilities, key=probabilities.get)
    return Classification(label, probabilities[label], probabilities)
