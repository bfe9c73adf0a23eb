"""The bytes that tokens write, of each kind of vocabulary, as its decoder puts them together."""

import dataclasses

from kerasllm.tokenizers import training

META_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
KINDS = "ByteLevel, Fuse, WordPiece, Metaspace and SentencePiece's with bytes"
_BYTE_OF_CHARACTER = {character: byte for byte, character in enumerate(training.byte_characters())}


@dataclasses.dataclass(frozen=True)
class Spellings:
    """What tokens write.

    Attributes:
        first, later: lists of bytes, by id: the token at the beginning of a text, and behind others.
        known: set of ids; others write nothing, as they are special or not there.
        spelled: dict from ids that stand for one byte to that byte. A run of them that is no UTF-8 becomes a U+FFFD
            for each.
        strips: int, how many spaces are taken from a text's beginning, at most.
    """

    first: list
    later: list
    known: set
    spelled: dict
    strips: int


def spellings(engine, spec, vocab_size):
    """The `Spellings` of a vocabulary, or the name of a decoder (str or None) that is none of `KINDS`.

    Args:
        engine: `tokenizers.Tokenizer`.
        spec: dict, the content of its tokenizer.json.
        vocab_size: int, one more than the largest id.
    """
    kind, strips = spec["decoder"] and spec["decoder"]["type"], 0
    if kind == "ByteLevel":

        def in_bytes(token, before):
            return token.encode() if bytes_of(token) is None else bytes_of(token)

    elif kind in ("Fuse", "WordPiece", "Metaspace"):  # These look at one token, and whether it is the first.

        def in_bytes(token, before):
            return engine.decoder.decode([*before, token]).encode()

    elif kind == "Sequence" and (strips := _sentencepiece_strips(spec["decoder"]["decoders"])) is not None:

        def in_bytes(token, before):
            return token.replace(META_SPACE, " ").encode()

    else:
        return kind
    later = [b""] * vocab_size  # so do ids without a token decode
    first, spelled = later.copy(), {}
    vocabulary = engine.get_vocab(with_added_tokens=True)
    for token, index in vocabulary.items():
        later[index], first[index] = in_bytes(token, [""]), in_bytes(token, [])
    known = set(vocabulary.values()) - {added["id"] for added in spec["added_tokens"] if added["special"]}
    for byte in range(256) if kind == "Sequence" else ():
        index = engine.token_to_id(f"<0x{byte:02X}>")
        if index is not None:
            first[index] = later[index] = bytes([byte])
            spelled[index] = byte
    return Spellings(first, later, known, spelled, strips)


def _sentencepiece_strips(steps):
    """How many spaces SentencePiece's decoder takes from a text's beginning; None for any other decoder."""
    replace = {"type": "Replace", "pattern": {"String": META_SPACE}, "content": " "}
    if steps[:3] != [replace, {"type": "ByteFallback"}, {"type": "Fuse"}]:
        return None
    strip = steps[3] if len(steps) == 4 else {}
    if strip.get("type") == "Strip" and (strip["content"], strip["stop"]) == (" ", 0):
        return strip["start"]
    return None if steps[3:] else 0


def bytes_of(token):
    """The bytes that a byte-level token (str) stands for; None where not all of its characters stand for bytes."""
    if _BYTE_OF_CHARACTER.keys() >= set(token):
        return bytes(_BYTE_OF_CHARACTER[character] for character in token)
    return None
