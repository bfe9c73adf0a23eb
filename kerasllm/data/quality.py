"""Rules that tell documents worth learning from by their shape, in any language.

They follow Gopher (Rae et al. 2021, arXiv:2112.11446, table A1) and C4 (Raffel et al. 2019, arXiv:1910.10683, section
2.2), with their figures unless said otherwise here. Gopher's stop words are left out, being English.
"""

import functools

import numpy as np

from kerasllm.data.words import find_words, phrases, pieces

# Gopher removes shorter documents. Here they stay unless asked for, and no rule judges them by shares of so little.
ENOUGH_WORDS = 50
# In scripts without spaces a word of Gopher's is about two of ours, which are single characters.
_CHARACTERS_PER_WORD = 2
_BULLETS = ("•", "‣", "◦", "●", "○", "▪", "■", "* ", "- ", "· ")
_FREQUENT = {2: 0.20, 3: 0.18, 4: 0.16}
# Five points above Gopher's, whose words differ by case and by the punctuation at their ends.
_REPEATED = {5: 0.20, 6: 0.19, 7: 0.18, 8: 0.17, 9: 0.16, 10: 0.15}


class Measures:
    """A document and what the rules count in it, each when it is first asked for."""

    def __init__(self, text):
        self.text = text

    @functools.cached_property
    def words(self):
        """The `Words` of the text, one for each of its pieces."""
        return [find_words(piece) for piece in pieces(self.text)]

    @functools.cached_property
    def num_words(self):
        return sum(len(piece.hashes) for piece in self.words)

    @functools.cached_property
    def lines(self):
        """The lines that are not blank, without the space around them."""
        return [line for line in map(str.strip, self.text.split("\n")) if line]

    @functools.cached_property
    def distinct_words(self):
        """The `Words` of the text without the lines that stood before."""
        distinct = dict.fromkeys(self.lines)
        if len(distinct) == len(self.lines):
            return self.words
        return [find_words(piece) for piece in pieces("\n".join(distinct))]

    def phrase_share(self, length, covered):
        """The share of the characters, in words, that stand in phrases: covered(hashes, words) says which words do."""
        inside = total = 0
        for words in self.distinct_words:
            run = length * (_CHARACTERS_PER_WORD if words.unspaced > len(words.hashes) / 2 else 1)
            hashes = phrases(words.hashes, run)
            total += words.lengths.sum()
            if len(hashes):
                inside += np.dot(covered(hashes, run), words.lengths)
        return inside / max(total, 1)


def _garbled(measures):
    return measures.text.count("\N{REPLACEMENT CHARACTER}") > 0.01 * len(measures.text)


def _few_letters(measures):
    """By characters, where Gopher asks for a letter in 80 % of the words, signs that stand alone included."""
    letters = sum(words.letters + words.marks for words in measures.words)
    return letters < 0.4 * len("".join(measures.text.split()))


def _symbols(measures):
    ellipses = measures.text.count("...") + measures.text.count("…")
    return max(measures.text.count("#"), ellipses) > 0.1 * measures.num_words


def _word_length(measures):
    """Gopher's 3 to 10 letters, but from 2, as Vietnamese syllables and Hindi without its marks come near 3."""
    if 2 * sum(words.unspaced for words in measures.words) > measures.num_words:
        return False
    return not 2 <= sum(words.letters for words in measures.words) / measures.num_words <= 10


def _bullet_lines(measures):
    return sum(line.startswith(_BULLETS) for line in measures.lines) > 0.9 * len(measures.lines)


def _ellipsis_lines(measures):
    return sum(line.endswith(("...", "…")) for line in measures.lines) > 0.3 * len(measures.lines)


def _repeated_lines(measures):
    """By characters: by lines, plays go over Gopher's 30 %, as the names of the speakers are lines.

    A third, as refrains take up to 6 of a villanelle's 19 lines. Repeated paragraphs are repeated lines.
    """
    distinct = sum(map(len, dict.fromkeys(measures.lines)))
    return distinct < 2 / 3 * sum(map(len, measures.lines))


def _frequent_phrase(measures):
    def covered(hashes, run):
        values, counts = np.unique(hashes, return_counts=True)
        return _spread((hashes == values[counts.argmax()]) & (counts.max() > 1), run)

    return any(measures.phrase_share(length, covered) > most for length, most in _FREQUENT.items())


def _repeated_phrases(measures):
    def covered(hashes, run):
        repeated = np.ones(len(hashes), bool)
        repeated[np.unique(hashes, return_index=True)[1]] = False
        return _spread(repeated, run)

    least = min(_REPEATED.values())
    for length, most in _REPEATED.items():
        share = measures.phrase_share(length, covered)
        if share > most:
            return True
        if share <= least:  # longer phrases that are repeated are made of shorter ones
            return False
    return False


def _spread(phrase, run):
    """Which words stand in the phrases of `run` words that begin at some."""
    words = np.zeros(len(phrase) + run - 1, bool)
    for place in range(run):
        words[place : place + len(phrase)] |= phrase
    return words


# Rules by share, each a function from `Measures` to whether the document is to go.
SHARE_RULES = {
    "garbled": _garbled,
    "few_letters": _few_letters,
    "symbols": _symbols,
    "word_length": _word_length,
    "bullet_lines": _bullet_lines,
    "ellipsis_lines": _ellipsis_lines,
    "repeated_lines": _repeated_lines,
    "frequent_phrase": _frequent_phrase,
    "repeated_phrases": _repeated_phrases,
}
