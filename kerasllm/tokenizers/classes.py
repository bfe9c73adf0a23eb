"""The classes of tokenizers in transformers, and what each makes of a folder's files.

Most of them take only the vocabulary from a tokenizer.json: how words are found, and for some what stands around a
text, they make anew from tokenizer_config.json and their own defaults. So where the two files disagree, what
transformers computes is neither the one nor the other. `CLASSES` says for each class what it makes, as found by trying
them in transformers 5.24; a tokenizer.json of any other class is taken as it is.
"""

import base64
import json
from typing import NamedTuple

import tokenizers
from tokenizers import normalizers, processors

from kerasllm.tokenizers import class_words as words
from kerasllm.tokenizers.tokenizer_config import text_of


class TokenizerClass(NamedTuple):
    """What there is to say about a class of tokenizers.

    Attributes:
        around: str, the text, "$A", and the roles of the tokens around it.
        pair: str, the same for two texts.
        defaults: dict, settings that hold where the files say nothing.
        model: dict, how the model of a tokenizer.json is set up. "unk_token" names a role.
        words: function (settings, rules) -> dict, the normalizer, pre_tokenizer and decoder that the class makes;
            `rules` are SentencePiece's rules for characters, a normalizer or None. None for a class that does not read
            tokenizer.json.
        keeps_post_processor: bool, whether what a tokenizer.json puts around a text stays.
        more_tokens: function (settings) -> list of str, special tokens that the class adds to its vocabulary.
    """

    around: str
    pair: str
    defaults: dict
    model: dict = {}
    words: object = None
    keeps_post_processor: bool = False
    more_tokens: object = lambda settings: []


def class_of(settings, config, spec=None):
    """The name of the class that transformers' AutoTokenizer takes, without "Fast"; None for the one that takes a
    tokenizer.json as it is.

    Args:
        settings: dict, from `read_settings`.
        config: dict, the config.json beside the tokenizer.
        spec: dict or None, its tokenizer.json.
    """
    named = settings.get("tokenizer_class") or config.get("tokenizer_class")
    named = named.removesuffix("Fast") if isinstance(named, str) else None
    kind = config.get("model_type")
    usual = OF_MODELS.get(kind, named)
    if usual is None or named is None or kind in _NAMED_WRONGLY:
        return usual
    # Llama 3 and others that a file calls Llama's, though they are of another kind
    return None if named == "LlamaTokenizer" and '"ByteLevel"' in json.dumps(_parts(spec)) else named


def without_words(spec, row, settings):
    """A tokenizer.json (a dict) with the model that a class makes of its vocabulary, without added tokens, and without
    what finds words.

    Args:
        spec: dict, the tokenizer.json.
        row: the class's `TokenizerClass`.
        settings: dict, with what holds where the files say nothing.
    """
    model = {**row.model, **{key: spec["model"][key] for key in ("vocab", "merges") if key in spec["model"]}}
    if "unk_token" in model:
        model["unk_token"] = text_of(settings.get(model["unk_token"]))
    if model.get("unk_id", 0) is None:  # which its token says
        pieces = [piece for piece, _ in model["vocab"]]
        unknown = text_of(settings.get("unk_token"))
        model["unk_id"] = pieces.index(unknown) if unknown in pieces else 1
    bare = dict.fromkeys(("normalizer", "pre_tokenizer", "decoder"))
    return {**spec, **bare, "model": model, "added_tokens": []}


def equipped(model, row, settings, rules=None):
    """A model of `tokenizers`, or an engine with one, as an engine that finds a class's words."""
    engine = model if isinstance(model, tokenizers.Tokenizer) else tokenizers.Tokenizer(model)
    for name, part in row.words(settings, rules).items():
        if part is not None:
            setattr(engine, name, part)
    return engine


def rules_of(normalizer):
    """SentencePiece's rules for characters among the steps of a normalizer in a tokenizer.json; None without."""
    steps = (normalizer or {}).get("normalizers", [normalizer or {}])
    rules = next((step["precompiled_charsmap"] for step in steps if step.get("type") == "Precompiled"), None)
    return rules and normalizers.Precompiled(base64.b64decode(rules))


def put_around(engine, row, settings, where):
    """Sets what stands around a text, of those tokens that the settings do not leave out.

    Args:
        engine: `tokenizers.Tokenizer`, with its special tokens.
        row: a `TokenizerClass`.
        settings: dict.
        where: str, the folder, for messages.

    Raises:
        ValueError: where one of the tokens is not in the vocabulary.
    """
    around, pair = row.around, row.pair
    if settings.get("legacy_behaviour"):  # NLLB's, with the language behind the text
        around, pair = "$A eos src_lang", "$A $B eos src_lang"
    names = {role: _token_of(role, engine, settings, where) for role in around.split() if role != "$A"}
    engine.post_processor = None
    if any(names.values()):
        engine.post_processor = processors.TemplateProcessing(
            single=_filled(around, names),
            pair=_filled(pair, names),
            special_tokens=[(token, engine.token_to_id(token)) for token in set(names.values()) if token],
        )


def _token_of(role, engine, settings, where):
    """The token of a role that stands around a text; None where the settings leave it out."""
    token = settings.get("src_lang") if role == "src_lang" else text_of(settings.get(f"{role}_token"))
    if token is None or not settings.get(f"add_{role}_token", True):
        return None
    candidates = [token, f"__{token}__"]  # as M2M-100 calls its languages
    found = next((name for name in candidates if engine.token_to_id(name) is not None), None)
    if found is None:
        raise ValueError(f"{where} names {token!r} as its {role} token, which is not in its vocabulary.")
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


def _parts(spec):
    """A tokenizer.json without its tokens."""
    return {name: part for name, part in (spec or {}).items() if name not in ("model", "added_tokens")}


def _sentinels(settings):
    """T5's, which count unless the settings list others, or say that there are none."""
    is_listed = "additional_special_tokens" in settings or settings.get("extra_special_tokens")
    return [] if is_listed else [f"<extra_id_{number}>" for number in range(settings["extra_ids"])]


def _tokens(names, **more):
    """Settings from "role:token …"."""
    return {f"{role}_token": token for role, _, token in (name.partition(":") for name in names.split())} | more


_FAIRSEQ_TOKENS = "bos:<s> eos:</s> unk:<unk> pad:<pad> cls:<s> sep:</s> mask:<mask>"
_WIDE_MASK = {"content": "<mask>", "lstrip": True}
_GPT2_TOKENS, _T5_TOKENS = "bos:{0} eos:{0} unk:{0}".format("<|endoftext|>"), "eos:</s> unk:<unk> pad:<pad>"
_QWEN2_TOKENS = "eos:{0} unk:{0} pad:{0}".format("<|endoftext|>")
_GEMMA_TOKENS = "bos:<bos> eos:<eos> unk:<unk> pad:<pad> mask:<mask>"
_INFILLING_TOKENS = "prefix:▁<PRE> middle:▁<MID> suffix:▁<SUF> eot:▁<EOT>"
_PLAIN = {"add_bos_token": False, "add_eos_token": False}
_BPE = {"type": "BPE"}
_OF_SENTENCEPIECE = {"type": "BPE", "fuse_unk": True, "byte_fallback": True}
_UNIGRAM = {"type": "Unigram", "unk_id": 3}
_WORDPIECE = {
    "type": "WordPiece", "unk_token": "unk_token", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
}  # fmt: skip


def _with_ends(tokens, model, words, keeps=True, **flags):
    """A class that puts a start and an end token around a text where "add_bos_token" and "add_eos_token" say so."""
    defaults = _tokens(tokens, **{**_PLAIN, **flags})
    return TokenizerClass("bos $A eos", "bos $A eos bos:1 $B:1 eos:1", defaults, model, words, keeps)


def _translator(tokens, model, words, languages_first=True, **more):
    """A class that puts the language of a text before it, or behind its end."""
    around = "src_lang {} eos" if languages_first else "{} eos src_lang"
    defaults = _tokens(tokens, **more)
    return TokenizerClass(around.format("$A"), around.format("$A $B"), defaults, model, words)


def _t5(model, words, extra_ids, **flags):
    defaults = {role: {"content": token, **flags} for role, token in _tokens(_T5_TOKENS).items()}
    defaults["extra_ids"] = extra_ids
    return TokenizerClass("$A eos", "$A eos $B eos", defaults, model, words, more_tokens=_sentinels)


_ROBERTA = TokenizerClass("cls $A sep", "cls $A sep sep $B sep", _tokens(_FAIRSEQ_TOKENS), _BPE, words.gpt2_words)
_BERT = TokenizerClass(
    "cls $A sep",
    "cls $A sep $B:1 sep:1",
    _tokens("unk:[UNK] sep:[SEP] pad:[PAD] cls:[CLS] mask:[MASK]"),
    _WORDPIECE,
    words.bert_words,
)
_MPNET = _BERT._replace(
    pair="cls $A sep sep $B sep",
    defaults=_tokens("bos:<s> eos:</s> unk:[UNK] pad:<pad> cls:<s> sep:</s>", mask_token=_WIDE_MASK),
)
CLASSES = {
    "GPT2Tokenizer": _with_ends(_GPT2_TOKENS, _BPE, words.gpt2_words),
    "GPTNeoXTokenizer": _with_ends(f"{_GPT2_TOKENS} pad:<|padding|>", _BPE, words.gpt_neox_words, keeps=False),
    "Qwen2Tokenizer": _with_ends(_QWEN2_TOKENS, _BPE, words.qwen2_words),
    "RobertaTokenizer": _ROBERTA,
    "BartTokenizer": _ROBERTA,
    "BertTokenizer": _BERT,
    "DistilBertTokenizer": _BERT,
    "ElectraTokenizer": _BERT,
    "MobileBertTokenizer": _BERT,
    "MPNetTokenizer": _MPNET,
    "DebertaV2Tokenizer": _BERT._replace(
        defaults={**_BERT.defaults, **_tokens("bos:[CLS] eos:[SEP]")},
        model={"type": "Unigram", "unk_id": None},
        words=words.deberta_words,
    ),
    "MarianTokenizer": TokenizerClass("$A eos", "$A $B eos", _tokens(_T5_TOKENS)),
    "M2M100Tokenizer": _translator(_FAIRSEQ_TOKENS, {}, None, src_lang="en"),
    "AlbertTokenizer": TokenizerClass(
        "cls $A sep",
        "cls $A sep $B:1 sep:1",
        _tokens("bos:[CLS] eos:[SEP] unk:<unk> sep:[SEP] pad:<pad> cls:[CLS] mask:[MASK]"),
        {**_UNIGRAM, "unk_id": 1},
        words.albert_words,
    ),
    "XLMRobertaTokenizer": TokenizerClass(
        "bos $A eos", "bos $A eos eos $B eos", _tokens(_FAIRSEQ_TOKENS), _UNIGRAM, words.split_at_space
    ),
    "MBartTokenizer": _translator(
        _FAIRSEQ_TOKENS, _UNIGRAM, words.mbart_words, languages_first=False, src_lang="en_XX"
    ),
    "MBart50Tokenizer": _translator(_FAIRSEQ_TOKENS, _UNIGRAM, words.mbart50_words, src_lang="en_XX"),
    "NllbTokenizer": _translator(
        _FAIRSEQ_TOKENS,
        {"type": "BPE", "unk_token": "unk_token", "fuse_unk": True},
        words.nllb_words,
        src_lang="eng_Latn",
    ),
    "T5Tokenizer": _t5({**_UNIGRAM, "unk_id": 2}, words.t5_words, extra_ids=100),
    "ByT5Tokenizer": _t5({}, words.byt5_words, extra_ids=125, lstrip=True, rstrip=True),
    "LlamaTokenizer": _with_ends(
        "bos:<s> eos:</s> unk:<unk>", _OF_SENTENCEPIECE, words.llama_words, add_bos_token=True
    ),
    "CodeLlamaTokenizer": _with_ends(
        f"bos:<s> eos:</s> unk:<unk> {_INFILLING_TOKENS}",
        {**_OF_SENTENCEPIECE, "unk_token": "unk_token"},
        words.code_llama_words,
        keeps=False,
        add_bos_token=True,
    ),
    "GemmaTokenizer": _with_ends(
        _GEMMA_TOKENS, {**_OF_SENTENCEPIECE, "unk_token": "unk_token"}, words.gemma_words, add_bos_token=True
    ),
}
# The classes of models whose folders do not name one; None where a tokenizer.json is taken as it is whatever they name.
OF_MODELS = {
    "gpt2": "GPT2Tokenizer",
    "opt": "GPT2Tokenizer",
    "gpt_neox": "GPTNeoXTokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "roberta": "RobertaTokenizer",
    "bart": "RobertaTokenizer",
    "bert": "BertTokenizer",
    "distilbert": "BertTokenizer",
    "ernie": "BertTokenizer",
    "electra": "BertTokenizer",
    "albert": "AlbertTokenizer",
    "mpnet": "MPNetTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "mbart": "MBartTokenizer",
    "m2m_100": "M2M100Tokenizer",
    "marian": "MarianTokenizer",
    "t5": "T5Tokenizer",
    "mt5": "T5Tokenizer",
    "gemma": "GemmaTokenizer",
    "gemma2": "GemmaTokenizer",
    "gemma3_text": "GemmaTokenizer",
    **dict.fromkeys(("mistral", "ministral", "phi3", "ernie4_5", "olmo2", "modernbert")),
}
# Models whose published folders name a wrong class so often that transformers does not heed it.
_NAMED_WRONGLY = ("qwen2",)
