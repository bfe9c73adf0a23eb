"""What texts may be, as a table of states: over bytes, and over the tokens of a vocabulary.

Tokens that lead from each state to the same one are alike, and most of a vocabulary is: so a table has a column for
each kind of tokens, and not for each token. States are in the order of how many tokens a text lacks at least, so that
those from which it can end in time are the first ones.

Reference: Willard and Louf 2023, https://arxiv.org/abs/2307.09702. Shapes: S states, C kinds of tokens, V vocab.
"""

import dataclasses

import numpy as np

MOST_ENTRIES = 2**28  # of a table over tokens: a gigabyte


@dataclasses.dataclass(frozen=True, eq=False)
class Automaton:
    """Which bytes may follow.

    Args:
        following: int32 (S, 256), the state after each byte, or -1. A text begins in state 0.
        ends: bool (S,), where a text may end.
    """

    following: np.ndarray
    ends: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class TokenTable:
    """Which tokens may follow.

    Args:
        following: int32 (S, C), the state after a token of each kind, or -1. Kind 0 has the tokens that never follow.
        kinds: int32 (V,), of which kind each token is.
        within: int32 (D,), how many states lack at most so many tokens. Those that lack none are where a text may end.
        start: int, the state in which a text begins.
    """

    following: np.ndarray
    kinds: np.ndarray
    within: np.ndarray
    start: int

    @property
    def fewest_tokens(self):
        """How many tokens the shortest text has."""
        return int(np.searchsorted(self.within, self.start, side="right"))


def choice_automaton(texts):
    """The `Automaton` that takes some texts (list of str) and no others."""
    rows, ends = [[-1] * 256], [False]
    for text in texts:
        state = 0
        for byte in text.encode():
            if rows[state][byte] < 0:
                rows[state][byte] = len(rows)
                rows.append([-1] * 256)
                ends.append(False)
            state = rows[state][byte]
        ends[state] = True
    return Automaton(np.array(rows, "int32"), np.array(ends))


def token_table(automaton, tokens, first=None):
    """The `TokenTable` of an automaton for a vocabulary.

    Args:
        automaton: Automaton.
        tokens: list of V bytes, or None for what writes nothing.
        first: the same for the first token of a text, where that writes something else; or None.

    Raises:
        ValueError: if no text can be written with these tokens, or the table is too large.
    """
    columns, kinds = _columns(automaton.following, tokens)
    ends, start = np.append(automaton.ends, False), 0
    if first is not None:  # There is one more state, in which texts begin, and which none comes back to.
        begun, of_first = _columns(automaton.following, first)
        pairs, kinds = np.unique(np.stack([kinds, begun[0, of_first]]), axis=1, return_inverse=True)
        kinds = kinds.ravel()
        columns = np.append(columns[:, pairs[0]], pairs[1:], axis=0)
        ends, start = np.append(ends, ends[0]), len(columns) - 1
    lacking = _lacking(columns, ends)
    kept = np.flatnonzero(_reached(columns, start) & (lacking >= 0))
    if start not in kept:
        raise ValueError("No text that is asked for can be written with the tokenizer's vocabulary.")
    kept = kept[np.argsort(lacking[kept], kind="stable")]
    number = np.full(len(columns), -1, "int32")
    number[kept] = np.arange(len(kept))
    following, alike = _unique_columns(np.insert(number[columns[kept]], 0, -1, axis=1))
    if following.size > MOST_ENTRIES:
        S, C = following.shape
        raise ValueError(
            f"What is asked for takes {S} states and {C} kinds of tokens, too large a table: ask for less, such as "
            "shorter repetitions."
        )
    within = np.cumsum(np.bincount(lacking[kept])).astype("int32")
    kinds = alike[1:][kinds].astype("int32")
    return TokenTable(np.ascontiguousarray(following), kinds, within, int(number[start]))


def _columns(following, tokens):
    """Where tokens lead, (S + 1, C) with a state for nowhere, and of which column each token is.

    Tokens are read byte by byte, all at once: after so many bytes most are where others are.
    """
    S = len(following)
    steps = np.append(np.where(following < 0, S, following), np.full((1, 256), S), axis=0).astype("int32")
    steps, byte_kinds = _unique_columns(steps)
    nowhere, nothing = np.full(S + 1, S, "int32"), np.arange(S + 1, dtype="int32")
    columns, known = [nowhere, nothing], {nowhere.tobytes(): 0, nothing.tobytes(): 1}
    lengths = np.array([len(token or b"") for token in tokens])
    kinds = np.array([token is not None for token in tokens], "int64")
    letters = np.zeros((len(tokens), lengths.max(initial=1)), "uint8")
    for row, token in zip(letters, tokens, strict=True):
        row[: len(token or b"")] = np.frombuffer(token or b"", "uint8")
    for place in range(letters.shape[1]):
        rows = np.flatnonzero((lengths > place) & (kinds > 0))
        pairs, which = np.unique(kinds[rows] * steps.shape[1] + byte_kinds[letters[rows, place]], return_inverse=True)
        found = []
        for kind, step in zip(*np.divmod(pairs, steps.shape[1]), strict=True):
            column = steps[columns[kind], step]
            found.append(known.setdefault(column.tobytes(), len(columns)))
            if found[-1] == len(columns):
                columns.append(column)
        kinds[rows] = np.array(found, "int64")[which]
    used, kinds = np.unique(kinds, return_inverse=True)
    return np.stack([columns[kind] for kind in used], axis=1), kinds


def _unique_columns(table):
    """Columns that differ, the first one first, and for each column which of them it is."""
    known = {}
    which = np.array([known.setdefault(column.tobytes(), len(known)) for column in np.ascontiguousarray(table.T)])
    return table[:, np.unique(which, return_index=True)[1]], which


def _reached(columns, start):
    """Which states are reached by tokens."""
    reached, new = np.zeros(len(columns), bool), np.array([start])
    while new.size:
        reached[new] = True
        new = np.unique(columns[new])
        new = new[~reached[new]]
    return reached


def _lacking(columns, ends):
    """How many more tokens a text needs at least from each state; -1 where it cannot end."""
    lacking = np.where(ends, 0, -1)
    for count in range(len(columns)):
        new = (lacking < 0) & (lacking[columns] == count).any(axis=1)
        if not new.any():
            break
        lacking[new] = count + 1
    return lacking
