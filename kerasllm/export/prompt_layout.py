"""What stands around the text of a prompt with an image, for a graph, which runs no chat template.

A template is run once with a mark in the place of the text. Where special tokens stand, a text can be cut and keeps its
ids: so those up to the last special token before the mark are known, and those from the next one on.
"""

import re
from typing import NamedTuple

from kerasllm.tokenizers.chat_template import PRIVATE_USE

_MARK = chr(PRIVATE_USE[-1])


class PromptLayout(NamedTuple):
    """A prompt of one image and a text.

    Attributes:
        before, alone: lists of lists of int, one for each grid that an image can be cut into: the ids that stand before
            a text, and all of those of an image without a text.
        left, right: str, what stands directly around the text and is read with it.
        behind: list of int, the ids behind that.
        trims: bool, whether white space at the text's ends is left out.
        bare: bool, whether the text has no special tokens of the tokenizer's own around it.
    """

    before: list
    alone: list
    left: str
    right: str
    behind: list
    trims: bool
    bare: bool


def prompt_layout(tokenizer, processor, grids):
    """The `PromptLayout` of `data.image_prompt`.

    Args:
        tokenizer, processor: the model's.
        grids: list of (rows, columns).

    Raises:
        ValueError: for a chat template in which it cannot be found.
    """

    def ids_of(text):
        return next(tokenizer.encode_stream([text], parse_special=True, bare=True)).tolist()

    images = [processor.image_text(*grid) for grid in grids]
    if tokenizer.chat_template is None:
        ids = [ids_of(image) for image in images]
        return PromptLayout(ids, ids, "", "", [], False, False)
    head, (left, right), trims = _written(tokenizer, processor, f" {_MARK} ")
    special = _special_pattern(tokenizer)
    whole = [f"{head}{image}{left}" for image in images]
    cuts = [max((found.end() for found in special.finditer(text)), default=0) for text in whole]
    before = [ids_of(text[:cut]) for text, cut in zip(whole, cuts, strict=True)]
    outer = [text[cut:] for text, cut in zip(whole, cuts, strict=True)]
    found = special.search(right)
    end = found.start() if found else len(right)
    if len(set(outer)) > 1:
        raise ValueError("The chat template writes images of several sizes in several ways: export with text=False.")
    alone_head, alone_tail, _ = _written(tokenizer, processor, None)
    alone = [ids_of(f"{alone_head}{image}{alone_tail}") for image in images]
    return PromptLayout(before, alone, outer[0], right[:end], ids_of(right[end:]), trims, True)


def _written(tokenizer, processor, text):
    """What a template writes before an image; what behind it, or of a text with a mark what is around the mark; and
    whether white space around it is cut off."""
    parts = [{"type": "image"}, *([] if text is None else [{"type": "text", "text": text}])]
    written = []

    def note(text):
        written.append(text)
        return text

    tokenizer.encode_chat([{"role": "user", "content": parts}], expand=note)
    head, *tails = written[0].split(processor.tokens.placeholder)
    if len(tails) != 1 or (text is not None and tails[0].count(_MARK) != 1):
        raise ValueError("The chat template does not write an image and then a text: export with text=False.")
    if text is None:
        return head, tails[0], False
    left, right = tails[0].split(_MARK)
    trims = not (left.endswith(" ") and right.startswith(" "))
    return head, (left, right) if trims else (left[:-1], right[1:]), trims


def _special_pattern(tokenizer):
    added = tokenizer.engine.get_added_tokens_decoder().values()
    special = sorted((token.content for token in added if token.special), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, special)) or "(?!)")
