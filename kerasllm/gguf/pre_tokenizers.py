"""How llama.cpp finds the words of a text for byte-level vocabularies: the names in `tokenizer.ggml.pre`.

Those of one row are alike. The patterns are those of the published tokenizer.json files that llama.cpp's stand for.
"""

from typing import NamedTuple

from tokenizers import Regex, pre_tokenizers

from kerasllm.tokenizers.patterns import LLAMA3, QWEN2

_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{{0}}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{{0}}|"
_SIGNS = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = _CASED.replace("{0}", "") + r"\p{N}" + _SIGNS
GPT4O = _CASED.replace("{0}", "(?i:'s|'t|'re|'ve|'m|'ll|'d)?") + r"\p{N}{1,3}" + _SIGNS
_GPT2_WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


class Words(NamedTuple):
    """A way to find words.

    Attributes:
        names: tuple of str, what llama.cpp calls it; the first is written.
        pattern: str or None, where it is GPT-2's.
        cuts_digits: bool, whether each digit is a word of its own.
        begins: bool, whether a text begins with the start token where the file does not say.
        takes_whole: bool, whether a word that is in the vocabulary is not made of merges.
    """

    names: tuple
    pattern: str | None = None
    cuts_digits: bool = False
    begins: bool = False
    takes_whole: bool = False

    def pre_tokenizer(self):
        """Makes a `tokenizers.pre_tokenizers.PreTokenizer`."""
        steps = [pre_tokenizers.Digits(individual_digits=True)] if self.cuts_digits else []
        if self.pattern is None:
            return pre_tokenizers.Sequence([*steps, _GPT2_WORDS]) if steps else _GPT2_WORDS
        split = pre_tokenizers.Split(Regex(self.pattern), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([*steps, split, byte_level])


WORDS = (
    Words(("gpt-2", "default", "mpt", "olmo", "jais", "phi-2", "trillion", "granite-docling")),
    Words(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), cuts_digits=True),
    Words(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0"),
        LLAMA3,
        begins=True,
        takes_whole=True,
    ),
    Words(("smaug-bpe", "dbrx"), LLAMA3),
    Words(("qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez"), QWEN2),
    Words(("tekken",), TEKKEN, begins=True, takes_whole=True),
    Words(("gpt-4o", "llama4"), GPT4O),
)
