"""Texts that are held to tables of tokens, inside of the compiled loop.

Shapes: B batch, V vocab, K tables, N entries of all of them.
"""

import dataclasses

import numpy as np
from keras import ops

from kerasllm.generation.constraints.automata import choice_automaton, token_table
from kerasllm.generation.constraints.patterns import pattern_automaton
from kerasllm.generation.constraints.vocabulary import check_ends, kept, token_bytes
from kerasllm.generation.rules import LogitsRule

LOWEST = -1e30  # what a token has that other rules rule out; it is drawn where no other may follow
NO_LIMIT = 2**30
_SMALLEST, _SMALLEST_WITHIN = 2**14, 64  # Sizes are powers of two, so that the loop is seldom compiled anew.


@dataclasses.dataclass(frozen=True, eq=False)
class FollowsTables(LogitsRule):
    """Only tokens that a table has follow, and an end token where a text may end.

    It is to be the last of several rules: what they leave nothing of goes on as the table says.

    Args:
        joined: from `join`.
        which: int32 (B,) or int, the table of each text.
        limits: int32 (B,) or int: so many tokens may be drawn, in which a text is to end. `NO_LIMIT` lets it be cut.
    """

    joined: tuple
    which: object = 0
    limits: object = NO_LIMIT

    @property
    def graph_key(self):
        return type(self)

    def tables(self, vocab_size):
        return self.joined[:-1]

    def start(self, tokens, is_prompt, vocab_size):
        zeros = ops.zeros_like(tokens[:, 0])
        which = zeros + ops.cast(self.which, "int32")
        return {"at": ops.take(self.joined[-1], which), "which": which, "left": zeros + ops.cast(self.limits, "int32")}

    def apply(self, logits, state, following, kinds, within):
        kinds = ops.take(kinds, state["which"], axis=0)
        behind = ops.take(following, state["at"][:, None] + kinds)
        within = ops.take(within, state["which"], axis=0)
        left = ops.clip(state["left"] - 1, 0, within.shape[1] - 1)
        end = ops.take_along_axis(within, left[:, None], axis=1)
        allowed = ops.logical_and(behind >= 0, behind < end)
        return ops.where(allowed, ops.maximum(logits, LOWEST), -float("inf"))

    def advance(self, state, token, following, kinds, within):
        kind = ops.take(ops.reshape(kinds, (-1,)), state["which"] * kinds.shape[1] + ops.maximum(token, 0))
        behind = ops.take(following, state["at"] + kind)
        return {**state, "at": ops.maximum(behind, 0), "left": state["left"] - 1}


class TableConstraint:
    """What can be said by a table: a regular expression, perhaps that of a JSON schema, or choices."""

    def __init__(self, kind, value, tokenizer, must_end=False):
        self._kind, self._value, self._tokenizer, self._must_end = kind, value, tokenizer, must_end
        self.table = self._table(False)

    def begin(self, prompts, limits, end_ids, vocab_size):
        """The rule for some texts, and None, as nothing is to be looked at between tokens.

        Args:
            prompts: list of lists of int, token ids.
            limits: list of int, the most new tokens of each.
            end_ids: list of int.
            vocab_size: int, V, of the model.
        """
        check_ends(end_ids, self._kind)
        tokens, first = token_bytes(self._tokenizer)
        which = np.array([tokens != first and not self._tokenizer.decode(ids) for ids in prompts], "int32")
        tables = [self.table, *([self._table(True)] if which.any() else [])]
        fewest = max(table.fewest_tokens for table in tables)
        if self._must_end and fewest > min(limits):
            raise ValueError(
                f"`{self._kind}` asks for {fewest} tokens or more, which do not fit in {min(limits)} new ones: set "
                "max_new_tokens."
            )
        key = "joined", self._kind, self._value, len(tables), tuple(end_ids), vocab_size
        joined = kept(self._tokenizer, key, lambda: join(tables, end_ids, vocab_size))
        return FollowsTables(joined, which, np.array(limits, "int32") if self._must_end else NO_LIMIT), None

    def _table(self, begins_text):
        def make():
            tokens, first = token_bytes(self._tokenizer)
            automaton = choice_automaton if self._kind == "choices" else pattern_automaton
            try:
                return token_table(automaton(self._value), tokens, first if begins_text else None)
            except ValueError as error:
                if str(error).startswith("`"):
                    raise
                raise ValueError(f"`{self._kind}` {self._value!r:.200}: {error}") from None

        return kept(self._tokenizer, (self._kind, self._value, begins_text), make)


def join(tables, end_ids, vocab_size):
    """Tables as `FollowsTables` takes them.

    A state is named by the place of its row among all entries, so that to look a token up is one gather.

    Args:
        tables: list of `TokenTable`.
        end_ids: list of int, which end a text.
        vocab_size: int, V, of the model.

    Returns:
        int32 tensors: entries (N,), the state after a token of each kind, or -1; kinds (K, V); for each table, of how
        many tokens left, the end of the states that need no more (K, D); and the states in which texts begin, (K,).
    """
    end_ids = [token for token in end_ids if token < vocab_size]
    entries, begin = [], 0
    kinds = np.zeros((len(tables), vocab_size), "int32")
    depth = _power(_SMALLEST_WITHIN, max(len(table.within) for table in tables))
    within, starts = np.zeros((len(tables), depth), "int32"), []
    for number, table in enumerate(tables):
        S, C = table.following.shape
        width = C + 1  # with a kind for end tokens, which stay where a text may end
        rows = np.full((S, width), -1, "int32")
        rows[:, :C] = np.where(table.following < 0, -1, begin + table.following * width)
        ends = np.arange(table.within[0])
        rows[ends, C] = begin + ends * width
        entries.append(rows.ravel())
        known = min(vocab_size, len(table.kinds))
        kinds[number, :known] = table.kinds[:known]
        kinds[number, end_ids] = C
        within[number] = begin + width * np.append(table.within, [S] * (depth - len(table.within)))
        starts.append(begin + table.start * width)
        begin += rows.size
    entries.append(np.full(_power(_SMALLEST, begin) - begin, -1, "int32"))
    arrays = np.concatenate(entries), kinds, within, np.array(starts, "int32")
    return tuple(ops.convert_to_tensor(array, "int32") for array in arrays)


def _power(least, size):
    while least < size:
        least *= 2
    return least
