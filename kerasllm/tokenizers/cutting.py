"""Texts as ids, no more of them than a model takes."""

import itertools


def encode_cut(tokenizer, texts, max_length):
    """The ids of texts, of which those that are too long are cut; what the tokenizer puts behind a text, such as BERT's
    [SEP], stays.

    Args:
        tokenizer: `Tokenizer`.
        texts: list of str. An empty one is one token of padding, where the tokenizer puts nothing around it.
        max_length: int, the most ids of each.

    Returns:
        A list of lists of int, and how many of them were cut.
    """
    num_behind, num_cut, rows = _ids_behind(tokenizer), 0, []
    for ids in tokenizer.encode_batch(texts):
        if len(ids) > max_length:
            num_cut += 1
            ids = [*ids[: max_length - num_behind], *ids[len(ids) - num_behind :]]
        rows.append(ids or [tokenizer.pad_id or 0])
    return rows, num_cut


def _ids_behind(tokenizer):
    """How many ids a tokenizer puts behind a text: those at the end of any."""
    pairs = zip(reversed(tokenizer.encode("")), reversed(tokenizer.encode("a")), strict=False)
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))
