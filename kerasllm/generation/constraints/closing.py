"""The end of a text that a grammar holds, within so many tokens: a way to it is known at any time.

Where a token that was drawn leads so far that the end cannot be reached any more, the way's next token takes its place.
"""

import numpy as np

# A bit more than what one token makes the way to the end longer: the next look is the later, the more is left.
_GROWTH = 32
_IN_STRING = b"~"  # which stands in JSON's strings alone
_FIRST = (b"}", b"]", b'"')
_THEN = b",:.-0123456789"


class Ends:
    """Finds ways to an end.

    Args:
        tokens: list of bytes or None, by id.
        end_ids: list of int, which end a text.
        vocab_size: int, V.
    """

    def __init__(self, tokens, end_ids, vocab_size):
        self._outside = np.full(vocab_size, 2.0**20)
        for index, token in enumerate(tokens[:vocab_size]):
            if token is not None and index not in end_ids:
                self._outside[index] = _rank(token)
        self._inside = self._outside.copy()
        self._inside[[i for i, token in enumerate(tokens[:vocab_size]) if token == b'"']] = -1
        self._in_string = next((index for index, token in enumerate(tokens) if token == _IN_STRING), None)

    def way(self, matcher, most):
        """Ids that end a text, perhaps none, or None where none were found of so many."""
        ids, matcher = [], matcher.deep_copy()
        while not matcher.is_accepting():
            if len(ids) >= most or matcher.is_error():
                return None
            more = matcher.compute_ff_tokens() or [self._next(matcher.compute_bitmask())]
            ids += more
            if not matcher.consume_tokens(more):
                return None
        return ids if len(ids) <= most else None

    def _next(self, mask):
        allowed = np.flatnonzero(np.unpackbits(np.frombuffer(mask, "uint8"), bitorder="little"))
        allowed = allowed[allowed < len(self._outside)]
        ranks = self._inside if self._in_string in allowed else self._outside
        return int(allowed[ranks[allowed].argmin()]) if allowed.size else 0


def _rank(token):
    if token in _FIRST:
        return _FIRST.index(token)
    if len(token) == 1 and token in _THEN:
        return 4 + _THEN.index(token)
    return 64 + 256 * len(token) + token[0]


class Closing:
    """What sees to it that one text ends in time.

    Args:
        ends: Ends.
        matcher: of llguidance's, at the beginning.
        limit: int, the most tokens.
    """

    def __init__(self, ends, matcher, limit):
        self._ends, self._steps = ends, 1
        self.way = ends.way(matcher, limit)

    def checked(self, matcher, left):
        """None where a text can still end in so many tokens; else the token that takes the place of the last one, which
        the matcher then has read in its place."""
        self._steps -= 1
        before, self.way = self.way, None
        if self._steps > 0:
            return None
        self._steps = 1
        way = self._ends.way(matcher, left)
        if way is None and before:
            matcher.rollback(1)
            matcher.consume_token(before[0])
            self.way = before[1:]
            return before[0]
        self.way = way
        if way is not None:
            self._steps = max(1, (left - len(way)) // _GROWTH)
        return None
