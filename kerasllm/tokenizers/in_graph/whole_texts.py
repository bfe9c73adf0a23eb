"""What BPE tokenizers do to texts as a whole, before they look for words."""

import functools

import tensorflow as tf

from kerasllm.tokenizers.in_graph.refusal import refuse
from kerasllm.tokenizers.in_graph.unicode_forms import FORMS, LONGEST_SHRINKING, UnicodeForm
from kerasllm.tokenizers.spellings import META_SPACE

_SPACE = {"String": " "}
_KNOWN = "Unicode's forms, Replace of spaces by ▁ and Prepend for BPE"


def whole_text_steps(normalizer):
    """The steps of a normalizer.

    Args:
        normalizer: list of dicts, from tokenizer.json.

    Returns:
        A list of functions from valid UTF-8 (B,) to the same, and how many bytes at most one of their results stands
        for.
    """
    steps, shrinking = [], 1
    for step in normalizer:
        if step["type"] in FORMS:
            steps.append(UnicodeForm(step["type"]))
            shrinking *= LONGEST_SHRINKING
        elif step["type"] == "Prepend":
            steps.append(_prepending(step["prepend"], before=r"(?s)."))
        elif step["type"] == "Replace" and step["pattern"] == _SPACE and step["content"] == META_SPACE:
            steps.append(_with_meta_spaces)
        else:
            refuse("normalizer", step["type"], _KNOWN)
    return steps, shrinking


def meta_space_steps(pre_tokenizers, normalizer, has_added_tokens):
    """The steps of what stands in the place of a pre-tokenizer in converted files of SentencePiece.

    Args:
        pre_tokenizers, normalizer: lists of dicts, from tokenizer.json.
        has_added_tokens: bool, whether a text may be cut at tokens before.

    Returns:
        A list of functions from texts (B,) to the same, and whether words begin at each ▁.
    """
    known = "Metaspace with ▁, for BPE without ByteLevel"
    steps, splits = [], False
    has_spaces = all(step["type"] != "Replace" or step["pattern"] != _SPACE for step in normalizer)
    for step in pre_tokenizers:
        if step["type"] == "Split" and step["pattern"] == _SPACE and not has_spaces:
            continue  # Gemma's: there is nothing left to cut.
        if step["type"] != "Metaspace" or step["replacement"] != META_SPACE:
            refuse("pre-tokenizer", step["type"], known)
        else:
            scheme, splits = step["prepend_scheme"], step["split"]
            if scheme == "first" and has_added_tokens:
                refuse(
                    "pre-tokenizer", "Metaspace with prepend_scheme 'first', beside added tokens that are read", known
                )
            steps.append(_with_meta_spaces)
            if scheme != "never":
                steps.append(_prepending(META_SPACE, before=f"[^{META_SPACE}]"))
    return steps, splits


def _prepending(text, before):
    """Puts a text before those that begin with a pattern."""
    rewrite = text.replace("\\", r"\\") + r"\1"
    return functools.partial(tf.strings.regex_replace, pattern=f"^({before})", rewrite=rewrite)


def _with_meta_spaces(texts):
    return tf.strings.regex_replace(texts, " ", META_SPACE)
