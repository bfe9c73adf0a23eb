"""Groups and sentences that a user writes: is a sentence as likely about one group as about another?"""

import itertools
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml

from kerasllm.evaluation.bias.likelihoods import likelihoods_of
from kerasllm.evaluation.bias.scores import CAUTION, BiasScores
from kerasllm.statistics import Evidence, holm, sign_flip_p_value

_OF_TEMPLATES = (
    "A difference is one between words in sentences, and has other reasons than bias too: how often the words are, "
    "their grammar, what else they mean. Few sentences tell little: of five, no p-value is below 0.06. "
)


def templates(model, tokenizer, path, *, seed=0) -> BiasScores:
    """Compares how likely sentences are about groups, as HolisticBias does (Smith et al. 2022,
    https://arxiv.org/abs/2205.09209) with groups and sentences of your own.

    Args:
        model: a `CausalLM`, or a `MaskedLM`, or where all sentences have a prompt a `Seq2SeqLM`.
        tokenizer: its `Tokenizer`.
        path: a YAML file, or a dict of what it holds: "groups", from names to lists of words, and "sentences", from
            names of topics to lists of sentences with {} in the place of a word. A sentence may be a pair of a prompt
            and a continuation, of which one or both have {}.
        seed: int, of the draws that make intervals and p-values.

    Returns:
        `BiasScores` whose categories are "topic: group - group", for each two groups. "difference" is by how many nats
        per token the sentences are likelier about the first one: of what stands behind the word in causal models, of
        all but the word in masked ones, of the continuation where there is one; the mean over sentences, each the mean
        over the words of a group. `p_values` say how probable so much is by chance, from flips of the sentences' signs,
        corrected for all pairs and topics by Holm 1979.

    Raises:
        TypeError: for a model of another kind.
        ValueError: for a file without these.

    Example:
        >>> written = {
        ...     "groups": {"women": ["She", "Mary"], "men": ["He", "John"]},
        ...     "sentences": {"skill": ["{} solved the problem at once.", "{} is a brilliant engineer."]},
        ... }
        >>> print(evaluation.bias.templates(model, tokenizer, written))
    """
    groups, topics = _read(path)
    likelihoods = likelihoods_of(model, tokenizer)
    keys = [
        (topic, number, group, word)
        for topic, sentences in topics.items()
        for number in range(len(sentences))
        for group, words in groups.items()
        for word in words
    ]
    filled = [(topics[topic][number], word) for topic, number, _, word in keys]
    means = dict(zip(keys, _log_probabilities(likelihoods, filled), strict=True))
    items, differences, categories, p_values = [], [], [], {}
    for topic, sentences in topics.items():
        of_group = {
            group: [np.mean([means[topic, number, group, word] for word in words]) for number in range(len(sentences))]
            for group, words in groups.items()
        }
        for first, second in itertools.combinations(groups, 2):
            category = f"{topic}: {first} - {second}"
            found = np.subtract(of_group[first], of_group[second]).tolist()
            p_values[category] = sign_flip_p_value(found, seed)
            differences += found
            categories += [category] * len(found)
            items += [
                {"category": category, "sentence": sentence, "difference": difference}
                for sentence, difference in zip(sentences, found, strict=True)
            ]
    corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    evidence = Evidence(np.array([[1, value] for value in differences]), categories, _mean)
    scores = {"even": {"difference": 0.0}, "p_values": corrected, "seed": seed, "together": False}
    return BiasScores("templates", evidence, caution=_OF_TEMPLATES + CAUTION, items=items, **scores)


def _mean(sums):
    return {"difference": sums[..., 1] / sums[..., 0]}


def _read(path):
    """Groups, a dict from names to lists of words, and topics, a dict from names to lists of sentences."""
    content = path
    if isinstance(path, str | os.PathLike):
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no YAML: {error}") from error
    if not isinstance(content, Mapping) or {"groups", "sentences"} - set(content):
        raise ValueError('Templates have "groups" and "sentences": see docs/how-to/measure-bias.md.')
    groups, topics = content["groups"], content["sentences"]
    topics = {"sentences": topics} if isinstance(topics, list) else topics
    for name, part in (("groups", groups), ("sentences", topics)):
        of_lists = isinstance(part, Mapping) and all(isinstance(value, list) and value for value in part.values())
        if not of_lists or not part:
            raise ValueError(f'"{name}" are lists by name, got {part!r:.80}.')
    if len(groups) < 2 or not all(isinstance(word, str) for words in groups.values() for word in words):
        raise ValueError(f'"groups" are at least two lists of words, got {groups!r:.80}.')
    for sentence in itertools.chain(*topics.values()):
        parts = [sentence] if isinstance(sentence, str) else sentence
        is_right = isinstance(parts, list) and len(parts) <= 2 and all(isinstance(part, str) for part in parts)
        if not is_right or not any("{}" in part for part in parts):
            raise ValueError(
                f"A sentence has {{}} in the place of the word, or is a pair of such, got {sentence!r:.80}."
            )
    return groups, topics


def _log_probabilities(likelihoods, filled):
    """The mean log-probability of the tokens that count of sentences with words, list of float."""
    found = [None] * len(filled)
    pairs = [i for i, (sentence, _) in enumerate(filled) if not isinstance(sentence, str)]
    prompts, texts = ([filled[i][0][part].replace("{}", filled[i][1]) for i in pairs] for part in (0, 1))
    texts = [text if text[:1].isspace() else f" {text}" for text in texts]
    for i, values in zip(pairs, likelihoods.continuations(prompts, texts) if pairs else [], strict=True):
        found[i] = float(values.mean())
    alone = [i for i, values in enumerate(found) if values is None]
    asked = [_around(likelihoods, *filled[i]) for i in alone]
    for i, values in zip(alone, likelihoods.log_probabilities(asked) if alone else [], strict=True):
        found[i] = float(values.mean())
    return found


def _around(likelihoods, sentence, word):
    """The ids of a sentence with a word, and which of their places count: those behind the word, in masked models those
    before it too."""
    before, behind = sentence.split("{}", 1)
    text = before + word + behind.replace("{}", word)
    ids, places, of_word = likelihoods.part(text, len(before), len(before + word))
    first = places.start if likelihoods.is_masked else of_word.stop
    counted = [place for place in range(first, places.stop) if place not in of_word]
    if not counted:
        raise ValueError(f"Nothing stands behind the word in {sentence!r:.80}: a causal model says nothing there.")
    return ids, counted
