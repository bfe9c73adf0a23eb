"""What words are in the vocabularies that training.py makes, and where a long text may be cut between them."""

import json
import re

import tokenizers
from tokenizers import normalizers, pre_tokenizers

# Words, numbers of up to three digits, runs of other signs (each with the space before it), spaces, line breaks.
# GPT-2's pattern without its look-ahead, so that Oniguruma (`tokenizers`) and RE2 (TensorFlow) both have every
# construct.
SPLIT_PATTERN = r"'(?:[sdmt]|ll|re|ve)| ?[\p{L}\p{M}]+| ?\p{N}{1,3}| ?[^\p{L}\p{M}\p{N}\t-\r ]+| +|[\t-\r]+"
MAX_WORD_LENGTH = 32
MAX_UNIGRAM_WORD_LENGTH = 512
PIECE_LENGTH = 2**14

# No word of SPLIT_PATTERN reaches across these places, whatever stands around them.
BETWEEN_WORDS = re.compile(r"(?<=[^ ])(?= )|(?<=[^\t-\r])(?=[\t-\r])")
_BEFORE_SPACE = re.compile("(?= )")
_ANYWHERE = re.compile("")


def bpe_pre_tokenizer():
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(SPLIT_PATTERN), "isolated"),
            pre_tokenizers.FixedLength(MAX_WORD_LENGTH),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def wordpiece_words():
    """Normalizer and pre-tokenizer."""
    return normalizers.BertNormalizer(strip_accents=False, lowercase=False), pre_tokenizers.BertPreTokenizer()


def unigram_words():
    """Normalizer and pre-tokenizer."""
    words = [pre_tokenizers.Metaspace(), pre_tokenizers.FixedLength(MAX_UNIGRAM_WORD_LENGTH)]
    return None, pre_tokenizers.Sequence(words)


def cut_places(engine):
    """The places where a long text may be cut without changing its ids, as a pattern; None where that is unknown."""
    spec = json.loads(engine.to_str())
    if spec["post_processor"] or not all(token["special"] for token in spec["added_tokens"]):
        return None
    words = repr(engine.normalizer), repr(engine.pre_tokenizer)
    if words in (tuple(map(repr, part)) for part in (wordpiece_words(), unigram_words())):
        return _BEFORE_SPACE
    if spec["normalizer"] or spec["model"]["type"] != "BPE":
        return None
    if repr(engine.pre_tokenizer) == repr(bpe_pre_tokenizer()):
        return BETWEEN_WORDS
    of_alphabets = None, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return _ANYWHERE if not spec["model"]["merges"] and repr(engine.pre_tokenizer) in map(repr, of_alphabets) else None


def pieces(text, places, length=PIECE_LENGTH):
    """Cuts `text` at the first of `places` at or after every `length` characters.

    Example:

    >>> list(pieces("one two three", BETWEEN_WORDS, length=4))
    ['one two', ' three']
    """
    begin = 0
    while len(text) - begin > length and (cut := places.search(text, begin + length)):
        if cut.start() == len(text):
            break
        yield text[begin : cut.start()]
        begin = cut.start()
    yield text[begin:]
