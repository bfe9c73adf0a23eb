"""Byte-level BPE from vocab.json and merges.txt, as GPT-2, RoBERTa, BART and Qwen2 have it, and ByT5's bytes."""

from tokenizers import models

from kerasllm.files import read_json, read_utf8
from kerasllm.tokenizers.tokenizer_config import text_of
from kerasllm.tokenizers.training import byte_characters


def read_vocabulary(path):
    """The ids of a vocab.json by token.

    Raises:
        ValueError: where it is none, or two tokens have the same id.
    """
    vocabulary = read_json(path)
    if not vocabulary or not all(type(index) is int and index >= 0 for index in vocabulary.values()):
        raise ValueError(f"{path} does not give each token an id (0 or more); copy the folder again.")
    if len(set(vocabulary.values())) < len(vocabulary):
        raise ValueError(f"{path} gives several tokens the same id; copy the folder again.")
    return vocabulary


def read_byte_level(folder, settings):
    """The model of a folder's vocab.json and merges.txt."""
    vocabulary, path = read_vocabulary(folder / "vocab.json"), folder / "merges.txt"
    merges = []
    for number, line in enumerate(read_utf8(path).split("\n"), start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = tuple(line.split(" "))
        if len(pair) != 2 or not all(token in vocabulary for token in (*pair, "".join(pair))):
            raise ValueError(
                f"{path} has in line {number} no two tokens of vocab.json that make a third: {line!r:.80}; copy the "
                "folder again."
            )
        merges.append(pair)
    return models.BPE(vocab=vocabulary, merges=merges)


def read_bytes(folder, settings):
    """ByT5's model, which has no file: padding, end and unknown token, then the 256 bytes."""
    special = [text_of(settings[f"{role}_token"]) for role in ("pad", "eos", "unk")]
    return models.BPE({token: index for index, token in enumerate([*special, *byte_characters()])}, [])
