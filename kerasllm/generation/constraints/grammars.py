"""Texts that are held to a JSON schema or a grammar by llguidance, which says between tokens what may follow.

Where a grammar leaves no choice, the compiled loop goes on: it is looked at again where there is one.
Reference: https://github.com/guidance-ai/llguidance. Shapes: B batch, V vocab, W words of 32 bits.
"""

from kerasllm.extras import optional
from kerasllm.generation.constraints.closing import Closing, Ends
from kerasllm.generation.constraints.masks import FollowsMasks, look_at
from kerasllm.generation.constraints.vocabulary import check_ends, kept, token_bytes

# As `json.dumps` writes, so that no text has spaces without end.
SPACING = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}


class GrammarConstraint:
    """What llguidance knows: a JSON schema (as JSON), or a grammar in the language of Lark.

    Raises:
        TypeError: if a grammar is no str.
        ValueError: if it is damaged, has a part that llguidance does not know, or nothing can meet it.
        ImportError: where llguidance is not installed.
    """

    def __init__(self, kind, value, tokenizer, must_end=False):
        optional("llguidance llguidance.numpy", "Text is held to a JSON schema or a grammar")
        self._kind, self._tokenizer, self._must_end = kind, tokenizer, must_end
        self._grammar = _grammar(kind, value)

    def begin(self, prompts, limits, end_ids, vocab_size):
        """The rule for some texts, and the `Guide` that fills its masks; arguments as for a `TableConstraint`."""
        texts = [self.text(limit, end_ids, vocab_size) for limit in limits]
        return FollowsMasks(), Guide(texts, end_ids, vocab_size)

    def text(self, limit, end_ids, vocab_size):
        """A `GuidedText` at its beginning.

        Raises:
            ValueError: if it cannot end, or not in time.
        """
        import llguidance

        check_ends(end_ids, self._kind)
        key = tuple(end_ids), vocab_size
        words = kept(self._tokenizer, ("words", *key), lambda: _words(self._tokenizer, *key))
        matcher = llguidance.LLMatcher(words, self._grammar, log_level=0)
        closing = None
        if self._must_end and not matcher.is_error():
            ends = kept(self._tokenizer, ("ends", *key), lambda: Ends(token_bytes(self._tokenizer)[0], *key))
            closing = Closing(ends, matcher, limit)
            if closing.way is None:
                raise ValueError(
                    f"No text that meets `{self._kind}` was found within {limit} new tokens: set max_new_tokens."
                )
        return GuidedText(matcher, limit, self._kind, closing)


class GuidedText:
    """One text on its way.

    Args:
        matcher: of llguidance's, at the beginning.
        limit: int, the most tokens of it.
        kind: str, for messages.
        closing: Closing or None, where it is to end in time.

    Attributes:
        forced: list of int, the tokens that come next; the matcher has read them already.
        has_ended: bool.
        failure: str or None, why it cannot go on: the vocabulary lacks what may follow, or the grammar is too large.
    """

    def __init__(self, matcher, limit, kind, closing=None):
        self.forced, self.has_ended, self.failure = [], False, None
        self._matcher, self._left, self._kind, self._closing = matcher, limit, kind, closing

    def look(self, words):
        """Fills words, int32 (1, W), with the bits of the tokens that may follow behind those that are forced."""
        from llguidance.numpy import fill_next_token_bitmask

        if not self.forced and self._closing is None:
            self.forced = self._matcher.compute_ff_tokens()
            self._matcher.consume_tokens(self.forced)
        fill_next_token_bitmask(self._matcher, words)
        if self._matcher.is_error() or not words.any():
            reason = _first_line(self._matcher.get_error()) or "the tokenizer's vocabulary has no token that may follow"
            self.failure = f"`{self._kind}` cannot be followed: {reason}."

    def read(self, token, end_ids):
        """Takes the token that was drawn; returns another that is to take its place, or None."""
        self._left -= 1
        instead, self.has_ended = None, token in end_ids or self._left == 0
        if self.forced:
            self.forced = self.forced[1:]
        elif token not in end_ids:
            self._matcher.consume_token(token)
            instead = self._closing and self._closing.checked(self._matcher, self._left)
        return instead


class Guide:
    """The texts of a batch, and what may follow in each.

    Args:
        texts: list of `GuidedText`.
        end_ids: list of int.
        vocab_size: int, V.
    """

    def __init__(self, texts, end_ids, vocab_size):
        self._texts, self._end_ids, self._vocab_size = texts, end_ids, vocab_size

    def before(self, done):
        """The state of `FollowsMasks`, and for how many steps it holds.

        Args:
            done: bool (B,), which texts have ended.

        Raises:
            ValueError: if a text cannot go on.
        """
        for text, is_done in zip(self._texts, done, strict=True):
            text.has_ended = text.has_ended or bool(is_done)
        found = look_at([None if text.has_ended else text for text in self._texts], self._vocab_size)
        for text in self._texts:
            if text.failure:
                raise ValueError(text.failure)
        return found

    def after(self, tokens):
        """Takes tokens that were drawn, int32 (B, N); yields pairs of a row and a token to put in the place of its
        last one."""
        for row, text in enumerate(self._texts):
            for token in tokens[row].tolist():
                if not text.has_ended and (instead := text.read(token, self._end_ids)) is not None:
                    yield row, instead


class _Words:
    """A vocabulary as llguidance takes it."""

    bos_token_id = None

    def __init__(self, tokenizer, end_ids, vocab_size):
        known, _ = token_bytes(tokenizer)
        known = [*known, *[None] * (vocab_size - len(known))][:vocab_size]
        self.special_token_ids = [index for index, token in enumerate(known) if token is None or index in end_ids]
        special = set(self.special_token_ids)
        self.tokens = [b"<|%d|>" % index if index in special else token for index, token in enumerate(known)]
        self.eos_token_id = end_ids[0]
        self._tokenizer = tokenizer
        self._ids = {token: index for index, token in enumerate(self.tokens) if index not in special}
        self._longest = max(map(len, self._ids))

    def __call__(self, text):
        """The ids of bytes: the tokenizer's own where they write just these, and else the longest tokens there are."""
        try:
            (ids,) = self._tokenizer.encode_stream([text.decode()], bare=True)
            if b"".join(self.tokens[index] for index in ids) == text:
                return ids.tolist()
        except (UnicodeDecodeError, IndexError):
            pass
        ids, place = [], 0
        while place < len(text):
            parts = (text[place : place + length] for length in range(self._longest, 0, -1))
            token = next((part for part in parts if part in self._ids), None)
            if token is None:
                break
            ids.append(self._ids[token])
            place += len(token)
        return ids


def _words(tokenizer, end_ids, vocab_size):
    import llguidance

    wrapper = llguidance.TokenizerWrapper(_Words(tokenizer, list(end_ids), vocab_size))
    return llguidance.LLTokenizer(wrapper, n_vocab=vocab_size, eos_token=list(end_ids))


def _grammar(kind, value):
    """A grammar in llguidance's own form.

    Raises:
        TypeError, ValueError: as `GrammarConstraint`.
    """
    import llguidance

    if not isinstance(value, str):
        raise TypeError(f"`{kind}` is a str, got {type(value).__name__}.")
    if kind == "grammar":
        grammar = llguidance.LLMatcher.grammar_from_lark(value)
    else:
        grammar = llguidance.LLMatcher.grammar_from_json_schema(value, SPACING, {"lenient": False})
    is_error, messages = llguidance.LLMatcher.validate_grammar_with_warnings(grammar)
    if is_error:
        raise ValueError(f"`{kind}` cannot be followed: {_first_line(messages[0])}.")
    return grammar


def _first_line(message):
    return " ".join(message.split())[:300].rstrip(".")
