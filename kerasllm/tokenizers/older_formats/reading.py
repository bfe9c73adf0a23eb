"""Which class of transformers a vocabulary was made for decides what its ids are and what stands around a text.

`FILES` has a row for each that is read from the files of before tokenizer.json; `kerasllm.tokenizers.classes` says the
rest about them.
"""

from typing import NamedTuple

import tokenizers

from kerasllm.tokenizers import classes
from kerasllm.tokenizers.older_formats import byte_level, marian, sentencepiece_models, word_pieces
from kerasllm.tokenizers.special_tokens import add_special_tokens


class Files(NamedTuple):
    """The files of a class of tokenizers.

    Attributes:
        names: the names of those that hold the vocabulary.
        read: function (folder, settings) -> a model of `tokenizers`, or a whole `tokenizers.Tokenizer`.
    """

    names: tuple
    read: object


_BYTE_LEVEL = Files(("vocab.json", "merges.txt"), byte_level.read_byte_level)
_WORD_PIECES = Files(("vocab.txt",), word_pieces.read_word_pieces)


def _fairseq(read, *names):
    return Files((*names, "sentencepiece.bpe.model"), read)


FILES = {
    "GPT2Tokenizer": _BYTE_LEVEL,
    "GPTNeoXTokenizer": _BYTE_LEVEL,
    "Qwen2Tokenizer": _BYTE_LEVEL,
    "RobertaTokenizer": _BYTE_LEVEL,
    "BartTokenizer": _BYTE_LEVEL,
    "BertTokenizer": _WORD_PIECES,
    "DistilBertTokenizer": _WORD_PIECES,
    "ElectraTokenizer": _WORD_PIECES,
    "AlbertTokenizer": Files(("spiece.model",), sentencepiece_models.read_albert),
    "MPNetTokenizer": _WORD_PIECES,
    "MarianTokenizer": Files(("source.spm", "target.spm", "vocab.json"), marian.read_marian),
    "M2M100Tokenizer": _fairseq(sentencepiece_models.read_m2m_100, "vocab.json"),
    "XLMRobertaTokenizer": _fairseq(sentencepiece_models.read_fairseq),
    "MBartTokenizer": _fairseq(sentencepiece_models.read_mbart),
    "MBart50Tokenizer": _fairseq(sentencepiece_models.read_languages),
    "NllbTokenizer": _fairseq(sentencepiece_models.read_languages),
    "T5Tokenizer": Files(("spiece.model",), sentencepiece_models.read_t5),
    "DebertaV2Tokenizer": Files(("spm.model",), sentencepiece_models.read_deberta),
    "ByT5Tokenizer": Files((), byte_level.read_bytes),
    "LlamaTokenizer": Files(("tokenizer.model",), sentencepiece_models.read_plain),
    "CodeLlamaTokenizer": Files(("tokenizer.model",), sentencepiece_models.read_plain),
    "GemmaTokenizer": Files(("tokenizer.model",), sentencepiece_models.read_gemma),
}
# Names that folders give, for classes that transformers does not have.
_OTHER_NAMES = {"ErnieTokenizer": "BertTokenizer", "OPTTokenizer": "GPT2Tokenizer"}
# Classes that say nothing of the files.
_GENERIC = ("PreTrainedTokenizer", "TokenizersBackend", None)


def read_tokenizer(folder, settings, config, **side):
    """Reads the older files of a folder.

    Args:
        folder: `Path` of a folder without tokenizer.json.
        settings: dict, from `read_settings`.
        config: dict, its config.json.
        **side: `name="source.spm"` or "target.spm", of Marian's two models.

    Returns:
        A `tokenizers.Tokenizer`, and the settings with what holds where they say nothing; None where the folder has no
        tokenizer.

    Raises:
        ValueError: where a file is damaged, or is of a class of tokenizers that is not known here.
    """
    name = _class_of(folder, settings, config)
    if name is None:
        return None
    row, named = classes.CLASSES[name], settings
    settings = {**row.defaults, **settings}
    engine = FILES[name].read(folder, settings, **side)
    is_whole = isinstance(engine, tokenizers.Tokenizer)  # with SentencePiece's words
    engine = engine if is_whole else classes.equipped(engine, row, settings)
    places = add_special_tokens(engine, folder, named, row, raw=is_whole)
    for token, place in places.items():
        if engine.token_to_id(token) != place:
            raise ValueError(
                f"{folder} gives the token {token!r} the id {place}, and its vocabulary {engine.token_to_id(token)}; "
                "copy the folder again."
            )
    classes.put_around(engine, row, settings, folder)
    return engine, settings


def _class_of(folder, settings, config):
    """The name of a folder's class; None where it has no vocabulary at all."""
    name = settings.get("tokenizer_class") or config.get("tokenizer_class")
    name = name.removesuffix("Fast") if isinstance(name, str) else None
    files = {file for row in FILES.values() for file in row.names}
    if name != "ByT5Tokenizer" and not any((folder / file).is_file() for file in files):
        return None
    name = _OTHER_NAMES.get(name, name)
    if name in _GENERIC:
        whole = (name for name, row in FILES.items() if row.names and all((folder / f).is_file() for f in row.names))
        name = classes.OF_MODELS.get(config.get("model_type")) or next(whole, None)
    if name not in FILES:
        raise ValueError(
            f"{folder} has no tokenizer.json, and kerasllm cannot make one for its class of tokenizers, {name}; it "
            f"does for {', '.join(FILES)}."
        )
    for file in FILES[name].names:
        if not (folder / file).is_file():
            raise FileNotFoundError(f"No tokenizer at {folder}: neither tokenizer.json nor {file} of a {name}.")
    return name
