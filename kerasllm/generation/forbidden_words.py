"""Words that texts must not have: words, not tokens, so that no other spelling of them is left.

Shapes: B batch, L places for prompt and continuation.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
from keras import ops

from kerasllm import backend
from kerasllm.generation.constraints.automata import Automaton, token_table
from kerasllm.generation.constraints.tables import FollowsTables, join
from kerasllm.generation.constraints.vocabulary import kept, token_bytes

_WORD_BYTES = frozenset(b"0123456789_abcdefghijklmnopqrstuvwxyz")


@dataclasses.dataclass(frozen=True, eq=False)
class WithoutWords(FollowsTables):
    """Tokens that would end a forbidden word do not follow; one that a prompt has begun is not ended either."""

    def start(self, tokens, is_prompt, vocab_size):
        following, kinds, _, begins = self.joined
        state = super().start(tokens, is_prompt, vocab_size)

        def read(place, at):
            token = ops.take(tokens, place, axis=1)
            behind = ops.take(following, at + ops.take(kinds[0], token))
            behind = ops.where(behind < 0, begins[0], behind)  # a prompt may have the word
            return place + 1, ops.where(ops.take(is_prompt, place, axis=1), behind, at)

        length = ops.shape(tokens)[1]
        first = ops.convert_to_tensor(0, "int32"), state["at"]
        return {**state, "at": backend.while_loop(lambda place, at: place < length, read, first)[1]}


def without_words(words, tokenizer, end_ids, vocab_size, limit):
    """The rule that some words do not occur.

    Args:
        words: list of str: see `words_automaton`.
        tokenizer: Tokenizer.
        end_ids: list of int, which end a text.
        vocab_size: int, V, of the model.
        limit: int, where texts are cut, which is not to be behind a word that would have gone on.

    Raises:
        TypeError, ValueError: if they are no words.
    """
    if isinstance(words, str) or not isinstance(words, Iterable):
        raise TypeError(f"`forbidden` is a list of words, got {words!r:.80}.")
    words = tuple(words)
    if not words or not all(isinstance(word, str) and word.strip() == word != "" for word in words):
        raise ValueError(f"`forbidden` is a list of words without spaces around them, got {list(words)!r:.80}.")

    def make():
        return join([token_table(words_automaton(words), token_bytes(tokenizer)[0])], end_ids, vocab_size)

    return WithoutWords(kept(tokenizer, ("forbidden", words, tuple(end_ids), vocab_size), make), limits=limit)


def words_automaton(words):
    """The `Automaton` of all texts without some words, in whatever case their letters are.

    A word is one where no letter, digit or underscore of ASCII stands beside it: "cat" is none in "category", and a
    text that has begun with "cat" has to go on so. A word that ends with another character than these is ruled out
    before and within all others, as in Chinese, where nothing stands between words.

    Args:
        words: sequence of str, not empty.
    """
    children, complete = [{}], [False]
    for spelling in sorted({form for word in words for form in (word.lower(), word.upper(), word.title())}):
        node = 0
        for byte in spelling.encode().lower():
            node = children[node].setdefault(byte, len(children))
            if node == len(children):
                children.append({})
                complete.append(False)
        complete[node] = True

    # A state is all places within words where the text may stand; a word begins where no letter stands before it.
    states, following = [frozenset([0])], []
    numbers = {states[0]: 0}
    for state in states:
        row = np.full(256, -1, "int32")
        for byte in range(256):
            folded = byte + 32 if 65 <= byte <= 90 else byte
            goes_on = folded in _WORD_BYTES
            after = frozenset(children[node][folded] for node in state if folded in children[node])
            if not goes_on:
                if any(complete[node] for node in state | after):
                    continue
                after |= {0}
            if after not in numbers:
                numbers[after] = len(states)
                states.append(after)
            row[byte] = numbers[after]
        following.append(row)
    ends = np.array([not any(complete[node] for node in state) for state in states])
    return Automaton(np.stack(following), ends)
