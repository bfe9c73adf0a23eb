"""Byte-pair merging of all words at once.

The definition merges one pair of a word at a time: of the lowest rank, and the leftmost of equals. Here every round
merges all pairs that the definition could not have changed before their turn came, so the tokens are the same and the
rounds few.

Shapes: N tokens of all words, one word after the other.
"""

import numpy as np
import tensorflow as tf

_PLACES = 2**32  # ranks are compared first, places in the text second
_NEVER = np.iinfo("int64").max


class Merges:
    """The merge rules of a BPE vocabulary.

    Args:
        rules: list of (left, right, merged) token ids, the first to be applied first.
        lengths: int array, the number of initial symbols in each token, by id.
    """

    def __init__(self, rules, lengths):
        left, right, merged = np.array(rules, "int64").reshape(-1, 3).T
        self._width = len(lengths)
        self._reach = int(lengths[merged].max(initial=1))
        keys = left * self._width + right
        order = np.argsort(keys)
        self._keys = tf.constant(keys[order])
        self._ranks = tf.constant(order.astype("int32"))
        self._merged = tf.constant(np.append(merged, 0).astype("int32"))
        self._none = len(rules)
        # A rule is in order if what it makes is merged by later rules only. Other rules apply one place at a time.
        first_use = np.full(self._width, self._none)
        np.minimum.at(first_use, np.concatenate([left, right]), np.tile(np.arange(self._none), 2))
        in_order = first_use[merged] > np.arange(self._none)
        self._one_at_a_time = None if in_order.all() else tf.constant(np.append(~in_order, False))

    def __call__(self, tokens, words):
        """Merges until no rule applies.

        Args:
            tokens: int32 (N,), the initial symbols.
            words: int32 (N,), ascending from 0: the number of the word that each belongs to.

        Returns:
            tokens and words of what they become, int32 (n,) each.
        """
        if not self._none:
            return tokens, words
        longest = tf.reduce_max(tf.math.bincount(words, dtype=tf.int32))

        def is_unfinished(tokens, words, ranks):
            return tf.reduce_any(ranks < self._none)

        def merge(tokens, words, ranks):
            chosen = self._choose(ranks, words, longest)
            tokens = tf.where(chosen, tf.gather(self._merged, ranks), tokens)
            kept = tf.logical_not(_shifted(chosen, -1, False))
            tokens, words = tf.boolean_mask(tokens, kept), tf.boolean_mask(words, kept)
            return tokens, words, self._find_ranks(tokens, words)

        shapes = (tf.TensorShape([None]),) * 3
        state = tokens, words, self._find_ranks(tokens, words)
        tokens, words, _ = tf.while_loop(is_unfinished, merge, state, shape_invariants=shapes)
        return tokens, words

    def _find_ranks(self, tokens, words):
        """The rank of the pair that begins at each place, int32 (N,)."""
        left = tf.cast(tokens, tf.int64)
        key = left * self._width + _shifted(left, 1, 0)
        place = tf.minimum(tf.searchsorted(self._keys, key), self._none - 1)
        known = (tf.gather(self._keys, place) == key) & (words == _shifted(words, 1, -1))
        return tf.where(known, tf.gather(self._ranks, place), self._none)

    def _choose(self, ranks, words, longest):
        """Which pairs are merged in this round, bool (N,)."""
        places = tf.range(tf.size(ranks))
        priority = tf.cast(ranks, tf.int64) * _PLACES
        if self._one_at_a_time is not None:
            place_counts = tf.gather(self._one_at_a_time, ranks)
            priority += tf.cast(tf.where(place_counts, places, 0), tf.int64)
        first = tf.cond(
            longest > 2 * self._reach,
            lambda: self._first_around(priority, words),
            lambda: tf.gather(tf.math.segment_min(priority, words), words),
        )
        first = (priority == first) & (ranks < self._none)
        # In a run such as "aaaa" the pairs overlap: every second one is merged, counted from the run's beginning,
        # and none while that has to wait.
        begins = ranks != _shifted(ranks, -1, -1)
        begin = tf.gather(tf.boolean_mask(places, begins), tf.cumsum(tf.cast(begins, tf.int32)) - 1)
        return first & tf.gather(first, begin) & ((places - begin) % 2 == 0)

    def _first_around(self, priority, words):
        """The lowest of `priority` within reach: an earlier merge further off changes nothing here, as it would have to
        grow into a token longer than there is any."""
        before = after = priority
        span = 1
        while span < self._reach:
            ahead = tf.where(_shifted(words, span, -1) == words, _shifted(after, span, _NEVER), _NEVER)
            behind = tf.where(_shifted(words, -span, -1) == words, _shifted(before, -span, _NEVER), _NEVER)
            after, before = tf.minimum(after, ahead), tf.minimum(before, behind)
            span *= 2
        return tf.minimum(before, after)


def _shifted(x, places, fill):
    """At each place of `x` (N,) what stands so many places further on, or further back; `fill` past the ends."""
    if places > 0:
        return tf.pad(x, [[0, places]], constant_values=fill)[places:]
    return tf.pad(x, [[-places, 0]], constant_values=fill)[: tf.size(x)]
