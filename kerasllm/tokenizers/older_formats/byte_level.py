"""Byte-level BPE from vocab.json and merges.txt, as GPT-2, RoBERTa, BART and Qwen2 have it."""

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from kerasllm.files import read_json
from kerasllm.tokenizers import patterns


def read_gpt2(folder, settings):
    engine = tokenizers.Tokenizer(_model(folder))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=settings.get("add_prefix_space", False))
    engine.decoder = decoders.ByteLevel()
    return engine


def read_qwen2(folder, settings):
    engine = read_gpt2(folder, settings)
    words = pre_tokenizers.Split(tokenizers.Regex(patterns.QWEN2), "isolated")
    characters = pre_tokenizers.ByteLevel(settings.get("add_prefix_space", False), use_regex=False)
    engine.normalizer = normalizers.NFC()
    engine.pre_tokenizer = pre_tokenizers.Sequence([words, characters])
    return engine


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


def _model(folder):
    vocabulary, path = read_vocabulary(folder / "vocab.json"), folder / "merges.txt"
    merges = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), start=1):
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
