"""Streams of tokens: a corpus one document behind the other, parts of one, several joined, and mixtures of them."""

from collections.abc import Sequence

import numpy as np

from kerasllm.data.token_arrays import JoinedArray, Slice
from kerasllm.tokenizers import Tokenizer


class TokenStream:
    """Documents of tokens, one behind the other.

    Args:
        name: str, for messages.
        tokens: (num_tokens,) array, or what reads slices of one.
        document_ends: (num_documents,) int64, likewise, one past each document's last token.
        vocab_size: int, of the tokenizer.
        fingerprint: str, of the tokenizer.

    Attributes:
        num_tokens, num_documents: int.
    """

    def __init__(self, name, tokens, document_ends, vocab_size, fingerprint):
        self.name, self.tokens, self.document_ends = name, tokens, document_ends
        self.vocab_size, self.fingerprint = vocab_size, fingerprint
        self.num_tokens, self.num_documents = len(tokens), len(document_ends)

    def check(self, tokenizer: Tokenizer) -> None:
        """Raises ValueError unless `tokenizer` is the one that made these tokens."""
        if tokenizer.fingerprint() != self.fingerprint:
            raise ValueError(
                f"The tokens in {self.name} were made by another tokenizer (fingerprint {self.fingerprint[:12]}…, "
                f"this one has {tokenizer.fingerprint()[:12]}…). Load that tokenizer, or write the tokens anew."
            )

    def part(self, first: int, last: int) -> "TokenStream":
        """The `TokenStream` of the documents first … last - 1. Nothing is read for it but where the first begins."""
        begin, end = map(self._begin, (first, last))
        tokens = JoinedArray([Slice(self.tokens, begin, end)])
        ends = JoinedArray([Slice(self.document_ends, first, last)], [-begin])
        return TokenStream(self.name, tokens, ends, self.vocab_size, self.fingerprint)

    def split(self, share: float, most: int) -> tuple["TokenStream", "TokenStream"]:
        """Splits the last documents off: about a share of the tokens, and about so many at most. A last document that
        is longer is cut."""
        begin, last = int(max(self.num_tokens * (1 - share), self.num_tokens - most)), self.num_documents - 1
        low, high = min(1, last), last  # the first document that is split off
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._begin(middle) >= begin else (middle + 1, high)
        if self._begin(low) >= begin:
            return self.part(0, low), self.part(low, self.num_documents)
        ends = np.array([begin]), np.array([self.num_tokens - begin])
        before = JoinedArray([Slice(self.document_ends, 0, low), ends[0]]) if low else ends[0]
        parts = (Slice(self.tokens, 0, begin), before), (Slice(self.tokens, begin, self.num_tokens), ends[1])
        training, split_off = (
            TokenStream(self.name, JoinedArray([tokens]), ends, self.vocab_size, self.fingerprint)
            for tokens, ends in parts
        )
        return training, split_off

    def _begin(self, document):
        return int(self.document_ends[document - 1 : document][0]) if document else 0

    def documents(self):
        """Yields the tokens of each document, an array, in order."""
        begin = 0
        for first in range(0, self.num_documents, 2**12):
            for end in self.document_ends[first : first + 2**12].tolist():
                yield self.tokens[begin:end]
                begin = end


def join(streams: Sequence[TokenStream]) -> TokenStream:
    """The `TokenStream` of several, one behind the other.

    Raises:
        ValueError: where they were not made by one tokenizer.
    """
    first = streams[0]
    for stream in streams:
        if stream.fingerprint != first.fingerprint:
            raise ValueError(f"The tokens in {stream.name} and in {first.name} were made by different tokenizers.")
    begins = np.cumsum([0, *(stream.num_tokens for stream in streams)])[:-1].tolist()
    return TokenStream(
        ", ".join(stream.name for stream in streams),
        JoinedArray([stream.tokens for stream in streams]),
        JoinedArray([stream.document_ends for stream in streams], begins),
        first.vocab_size,
        first.fingerprint,
    )


class TokenMixture(TokenStream):
    """Token files of several sources that a model sees in given shares: for `causal_lm_dataset` and its like.

    Each window comes from one source. An epoch has windows of the sources exactly by their weights, in an order that is
    a function of (seed, step), and ends when a source has been seen once; in the next one each source goes on where it
    was. A source that has been seen whole begins anew, in another order.

    Args:
        sources: list of `TokenStream`, such as `TokenFiles`, made by one tokenizer.
        weights: list of float above 0, the share of each, whose sum need not be 1. None: their sizes.
        budgets: list of int or None, how many tokens of a source are used at most, in whole windows. None: all.

    Raises:
        ValueError: where the lists are not of one length, for a weight or budget that is not above 0, or where the
            sources were not made by one tokenizer.

    Example:

    >>> mixture = kerasllm.data.TokenMixture([wiki, code], [0.3, 0.7], budgets=[10**9, None])
    >>> dataset = kerasllm.data.causal_lm_dataset(mixture, tokenizer, seq_len=1024, batch_size=32)
    """

    def __init__(
        self,
        sources: Sequence[TokenStream],
        weights: Sequence[float] | None = None,
        budgets: Sequence[int | None] | None = None,
    ) -> None:
        weights = [source.num_tokens for source in sources] if weights is None else list(weights)
        budgets = [None] * len(sources) if budgets is None else list(budgets)
        if not len(sources) == len(weights) == len(budgets) > 0:
            raise ValueError(
                f"A mixture has a weight, and a budget or None, for each source: got {len(sources)} sources, "
                f"{len(weights)} weights and {len(budgets)} budgets."
            )
        if not all(weight > 0 for weight in weights) or not all(budget is None or budget > 0 for budget in budgets):
            raise ValueError(f"Weights and budgets are above 0, got {weights} and {budgets}: leave a source out.")
        joined = join(sources)
        super().__init__(joined.name, joined.tokens, joined.document_ends, joined.vocab_size, joined.fingerprint)
        self.sources, self.budgets = list(sources), budgets
        self.shares = [weight / sum(weights) for weight in weights]
