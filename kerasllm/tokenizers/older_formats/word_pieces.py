"""WordPiece from vocab.txt, as BERT, DistilBERT and ERNIE have it."""

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from kerasllm.tokenizers.tokenizer_config import text_of


def read_bert(folder, settings):
    path = folder / "vocab.txt"
    try:
        tokens = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: byte {error.start}; copy the folder again.") from error
    vocabulary = {token: index for index, token in enumerate(tokens)}
    unknown = text_of(settings.get("unk_token")) or "[UNK]"
    if unknown not in vocabulary:
        raise ValueError(f"{path} lacks the unknown token {unknown!r}; copy the folder again.")
    engine = tokenizers.Tokenizer(models.WordPiece(vocab=vocabulary, unk_token=unknown))
    engine.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    engine.decoder = decoders.WordPiece()
    return engine
