"""Which tokens may come next, and how likely, whichever sampler draws them: rules over the logits of each step.

`LogitsRule` is what a rule is, and what users make their own of. Those that `generate` has options for are in
`standard_rules.py`. Shapes: B batch, L places for prompt and continuation, V vocab.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable

import keras
from keras import ops


class LogitsRule:
    """What a text may go on with, said by changing the logits of the next token.

    A rule of one's own is a subclass, given to `generate`, `stream`, `chat` or `generate_ids` as `rules=[...]`. It may
    keep a state: a tensor, or a tuple or dict of them, each with a row for each text, or one row for all. The state is
    carried through the compiled loop, so `apply` and `advance` are written in `keras.ops`, and `advance` keeps shapes
    and dtypes. Settings are best the fields of a frozen dataclass: rules that are equal share what is compiled.

    Example:
        >>> import dataclasses
        >>> from keras import ops
        >>> @dataclasses.dataclass(frozen=True)
        ... class AtMost(kerasllm.generation.LogitsRule):
        ...     times: int  # that a token is drawn
        ...
        ...     def start(self, tokens, is_prompt, vocab_size):
        ...         return ops.zeros((len(tokens), vocab_size), "int32")
        ...
        ...     def apply(self, logits, counts):
        ...         return ops.where(counts < self.times, logits, -float("inf"))
        ...
        ...     def advance(self, counts, token):
        ...         return counts + ops.one_hot(token, ops.shape(counts)[1], dtype="int32")
        >>> kerasllm.generate(model, tokenizer, "Once upon a time", rules=[AtMost(2)])
    """

    @property
    def graph_key(self):
        """What `apply` and `advance` depend on apart from their arguments, a hashable: the rule itself. A rule that
        reads its settings in `start` alone may return its class, and then compiles nothing anew for other settings."""
        return self

    def tables(self, vocab_size):
        """Tensors that `apply` and `advance` get behind their arguments, a tuple: what is large and never changes."""
        return ()

    def start(self, tokens, is_prompt, vocab_size):
        """The state before the first draw.

        Args:
            tokens: int32 (B, L), prompts that all end at the same place, with places for what is drawn behind them.
            is_prompt: bool (B, L), which of these are tokens of a prompt.
            vocab_size: int, V.
        """
        return ()

    def apply(self, logits, state):
        """Logits as the rule leaves them, float32 (B, V): minus infinity for what must not be drawn. (Where all are,
        token 0 is.)"""
        return logits

    def apply_last(self, logits, state):
        """The same for the logits that are drawn from, which temperature has divided and top_k, top_p and min_p have
        filtered: the place of watermarks."""
        return logits

    def advance(self, state, token):
        """The state after a drawn token, int32 (B,). (For a text that has ended, it is 0 and means nothing.)"""
        return state


@dataclasses.dataclass(frozen=True)
class InOrder(LogitsRule):
    """Several rules as one.

    Args:
        rules: tuple of `LogitsRule`.
    """

    rules: tuple

    @property
    def graph_key(self):
        return tuple(rule.graph_key for rule in self.rules)

    def tables(self, vocab_size):
        return tuple(rule.tables(vocab_size) for rule in self.rules)

    def start(self, tokens, is_prompt, vocab_size):
        return tuple(rule.start(tokens, is_prompt, vocab_size) for rule in self.rules)

    def apply(self, logits, state, *tables):
        for rule, part, given in self._parts(state, tables):
            logits = rule.apply(logits, part, *given)
        return logits

    def apply_last(self, logits, state):
        for rule, part in zip(self.rules, state, strict=True):
            logits = rule.apply_last(logits, part)
        return logits

    def advance(self, state, token, *tables):
        return tuple(rule.advance(part, token, *given) for rule, part, given in self._parts(state, tables))

    def _parts(self, state, tables):
        return zip(self.rules, state, tables or [()] * len(self.rules), strict=True)


@dataclasses.dataclass(frozen=True)
class ByRow(LogitsRule):
    """A rule for each row, or none.

    Args:
        rules: tuple of B `LogitsRule` or None, all of one `graph_key`.
    """

    rules: tuple

    @property
    def _rule(self):
        """Any of them: they do the same to a state."""
        return next(rule for rule in self.rules if rule is not None)

    @property
    def graph_key(self):
        return ByRow, self._rule.graph_key

    def tables(self, vocab_size):
        return self._rule.tables(vocab_size)

    def start(self, tokens, is_prompt, vocab_size):
        rows = [
            (rule or self._rule).start(tokens[row : row + 1], is_prompt[row : row + 1], vocab_size)
            for row, rule in enumerate(self.rules)
        ]
        has_rule = ops.convert_to_tensor([[rule is not None] for rule in self.rules], "bool")
        return has_rule, keras.tree.map_structure(lambda *parts: ops.concatenate(parts), *rows)

    def apply(self, logits, state, *tables):
        has_rule, state = state
        return ops.where(has_rule, self._rule.apply(logits, state, *tables), logits)

    def apply_last(self, logits, state):
        has_rule, state = state
        return ops.where(has_rule, self._rule.apply_last(logits, state), logits)

    def advance(self, state, token, *tables):
        has_rule, state = state
        return has_rule, self._rule.advance(state, token, *tables)


def read_rules(rules, num_rows):
    """The rules that a user gives, as a tuple of `LogitsRule`.

    Args:
        rules: list of `LogitsRule`, for all rows; or a list of such lists, one for each row.
        num_rows: int.

    Raises:
        TypeError: if something is no rule, or not hashable.
        ValueError: if there are lists for another number of rows.
    """
    if isinstance(rules, LogitsRule | str) or not isinstance(rules, Iterable):
        raise TypeError(f"`rules` is a list of LogitsRules, or one such list for each prompt, got {rules!r:.80}.")
    rules = list(rules)
    if not any(isinstance(row, list | tuple) for row in rules):
        return _checked(rules)
    if len(rules) != num_rows:
        raise ValueError(f"`rules` has {len(rules)} lists for {num_rows} prompts: give one list for each.")
    columns = {}
    for row, given in enumerate(rules):
        if not isinstance(given, list | tuple):
            raise TypeError(f"`rules` for each prompt are lists of LogitsRules, got {given!r:.80} for prompt {row}.")
        count = Counter()
        for rule in _checked(given):
            count[rule.graph_key] += 1
            column = rule.graph_key, count[rule.graph_key]
            columns.setdefault(column, [None] * num_rows)[row] = rule
    return tuple(ByRow(tuple(column)) for column in columns.values())


def _checked(rules):
    for rule in rules:
        if not isinstance(rule, LogitsRule):
            raise TypeError(f"`rules` are instances of kerasllm.generation.LogitsRule, got {rule!r:.80}.")
        try:
            hash(rule.graph_key)
        except TypeError as error:
            raise TypeError(
                f"A rule must be hashable, and {type(rule).__name__} is not: make it a frozen dataclass of numbers, "
                "strings and tuples."
            ) from error
    return tuple(rules)
