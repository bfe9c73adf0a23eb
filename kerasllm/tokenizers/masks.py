"""What masked language models ask of a vocabulary: which tokens make a word together, and where a text has masks."""

import json
import re
import unicodedata

import numpy as np
import tokenizers

from kerasllm.tokenizers import training
from kerasllm.tokenizers.spellings import bytes_of

_SPACE_MARK = "▁"  # what SentencePiece writes for a space
_BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")


def require_mask(tokenizer):
    """The id of a tokenizer's mask token.

    Raises:
        ValueError: where it has none.
    """
    if tokenizer.mask_id is None:
        raise ValueError(
            "This tokenizer has no mask token, which a masked language model needs: train one with "
            'Tokenizer.train(..., special_tokens=["<|mask|>"]).'
        )
    return tokenizer.mask_id


def ordinary_ids(tokenizer):
    """Which ids are tokens of text: bool (V,), False for special tokens and for ids without a token."""
    engine = tokenizer.engine
    special = {token for token in engine.get_added_tokens_decoder().values() if token.special}
    special = {token.content for token in special} | {name for name in tokenizer.special_tokens.values() if name}
    is_ordinary = np.zeros(tokenizer.vocab_size, bool)
    is_ordinary[[index for token, index in engine.get_vocab().items() if token not in special]] = True
    return is_ordinary


def word_joins(tokenizer):
    """Which tokens can stand together in a word.

    A WordPiece token continues a word when it begins with "##". In the other vocabularies a word is a run of
    letters, digits and marks with the space before it. In scripts without spaces between words, such as Chinese, that
    is the run up to the next punctuation mark.

    Args:
        tokenizer: `Tokenizer`.

    Returns:
        Two bool arrays (V,): the tokens that continue the word before them, and those whose word may be continued.
        Token b behind token a belongs to the same word where the first holds for b and the second for a.

    Raises:
        ValueError: for a vocabulary that does not show where words begin.

    Example:

    >>> tokenizer = Tokenizer.train(["so be it"], kind="char", progress=False)
    >>> continues, may_continue = word_joins(tokenizer)
    >>> continues[tokenizer.encode("so be")].tolist()
    [True, True, False, True, True]
    """
    vocabulary = tokenizer.engine.get_vocab()
    continues, may_continue = np.zeros((2, tokenizer.vocab_size), bool)
    spec = json.loads(tokenizer.engine.to_str())
    if spec["model"]["type"] == "WordPiece":
        prefix = spec["model"]["continuing_subword_prefix"]
        for token, index in vocabulary.items():
            continues[index], may_continue[index] = token.startswith(prefix), True
    else:
        text_of = _token_reader(spec["decoder"])
        if text_of is None:
            kind = spec["decoder"] and spec["decoder"]["type"]
            raise ValueError(
                f"This tokenizer does not show which tokens make a word together (its decoder is {kind!r}; ByteLevel, "
                "WordPiece, Metaspace and Fuse do): mask single tokens, with strategy='token'."
            )
        for token, index in vocabulary.items():
            text = text_of(token)
            continues[index] = _in_word(text[:1])
            may_continue[index] = _in_word(text[-1:]) or text == " "
    is_ordinary = ordinary_ids(tokenizer)
    return continues & is_ordinary, may_continue & is_ordinary


def mask_reader(engine, mask):
    """A function from a text (str) to its ids, which reads the mask token, and every other special token as text.

    Args:
        engine: `tokenizers.Tokenizer`.
        mask: str, its mask token.
    """
    spec = json.loads(engine.to_str())
    others = [token for token in spec["added_tokens"] if token["content"] != mask]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    own = next((token for token in spec["added_tokens"] if token["content"] == mask), {**flags, "content": mask})
    # Not special, so that it is read though special tokens are not.
    own = {**own, "id": engine.token_to_id(mask), "special": False}
    spec["added_tokens"] = sorted([*others, own], key=lambda token: token["id"])
    pre_tokenizer = spec["pre_tokenizer"] or {}
    first = pre_tokenizer["pretokenizers"][0] if pre_tokenizer.get("type") == "Sequence" else pre_tokenizer
    if first.get("type") == "Metaspace" and first["prepend_scheme"] == "always":
        first["prepend_scheme"] = "first"  # else what follows a mask without a space would get one
    reader = tokenizers.Tokenizer.from_str(json.dumps(spec))
    reader.encode_special_tokens = True
    takes_space = words_take_spaces(engine)

    def read(text):
        return reader.encode(text.replace(f" {mask}", mask) if takes_space else text).ids

    return read


def words_take_spaces(engine):
    """Whether a token of a `tokenizers.Tokenizer` can be a word with the space before it."""
    text_of = _token_reader(json.loads(engine.to_str())["decoder"])
    return text_of is not None and any(re.match(" [^ ]", text_of(token)) for token in engine.get_vocab())


def _token_reader(decoder):
    """A function from a token to its text in a decoder's vocabulary; None where that is not known."""
    kind = decoder and decoder["type"]
    if kind == "ByteLevel":
        return _byte_level_text
    if kind == "Fuse":
        return str
    if kind == "Metaspace" or (kind == "Sequence" and _SPACE_MARK in json.dumps(decoder, ensure_ascii=False)):
        return _sentencepiece_text
    return None


def _byte_level_text(token):
    spelled = bytes_of(token)
    return token if spelled is None else spelled.decode(errors="replace")


def _sentencepiece_text(token):
    if match := _BYTE_TOKEN.fullmatch(token):
        return bytes.fromhex(match[1]).decode(errors="replace")
    return token.replace(_SPACE_MARK, " ")


def _in_word(character):
    """Whether a character stands inside words; U+FFFD is part of one that several tokens share."""
    return character == training.UNKNOWN or unicodedata.category(character or " ")[0] in "LMN"
