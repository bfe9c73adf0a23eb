"""WordPiece from vocab.txt, as BERT, DistilBERT and ERNIE have it."""

from tokenizers import models

from kerasllm.files import read_utf8
from kerasllm.tokenizers.tokenizer_config import text_of


def read_word_pieces(folder, settings):
    """The model of a folder's vocab.txt."""
    path = folder / "vocab.txt"
    tokens = read_utf8(path).removesuffix("\n").split("\n")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    unknown = text_of(settings.get("unk_token")) or "[UNK]"
    if unknown not in vocabulary:
        raise ValueError(f"{path} lacks the unknown token {unknown!r}; copy the folder again.")
    return models.WordPiece(vocab=vocabulary, unk_token=unknown)
