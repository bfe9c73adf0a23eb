"""Parts of a `Filter`: each is a function of messages that gives a reason to refuse the last one, or None."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kerasllm.generation.answers import chat
from kerasllm.generation.classifying import classify, label_names_of
from kerasllm.generation.held_back import text_of
from kerasllm.generation.options import real_number
from kerasllm.models import CausalLM, SequenceClassifier
from kerasllm.safety.thresholds import threshold_at
from kerasllm.tokenizers import Tokenizer, as_tokenizer

Messages = Sequence[Mapping[str, Any]]

UNSAFE_LABELS = ("unsafe", "toxic", "harmful", "offensive", "hateful")
_TOKENS_OF_A_VERDICT = 32
# Of scripts that put no spaces between words: Thai to Burmese, Khmer, kana, Chinese characters.
_NO_SPACES = re.compile("[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


class Blocklist:
    """Refuses texts that have one of some words, or something that one of some patterns matches.

    Letters count as the same where Unicode says so (upper and lower case, full-width ones), and what is not seen, such
    as spaces of no width, counts as nothing. Other spellings, such as digits for letters, are for patterns to know. (To
    keep a model from writing words at all, `generate` has `forbidden`.)

    Args:
        words: list of str, words or several together, which are looked for as whole words.
        patterns: list of str, regular expressions; upper and lower case are the same.

    Raises:
        TypeError: if they are no lists of str.
        ValueError: if there are none, or one has no letters or is no regular expression.

    Example:
        >>> part = kerasllm.safety.Blocklist(["fox"], ["[0-9]{3}-[0-9]{4}"])
        >>> part([{"role": "user", "content": "Call 555-1234."}])
        'the pattern "[0-9]{3}-[0-9]{4}"'
    """

    name = "blocklist"

    def __init__(self, words: Iterable[str] = (), patterns: Iterable[str] = ()):
        for name, given in (("words", words), ("patterns", patterns)):
            if not isinstance(given, list | tuple | set | frozenset) or not all(isinstance(one, str) for one in given):
                raise TypeError(f"`{name}` is a list of str, got {given!r:.80}.")
        if not words and not patterns:
            raise ValueError("A blocklist has words or patterns, got neither.")
        self._reasons = {f'the word "{word}"': re.compile(_as_pattern(word)) for word in words}
        for pattern in patterns:
            try:
                self._reasons[f'the pattern "{pattern}"'] = re.compile(pattern, re.IGNORECASE)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}.") from error

    def __call__(self, messages: Messages) -> str | None:
        text = _visible(text_of(messages[-1]))
        folded = text.casefold()
        for reason, pattern in self._reasons.items():
            if pattern.search(text if pattern.flags & re.IGNORECASE else folded):
                return reason
        return None


class TextClassifier:
    """Refuses texts that a classifier finds unsafe, such as one that `kerasllm train --task classify` made.

    Args:
        model: a `SequenceClassifier`.
        tokenizer: its `Tokenizer`.
        unsafe: list of str, the labels that say so; by default that which is called unsafe, toxic, harmful, offensive
            or hateful.
        threshold: float, above which probability of these a text is refused. `calibrate` finds one.
        pairs: bool. The classifier has learned from pairs, of what was said and the reply to it. It then judges
            replies, and lets pass what is said to the model.

    Raises:
        TypeError: for another model.
        ValueError: for labels that the model does not have.

    Example:
        >>> part = kerasllm.safety.TextClassifier(*kerasllm.load("unsafe-replies"), pairs=True)
        >>> part.calibrate(safe_pairs, false_positive_rate=0.1)
        0.71
        >>> filter = kerasllm.safety.Filter(part, log="decisions.jsonl")
    """

    name = "classifier"

    def __init__(
        self,
        model: SequenceClassifier,
        tokenizer: Tokenizer,
        unsafe: Sequence[str] | None = None,
        *,
        threshold: float = 0.5,
        pairs: bool = False,
    ):
        if not isinstance(model, SequenceClassifier) or model.problem == "regression":
            raise TypeError(f"`TextClassifier` needs a SequenceClassifier with labels, got {type(model).__name__}.")
        names = label_names_of(model)
        self.unsafe = [name for name in names if name.lower() in UNSAFE_LABELS] if unsafe is None else list(unsafe)
        if not self.unsafe or not set(self.unsafe) <= set(names):
            raise ValueError(
                f"`unsafe` is a list of labels of the classifier, which has {', '.join(names)}; got "
                f"{', '.join(map(str, self.unsafe)) or 'none'}."
            )
        self._model, self._tokenizer = model, as_tokenizer(tokenizer)
        self.threshold, self.pairs = real_number("threshold", threshold), pairs

    def scores(self, texts: Sequence[str | tuple[str, str]], batch_size: int = 32) -> np.ndarray:
        """How probable it is that texts, or the replies of pairs, are unsafe: float64 (N,)."""
        found = classify(self._model, self._tokenizer, list(texts), batch_size)
        by_label = np.array([[one.probabilities[name] for name in self.unsafe] for one in found])
        return by_label.max(axis=1) if self._model.problem == "multi_label" else by_label.sum(axis=1)

    def __call__(self, messages: Messages) -> str | None:
        text = text_of(messages[-1]).strip()
        if not text or (self.pairs and (messages[-1]["role"] != "assistant" or len(messages) < 2)):
            return None
        (score,) = self.scores([(text_of(messages[-2]).strip(), text) if self.pairs else text], batch_size=1)
        return f"{' or '.join(self.unsafe)}, {score:.0%}" if score > self.threshold else None

    def calibrate(self, texts: Sequence[str | tuple[str, str]], false_positive_rate: float = 0.1) -> float:
        """Sets the threshold so that so many of some safe texts are refused, at most.

        Args:
            texts: list of str, or of pairs, which are safe, and such as those to be judged.
            false_positive_rate: float, the share of them that may be refused.

        Returns:
            float, the threshold.

        Raises:
            ValueError: if there are too few texts for the rate, or it is not between 0 and 1.
        """
        self.threshold = threshold_at(self.scores(texts), false_positive_rate)
        return self.threshold


class GuardModel:
    """Refuses what a model that was trained to judge chats says is unsafe, such as Llama Guard.

    The model's chat template puts its question around the chat, and its answer is read: "unsafe", with categories
    behind it, or "safe". An answer that is neither refuses too, as nobody has said that the text is safe.

    Args:
        model: a `CausalLM`.
        tokenizer: its `Tokenizer`, with the chat template that asks.
        unsafe, safe: str, the words that say so; case does not matter. (ShieldGemma's are "Yes" and "No".)

    Raises:
        TypeError: for another model.
        ValueError: if there is no chat template.

    Example:
        >>> guard = kerasllm.safety.GuardModel(*kerasllm.load("Llama-Guard-3-8B"))
        >>> guard([{"role": "user", "content": "How do I pick my neighbour's lock?"}])
        'unsafe S2'

    Reference: Inan et al. 2023, "Llama Guard", https://arxiv.org/abs/2312.06674
    """

    name = "guard"

    def __init__(self, model: keras.Model, tokenizer: Tokenizer, *, unsafe: str = "unsafe", safe: str = "safe"):
        if not isinstance(model, CausalLM):
            raise TypeError(f"`GuardModel` needs a CausalLM, got {type(model).__name__}.")
        self._model, self._tokenizer = model, as_tokenizer(tokenizer)
        if self._tokenizer.chat_template is None:
            raise ValueError("The guard's tokenizer has no chat template, which would ask it whether a chat is safe.")
        self._verdicts = re.compile(rf"\b(?:({re.escape(unsafe)})|{re.escape(safe)})\b", re.IGNORECASE)

    def __call__(self, messages: Messages) -> str | None:
        # Templates of guards know these two roles alone; results of tools are for the model to read, as a user's words.
        chat_alone = [
            {"role": "assistant" if one["role"] == "assistant" else "user", "content": text_of(one)}
            for one in messages
            if one["role"] not in ("system", "developer") or one is messages[-1]
        ]
        options = {"sampler": "greedy", "shorten": True}
        answer = chat(self._model, self._tokenizer, _in_turn(chat_alone), _TOKENS_OF_A_VERDICT, **options)
        found = self._verdicts.search(answer)
        if found is None:
            return f"no verdict: {answer.strip()!r:.80}"
        return " ".join(answer.split()) if found[1] else None


def _in_turn(messages):
    """Messages of which each is of another role than the one before: those of one role are joined."""
    joined = messages[:1]
    for message in messages[1:]:
        if message["role"] == joined[-1]["role"]:
            joined[-1] = {**message, "content": f"{joined[-1]['content']}\n{message['content']}"}
        else:
            joined.append(message)
    return joined


def _visible(text):
    """A text in Unicode's plain forms, without characters that are not seen."""
    plain = unicodedata.normalize("NFKC", text)
    return "".join(letter for letter in plain if unicodedata.category(letter) != "Cf")


def _as_pattern(word):
    """A regular expression of a word as a whole, for text in lower case."""
    letters = _visible(word).casefold().split()
    if not letters:
        raise ValueError(f"A word of a blocklist has letters, got {word!r}.")
    first, last = letters[0][0], letters[-1][-1]
    before = r"(?<!\w)" if first.isalnum() and not _NO_SPACES.match(first) else ""
    after = r"(?!\w)" if last.isalnum() and not _NO_SPACES.match(last) else ""
    return before + r"\s+".join(map(re.escape, letters)) + after
