"""Tasks made of texts: the last word of a passage, and a sentence to be found again in a long text."""

import functools
import itertools
import re
from collections import Counter

import numpy as np

from kerasllm.evaluation.items import drawn_items
from kerasllm.evaluation.tasks.questions import Question

_COMMON = 100  # of the commonest words none is asked for
_FEWEST, _MOST = 50, 150  # words of a passage before its last sentence
_SENTENCE = range(5, 41)  # words
_CHARACTERS = 20_000_000  # more of a text is not read
_SHARES = (1 / 8, 1 / 4, 1 / 2, 1)
_DEPTHS = (0, 25, 50, 75, 100)
_CITIES = """
Lisbon Vienna Nairobi Kyoto Lima Oslo Cairo Hanoi Quito Dublin Accra Sofia Tunis Havana Riga Manila Bergen Turin Porto
"""


def cloze(conditions):
    """The last word of a sentence, which stands earlier in the passage and not in that sentence, so that the passage is
    needed, as in LAMBADA (Paperno et al. 2016, https://arxiv.org/abs/1606.06031).

    There, people chose passages in which the sentence alone did not tell the word; here the rules are: the word has
    four letters or more, is none of the text's hundred commonest, and stands before the last sentence of a passage of
    50 to 150 words. The control is the sentence alone.
    """
    documents = [_sentences(document) for document in _read(conditions)]
    counts = Counter(word.lower() for sentences in documents for s in sentences for word in re.findall(r"\w+", s))
    common = {word for word, _ in counts.most_common(_COMMON)}
    found = [question for sentences in documents for question in _passages(sentences, common)]
    if not found:
        raise ValueError("cloze finds no passage in this text: give a longer one, of whole sentences.")
    encode = conditions.respondent.encode
    some = drawn_items(found, 3 * conditions.limit, conditions.seed)
    questions = [q for q in some if len(encode(q.context + q.endings[0])) <= conditions.context]
    if not questions:
        raise ValueError(f"cloze finds no passage of at most {conditions.context} tokens: its passages have 50 words.")
    return drawn_items(questions, conditions.limit, conditions.seed)


def _passages(sentences, common):
    """Questions of the sentences of a document, whose passages do not overlap."""
    begin = 0
    for number, sentence in enumerate(sentences):
        words = [re.findall(r"\w+", s) for s in sentences[begin : number + 1]]
        while sum(map(len, words[:-1])) > _MOST:
            begin, words = begin + 1, words[1:]
        before = {word.lower() for some in words[:-1] for word in some}
        match = re.search(r" (\w+)[.!?]$", sentence)
        if not match or len(words[-1]) not in _SENTENCE or sum(map(len, words[:-1])) < _FEWEST:
            continue
        word, rest = match[1], sentence[: match.start()]
        known = {w.lower() for w in words[-1][:-1]}
        if len(word) >= 4 and word.isalpha() and word.lower() in before - known - common:
            context = " ".join([*sentences[begin:number], rest])
            yield Question(context, (f" {word}",), control=rest)
            begin = number + 1


def needle(conditions):
    """A number told in one sentence of a long text and asked for at its end, by how long the text is and how deep the
    sentence stands in it (Kamradt 2023, https://github.com/gkamradt/LLMTest_NeedleInAHaystack)."""
    rng = np.random.default_rng(conditions.seed)
    encode = functools.cache(functools.partial(conditions.respondent.encode, bare=True))
    hay = [f" {s}" for s in itertools.chain.from_iterable(map(_sentences, _read(conditions)))]
    if len(hay) < 20:
        raise ValueError("needle needs a text of twenty sentences or more.")
    lengths = sorted({int(conditions.context * share) for share in _SHARES if conditions.context * share >= 64})
    if not lengths:
        raise ValueError(f"needle needs a context of 64 tokens or more, got {conditions.context}.")
    cells, start = list(itertools.product(lengths, _DEPTHS)), conditions.respondent.encode("")
    questions = []
    for place in range(conditions.limit):
        length, depth = cells[place % len(cells)]
        city, number = rng.choice(_CITIES.split()), rng.integers(1000, 10_000)
        asked = encode(f" The secret number of {city} is")
        told = encode(f" The secret number of {city} is {number}.")
        ending = told[len(asked) :]
        texts = _hay(hay, int(rng.integers(len(hay))), length - len([*start, *told, *asked, *ending]), encode)
        at = round(len(texts) * depth / 100)
        context = [*start, *itertools.chain(*texts[:at], told, *texts[at:]), *asked]
        questions.append(Question(context, (ending,), (f"{length} tokens", f"{depth} %")))
    return questions


def _hay(hay, begin, length, encode):
    """The ids of sentences, from one of them on, of no more tokens than `length`."""
    found = []
    for number in range(length):
        ids = encode(hay[(begin + number) % len(hay)])
        if len(ids) <= length:
            found.append(ids)
            length -= len(ids)
        if length < _SENTENCE[0]:
            break
    return found


def _read(conditions):
    """Documents, to a bounded number of characters."""
    left = _CHARACTERS
    for document in conditions.texts():
        yield document[:left]
        left -= len(document)
        if left <= 0:
            return


def _sentences(document):
    """The sentences of a document, of such lengths as sentences have."""
    sentences = re.split(r"(?<=[.!?]) ", " ".join(document.split()))
    return [sentence for sentence in sentences if len(sentence.split()) <= _SENTENCE[-1]]
