"""Tokens as people can read them, in any script."""

import re
import unicodedata

from kerasllm.generation.text_stream import BROKEN, continuation
from kerasllm.tokenizers import training

_BYTE_OF_CHARACTER = {character: byte for byte, character in enumerate(training.byte_characters())}
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_SHOWN = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍"}


def token_texts(tokenizer, ids):
    """What to show for tokens: their letters, with a sign for each space and line break at their ends.

    Args:
        tokenizer: `Tokenizer`.
        ids: list of int.

    Returns:
        list of str. A token that is part of a letter is shown by its bytes, "‹E4 BD›", a special token by its name, and
        a letter that cannot be seen by its number, "U+200B".

    Example:
        >>> interpret.token_texts(tokenizer, tokenizer.encode("so be it"))
        ['so', '·be', '·it']
    """
    shown = []
    for place, token in enumerate(ids):
        name = tokenizer.engine.id_to_token(token) or f"#{token}"
        text = continuation(tokenizer, ids[max(0, place - 1) : place], [token])
        in_bytes = _bytes_of(name)
        if text == "" or (BROKEN in text and in_bytes is not None):
            text = name if in_bytes is None else f"‹{in_bytes.hex(' ').upper()}›"
        shown.append(visible(text))
    return shown


def visible(text):
    """A text in which everything can be seen: spaces at its ends, line breaks, and letters without a shape."""
    inner = text.strip(" ")
    before = len(text) - len(text.lstrip(" ")) if inner else len(text)
    behind = len(text) - len(text.rstrip(" ")) if inner else 0
    middle = "".join(_letter(letter) for letter in inner)
    if middle and unicodedata.category(middle[0]) in ("Mn", "Mc", "Me"):
        middle = "◌" + middle
    return _SHOWN[" "] * before + middle + _SHOWN[" "] * behind


def _letter(letter):
    if letter in _SHOWN and letter != " ":
        return _SHOWN[letter]
    if letter == "\u200d" or unicodedata.category(letter) not in ("Cc", "Cf", "Zl", "Zp", "Cn", "Co"):
        return letter
    return f"U+{ord(letter):04X}"


def _bytes_of(name):
    """The bytes that the name of a token stands for in byte-level vocabularies and in SentencePiece's; or None."""
    if found := _BYTE_TOKEN.fullmatch(name):
        return bytes([int(found[1], 16)])
    if _BYTE_OF_CHARACTER.keys() >= set(name):
        return bytes(_BYTE_OF_CHARACTER[character] for character in name)
    return None
