"""Texts and pairs of texts as ids, no more of them than a model takes."""

import itertools

from kerasllm.tokenizers.encoding import checked

_PAIRS_AT_ONCE = 1024


def encode_whole(tokenizer, texts, max_length):
    """The ids of texts as `encode_cut` gives them, or of pairs of texts as `encode_pairs` does.

    Returns:
        A list of lists of int; another of their types, or None where texts are single; and how many were cut.

    Raises:
        TypeError: for pairs among single texts.
    """
    singles = sum(isinstance(text, str) for text in texts)
    if singles == len(texts):
        rows, num_cut = encode_cut(tokenizer, texts, max_length)
        return rows, None, num_cut
    if singles:
        raise TypeError("Either all texts are pairs or none is, got both.")
    return encode_pairs(tokenizer, texts, max_length)


def encode_pairs(tokenizer, pairs, max_length):
    """The ids of pairs of texts, with what the tokenizer puts around and between them, such as BERT's [SEP].

    Of a pair that is too long the longer text is cut, and then both alike, as transformers does ("longest_first").

    Args:
        tokenizer: `Tokenizer`.
        pairs: list of (str, str).
        max_length: int, the most ids of each pair.

    Returns:
        A list of lists of int; another of the types of these, 0 for the first text and 1 for the second where the
        tokenizer tells them apart; and how many pairs were cut.
    """
    engine, rows, types, num_cut = tokenizer.engine, [], [], 0
    room = max(max_length - engine.num_special_tokens_to_add(True), 0)
    for begin in range(0, len(pairs), _PAIRS_AT_ONCE):
        texts = [checked(text) for pair in pairs[begin : begin + _PAIRS_AT_ONCE] for text in pair]
        encoded = engine.encode_batch(texts, add_special_tokens=False)
        for first, second in zip(encoded[0::2], encoded[1::2], strict=True):
            lengths = _both_shortened(len(first), len(second), room)
            num_cut += lengths != (len(first), len(second))
            for encoding, length in zip((first, second), lengths, strict=True):
                encoding.truncate(length)
            pair = engine.post_process(first, second)
            rows.append(pair.ids or [tokenizer.pad_id or 0])
            types.append(pair.type_ids or [0])
    return rows, types, num_cut


def _both_shortened(first, second, room):
    """Two lengths that make at most `room`."""
    if first + second <= room:
        return first, second
    short = min(first, second, room // 2)
    return (short, room - short) if first <= second else (room - short, short)


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
