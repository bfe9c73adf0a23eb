"""Which class of transformers a vocabulary was made for decides what its ids are and what stands around a text.

`CLASSES` has a row for each.
"""

from typing import NamedTuple

from tokenizers import processors

from kerasllm.files import read_json
from kerasllm.tokenizers.older_formats import byte_level, marian, sentencepiece_models, word_pieces
from kerasllm.tokenizers.older_formats.special_tokens import add_special_tokens
from kerasllm.tokenizers.tokenizer_config import text_of


class TokenizerClass(NamedTuple):
    """What there is to say about a class of tokenizers.

    Attributes:
        files: the names of the files that hold the vocabulary.
        read: function (folder, settings) -> `tokenizers.Tokenizer`, without what the settings add to it.
        around: str, the text, "$A", and the roles of the tokens around it.
        defaults: dict, settings that hold where the files say nothing.
        pair: str, the same for two texts.
    """

    files: tuple
    read: object
    around: str
    defaults: dict
    pair: str


def _tokens(names, **more):
    """Settings from "role:token …"."""
    return {f"{role}_token": token for role, _, token in (name.partition(":") for name in names.split())} | more


def _bpe(read, around, tokens, pair="$A $B", **more):
    return TokenizerClass(("vocab.json", "merges.txt"), read, around, _tokens(tokens, **more), pair)


def _fairseq(read, around, pair, files=(), **more):
    return TokenizerClass((*files, "sentencepiece.bpe.model"), read, around, _tokens(_FAIRSEQ_TOKENS, **more), pair)


def _llama(read, tokens):
    defaults = _tokens(tokens, add_bos_token=True, add_eos_token=False)
    return TokenizerClass(("tokenizer.model",), read, "bos $A eos", defaults, "bos $A eos bos:1 $B:1 eos:1")


_FAIRSEQ_TOKENS = "bos:<s> eos:</s> unk:<unk> pad:<pad> cls:<s> sep:</s> mask:<mask>"
_GPT2_TOKENS, _T5_TOKENS = "bos:{0} eos:{0} unk:{0}".format("<|endoftext|>"), "eos:</s> unk:<unk> pad:<pad>"
_QWEN2_TOKENS = "eos:{0} unk:{0} pad:{0}".format("<|endoftext|>")
_gpt2, _models = byte_level.read_gpt2, sentencepiece_models
_BERT = TokenizerClass(
    ("vocab.txt",),
    word_pieces.read_bert,
    "cls $A sep",
    _tokens("unk:[UNK] sep:[SEP] pad:[PAD] cls:[CLS] mask:[MASK]"),
    "cls $A sep $B:1 sep:1",
)
_ROBERTA = _bpe(_gpt2, "cls $A sep", _FAIRSEQ_TOKENS, "cls $A sep sep $B sep")
CLASSES = {
    "GPT2Tokenizer": _bpe(_gpt2, "bos $A", _GPT2_TOKENS, "bos $A bos $B", add_bos_token=False),
    "Qwen2Tokenizer": _bpe(byte_level.read_qwen2, "$A", _QWEN2_TOKENS),
    "RobertaTokenizer": _ROBERTA,
    "BartTokenizer": _ROBERTA,
    "BertTokenizer": _BERT,
    "DistilBertTokenizer": _BERT,
    "ErnieTokenizer": _BERT,
    "MarianTokenizer": TokenizerClass(
        ("source.spm", "target.spm", "vocab.json"), marian.read_marian, "$A eos", _tokens(_T5_TOKENS), "$A $B eos"
    ),
    "M2M100Tokenizer": _fairseq(
        _models.read_m2m_100, "src_lang $A eos", "src_lang $A $B eos", ("vocab.json",), src_lang="en"
    ),
    "XLMRobertaTokenizer": _fairseq(_models.read_fairseq, "cls $A sep", "cls $A sep sep $B sep"),
    "MBartTokenizer": _fairseq(_models.read_mbart, "$A eos src_lang", "$A $B eos src_lang", src_lang="en_XX"),
    "MBart50Tokenizer": _fairseq(_models.read_languages, "src_lang $A eos", "src_lang $A $B eos", src_lang="en_XX"),
    "NllbTokenizer": _fairseq(_models.read_languages, "src_lang $A eos", "src_lang $A $B eos", src_lang="eng_Latn"),
    "T5Tokenizer": TokenizerClass(("spiece.model",), _models.read_t5, "$A eos", _tokens(_T5_TOKENS), "$A eos $B eos"),
    "LlamaTokenizer": _llama(_models.read_plain, "bos:<s> eos:</s> unk:<unk>"),
    "GemmaTokenizer": _llama(_models.read_gemma, "bos:<bos> eos:<eos> unk:<unk> pad:<pad>"),
}
# The classes of models whose folders do not name one.
_OF_MODELS = {
    "gpt2": "GPT2Tokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "roberta": "RobertaTokenizer",
    "bart": "BartTokenizer",
    "bert": "BertTokenizer",
    "distilbert": "BertTokenizer",
    "ernie": "BertTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "mbart": "MBartTokenizer",
    "m2m_100": "M2M100Tokenizer",
    "marian": "MarianTokenizer",
    "t5": "T5Tokenizer",
    "mt5": "T5Tokenizer",
    "llama": "LlamaTokenizer",
    "mistral": "LlamaTokenizer",
    "phi3": "LlamaTokenizer",
    "ernie4_5": "LlamaTokenizer",
    "gemma": "GemmaTokenizer",
    "gemma2": "GemmaTokenizer",
    "gemma3_text": "GemmaTokenizer",
}
# Classes that say nothing of the files.
_GENERIC = ("PreTrainedTokenizer", "TokenizersBackend", None)


def read_tokenizer(folder, settings, **side):
    """Reads the older files of a folder.

    Args:
        folder: `Path` of a folder without tokenizer.json.
        settings: dict, from `read_settings`.
        **side: `name="source.spm"` or "target.spm", of Marian's two models.

    Returns:
        A `tokenizers.Tokenizer`, and the settings with what holds where they say nothing; None where the folder has no
        tokenizer.

    Raises:
        ValueError: where a file is damaged, or is of a class of tokenizers that is not known here.
    """
    row = _class_of(folder, settings)
    if row is None:
        return None
    named, settings = settings, {**row.defaults, **settings}
    try:
        engine = row.read(folder, settings, **side)
    except TypeError as error:
        raise ValueError(f"{folder}: a setting of tokenizer_config.json is of the wrong type: {error}.") from error
    add_special_tokens(engine, folder, named, row.defaults)
    around, pair = row.around, row.pair
    if settings.get("legacy_behaviour"):  # NLLB's, with the language behind the text
        around, pair = "$A eos src_lang", "$A $B eos src_lang"
    names = {role: _token_of(role, engine, folder, settings) for role in around.split() if role != "$A"}
    if any(names.values()):
        engine.post_processor = processors.TemplateProcessing(
            single=_filled(around, names),
            pair=_filled(pair, names),
            special_tokens=[(token, engine.token_to_id(token)) for token in set(names.values()) if token],
        )
    return engine, settings


def _class_of(folder, settings):
    """The row of a folder's class; None where it has no vocabulary at all."""
    if not any((folder / file).is_file() for row in CLASSES.values() for file in row.files):
        return None
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    name = settings.get("tokenizer_class") or config.get("tokenizer_class")
    name = name.removesuffix("Fast") if isinstance(name, str) else None
    if name in _GENERIC:
        whole = (name for name, row in CLASSES.items() if all((folder / file).is_file() for file in row.files))
        name = _OF_MODELS.get(config.get("model_type")) or next(whole, None)
    if name not in CLASSES:
        raise ValueError(
            f"{folder} has no tokenizer.json, and kerasllm cannot make one for its class of tokenizers, {name}; it "
            f"does for {', '.join(CLASSES)}."
        )
    for file in CLASSES[name].files:
        if not (folder / file).is_file():
            raise FileNotFoundError(f"No tokenizer at {folder}: neither tokenizer.json nor {file} of a {name}.")
    return CLASSES[name]


def _token_of(role, engine, folder, settings):
    """The token of a role that stands around a text; None where the settings leave it out."""
    if not settings.get(f"add_{role}_token", True):
        return None
    token = settings.get("src_lang") if role == "src_lang" else text_of(settings.get(f"{role}_token"))
    candidates = [token, f"__{token}__"]  # as M2M-100 calls its languages
    found = next((name for name in candidates if name and engine.token_to_id(name) is not None), None)
    if found is None:
        raise ValueError(f"{folder} names {token!r} as its {role} token, which is not in its vocabulary.")
    return found


def _filled(template, names):
    """The parts of a template with tokens in the place of roles."""
    parts = []
    for part in template.split():
        role, colon, segment = part.partition(":")
        if role.startswith("$"):
            parts.append(part)
        elif names[role]:
            parts.append(f"{names[role]}{colon}{segment}")
    return parts
