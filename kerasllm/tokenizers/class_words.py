"""How the classes of tokenizers in transformers find words.

Each function takes a class's settings and SentencePiece's rules for characters (a normalizer or None), and returns a
dict of the normalizer, pre_tokenizer and decoder that the class makes; None stands for what it leaves out.
"""

from tokenizers import Regex, decoders, normalizers, pre_tokenizers

from kerasllm.tokenizers import patterns

_MARK = "▁"  # what SentencePiece writes for a space


def _byte_level(settings, normalizer=None, pattern=None):
    """Byte-level BPE's words: GPT-2's, or those of another pattern."""
    characters = pre_tokenizers.ByteLevel(settings.get("add_prefix_space", False), use_regex=pattern is None)
    split = pattern and pre_tokenizers.Split(Regex(pattern), "isolated")
    return {
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizers.Sequence([split, characters]) if split else characters,
        "decoder": decoders.ByteLevel(),
    }


def gpt2_words(settings, rules=None):
    return _byte_level(settings)


def gpt_neox_words(settings, rules=None):
    return _byte_level(settings, normalizers.NFC())


def byt5_words(settings, rules=None):
    return _byte_level({})


def qwen2_words(settings, rules=None):
    return _byte_level(settings, normalizers.NFC(), patterns.QWEN2)


def bert_words(settings, rules=None):
    return {
        "normalizer": normalizers.BertNormalizer(
            handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
            strip_accents=settings.get("strip_accents"),
            lowercase=settings.get("do_lower_case", True),
        ),
        "pre_tokenizer": pre_tokenizers.BertPreTokenizer(),
        "decoder": decoders.WordPiece(),
    }


def llama_words(settings, rules):
    scheme = "always" if settings.get("legacy", False) else "first"
    return _spaces_kept(settings, scheme, is_stripped=settings.get("add_prefix_space", True))


def code_llama_words(settings, rules):
    return _spaces_kept(settings, "first", is_stripped=True)


def _spaces_kept(settings, scheme, is_stripped):
    """A space before the text, or before each part of it, and no words: Llama's BPE reaches across spaces."""
    scheme = scheme if settings.get("add_prefix_space", True) else "never"
    steps = [decoders.Replace(_MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    return {
        "pre_tokenizer": pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False),
        "decoder": decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if is_stripped else steps),
    }


def gemma_words(settings, rules):
    return {
        "normalizer": normalizers.Replace(" ", _MARK),
        "pre_tokenizer": pre_tokenizers.Split(" ", "merged_with_previous"),
        "decoder": decoders.Sequence([decoders.Replace(_MARK, " "), decoders.ByteFallback(), decoders.Fuse()]),
    }


def split_at_space(settings, rules):
    """Words between white space, each with a space before it: T5's, XLM-R's."""
    scheme = "always" if settings.get("add_prefix_space", True) else "never"
    spaces = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    return {
        "normalizer": rules,
        "pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), spaces]),
        "decoder": decoders.Metaspace(prepend_scheme=scheme),
    }


def albert_characters(settings):
    """Quotes as in LaTeX are one sign; without accents and in lower case unless the settings keep them."""
    steps = [normalizers.Replace(quote, '"') for quote in ("``", "''")]
    if not settings.get("keep_accents", False):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if settings.get("do_lower_case", True):
        steps.append(normalizers.Lowercase())
    return steps


def albert_words(settings, rules):
    steps = [*albert_characters(settings), *([rules] if rules else [])]
    return {**split_at_space(settings, None), "normalizer": normalizers.Sequence(steps)}


def deberta_words(settings, rules):
    """Lines as spaces, and Unicode's composed letters."""
    lower = [normalizers.Lowercase()] if settings.get("do_lower_case") else []
    spaces = [normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "), normalizers.NFC()]
    signs = [pre_tokenizers.Punctuation("isolated")] if settings.get("split_by_punct") else []
    scheme = "always" if settings.get("add_prefix_space", True) else "first"
    return {
        "normalizer": normalizers.Sequence([*lower, *spaces, normalizers.Strip(left=False, right=True)]),
        "pre_tokenizer": pre_tokenizers.Sequence([*signs, pre_tokenizers.Metaspace(prepend_scheme=scheme)]),
        "decoder": decoders.Metaspace(prepend_scheme=scheme),
    }


def t5_words(settings, rules):
    return split_at_space({}, rules)


def mbart_words(settings, rules):
    return split_at_space({}, None)


def mbart50_words(settings, rules):
    one_space = normalizers.Replace(Regex(" {2,}"), " ")
    return {
        "normalizer": normalizers.Sequence([rules, one_space]) if rules else one_space,
        "pre_tokenizer": pre_tokenizers.Metaspace(),
        "decoder": decoders.Metaspace(),
    }


def nllb_words(settings, rules):
    words = mbart50_words(settings, rules)
    return words if rules else {**words, "normalizer": None}
