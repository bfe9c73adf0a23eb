"""Cleaning: documents as a reader would see them, without damage, and without what nobody would read.

Every step is a rule with a name. Those that change text stand here, in markup.py (HTML), boilerplate.py (lines of web
sites) and personal_data.py (masks); quality.py holds those that remove documents.
"""

import difflib
import functools
import re
import unicodedata
from collections.abc import Iterable

import ftfy

from kerasllm.data.boilerplate import without_citations, without_notices, without_unfinished_lines
from kerasllm.data.filtering import FilteredDocuments, Outcome
from kerasllm.data.markup import has_tags, text_of_html, without_nested_escapes
from kerasllm.data.personal_data import MASKS
from kerasllm.data.quality import ENOUGH_WORDS, SHARE_RULES, Measures
from kerasllm.data.words import composed

_MAX_PASSES = 10

# ftfy looks for mojibake at 5 MB/s, and these fast: it is two signs of single-byte encodings side by side (no Chinese,
# so that ftfy need not read that), one of them sometimes turned into a space, or a sign of the C1 block.
_MAYBE_BROKEN = re.compile("[\x80-\x9f\ud800-\udfff]|[ÃÂ] |[\xa0-\u2e7f\uf8ff\ufb01\ufb02\ufffd]{2}")
_ENCODING_ONLY = ftfy.TextFixerConfig(
    unescape_html=False,
    remove_terminal_escapes=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    uncurl_quotes=False,
    fix_line_breaks=False,
    remove_control_chars=False,
    normalization=None,
    explain=False,
)
_TERMINAL_CODE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_INVISIBLE_OR_LIGATURE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u2060\u206a-\u206f\ufb00-\ufb06\ufdd0-\ufdef\ufeff\ufff9-\ufffc"
    "\ufffe\uffff]"
)
_ZERO_WIDTH_SPACE = re.compile("(?<![\u0e00-\u109f\u1780-\u17ff])\u200b")  # elsewhere it parts words, as in Khmer
_LINE_END = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_OTHER_SPACE = re.compile("[\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_WIDE_GAP = re.compile(r"(?<=[^ \t\n])  +")
_BLANK_LINES = re.compile(r"\n{3,}")


def clean(
    documents: Iterable[str],
    rules: str | Iterable[str] = ("repair", "quality"),
    skip: str | Iterable[str] = (),
    *,
    min_words: int = 1,
    max_words: int | None = None,
) -> FilteredDocuments:
    """Repairs documents, and leaves out those that are no text to learn from, one after the other.

    Made for prose, plays, verse and web pages in any language. In scripts without spaces, such as Chinese, every
    character counts as a word. Rules that judge by shares pass over documents of fewer than 50 words, so that sentences
    stay; `min_words=50` removes them, as Gopher does. Program code stays whole only without the rules "html",
    "white_space" and those of quality.

    Rules that change text are applied again until nothing changes, so that cleaning what is clean changes nothing. A
    document of which nothing is left, or that is still changing after 10 rounds, is removed by the rule that changed it
    last.

    Args:
        documents: iterable of str. One that is no iterator can be iterated over again.
        rules: names of rules or of these groups, one or several. The order is always the one below.

            repair: rules that change text.
                encoding: mojibake ("schÃ¶n") and surrogates, repaired by ftfy. What is lost becomes U+FFFD.
                characters: Unicode's NFC, without control and invisible characters, terminal codes and ligatures (ﬁ).
                html: the text of pages, without scripts, navigation, footers and link lists; "&amp;" becomes "&". Tags
                    that are escaped, and so perhaps the subject of the text, go as well.
                boilerplate: lines that are notices of web sites, on cookies, copyright, scripts, logging in.
                citations: Wikipedia's "[citation needed]", and "[1]" behind punctuation.
                white_space: one kind of line end and of space; spaces in a row only at the beginning of lines, none at
                    their ends; at most one blank line in a row.
            quality: rules that remove documents.
                too_short, too_long: `min_words` and `max_words`.
                placeholder: "lorem ipsum".
                garbled: over 1 % of the characters are U+FFFD.
                few_letters: under 40 % of the characters are letters.
                symbols: over one "#" or ellipsis in 10 words.
                word_length: under 2 or over 10 letters per word; not for scripts without spaces.
                bullet_lines, ellipsis_lines: over 90 % of the lines begin with a bullet, 30 % end in an ellipsis.
                repeated_lines: over a third of the characters stand in lines that stood before.
                frequent_phrase: the most frequent phrase of 2 (3, 4) words takes up over 20 % (18 %, 16 %).
                repeated_phrases: phrases of 5 (6 … 10) words that stood before take up over 20 % (19 % … 15 %).
            personal: [EMAIL], [CARD], [IP] and [PHONE] in the place of such data; found by their form alone.
                email, card, ip, phone.
            strict: what C4 does and many good texts would not survive.
                unfinished_lines: lines that do not end like a sentence are left out.
                curly_brackets: documents with a "{" are removed.
        skip: names of rules or groups to leave out.
        min_words, max_words: int, the least and the most words of a document. None: no limit.

    Returns:
        `FilteredDocuments`, an iterable of str whose `report` says what each rule did.

    Raises:
        TypeError: for documents that are not str.
        ValueError: for unknown rules, and limits that nothing can keep.

    Example:

    >>> documents = clean(["<p>Das ist schÃ¶n &amp; gut.</p>", "-- * --"])
    >>> list(documents)
    ['Das ist schön & gut.']
    >>> documents.report.removed["too_short"]
    1
    """
    chosen = _names("rules", rules) - _names("skip", skip)
    if (min_words != 1 and "too_short" not in chosen) or (max_words is not None and "too_long" not in chosen):
        raise ValueError("min_words and max_words are for the rules 'too_short' and 'too_long': add them to the rules.")
    if max_words is not None and max_words < max(min_words, 1):
        raise ValueError(f"max_words={max_words} is below min_words={max(min_words, 1)}: no document could stay.")
    changes = {name: change for name, change in _CHANGES.items() if name in chosen}
    removals = _REMOVALS | {
        "too_short": lambda measures: measures.num_words < min_words,
        "too_long": lambda measures: max_words is not None and measures.num_words > max_words,
    }
    removals = {name: is_bad for name, is_bad in removals.items() if name in chosen}
    return FilteredDocuments(documents, [*changes, *removals], lambda: functools.partial(_cleaned, changes, removals))


def _names(option, given):
    """The rules that names of rules and of groups stand for, as a set."""
    given = [given] if isinstance(given, str) else list(given)
    for name in given:
        if name not in _GROUPS and name not in _RULES:
            near = difflib.get_close_matches(str(name), [*_GROUPS, *_RULES], n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"The groups are {', '.join(_GROUPS)}."
            raise ValueError(f"{option} names {name!r}, which is no rule. {hint} The rules are {', '.join(_RULES)}.")
    return {rule for name in given for rule in _GROUPS.get(name, [name])}


def _cleaned(changes, removals, document):
    text, changed_by = _changed(changes, document)
    if text is None or (document and not text):
        return Outcome(None, tuple(changed_by), changed_by[-1])
    measures = Measures(text)
    for name, is_bad in removals.items():
        if (name not in SHARE_RULES or measures.num_words >= ENOUGH_WORDS) and is_bad(measures):
            return Outcome(None, tuple(changed_by), name)
    return Outcome(text, tuple(changed_by))


def _changed(changes, text):
    """The text that no rule changes any more, or None, and the rules that changed it, the latest last."""
    changed_by = {}
    for _ in range(_MAX_PASSES):
        before = text
        for name, change in changes.items():
            after = change(text)
            if after != text:
                changed_by.pop(name, None)
                changed_by[name], text = None, after
        if text == before:
            return text, list(changed_by)
    return None, list(changed_by)


def _without_mojibake(text):
    if text.isascii() or not _MAYBE_BROKEN.search(text):
        return text
    return "\n".join(
        ftfy.fix_text(line, _ENCODING_ONLY) if _MAYBE_BROKEN.search(line) else line for line in text.split("\n")
    )


def _plain_characters(text):
    if "\x1b" in text:
        text = _TERMINAL_CODE.sub("", text)
    if "\u200b" in text:
        text = _ZERO_WIDTH_SPACE.sub("", text)
    return composed(_INVISIBLE_OR_LIGATURE.sub(_letters, text))


def _letters(match):
    return unicodedata.normalize("NFKC", match[0]) if "\ufb00" <= match[0] <= "\ufb06" else ""


def _without_markup(text):
    if "&" in text:
        text = without_nested_escapes(text)
    if has_tags(text):
        return text_of_html(text)
    return ftfy.fixes.unescape_html(text) if "&" in text else text


def _plain_space(text):
    if not text.isascii():
        text = _OTHER_SPACE.sub(" ", text)
    text = _LINE_END.sub("\n", text)
    if "  " in text:
        text = _WIDE_GAP.sub(" ", text)
    text = "\n".join(map(str.rstrip, text.split("\n")))
    return _BLANK_LINES.sub("\n\n", text).strip()


# In the order in which they apply.
_CHANGES = {
    "encoding": _without_mojibake,
    "characters": _plain_characters,
    "html": _without_markup,
    "boilerplate": without_notices,
    "citations": without_citations,
    "unfinished_lines": without_unfinished_lines,
    "white_space": _plain_space,
    **MASKS,
}
_REMOVALS = {
    "too_short": None,  # of the arguments of `clean`
    "too_long": None,
    "placeholder": lambda measures: "lorem ipsum" in measures.text.lower(),
    **SHARE_RULES,
    "curly_brackets": lambda measures: "{" in measures.text,
}
_RULES = (*_CHANGES, *_REMOVALS)
_GROUPS = {
    "repair": ("encoding", "characters", "html", "boilerplate", "citations", "white_space"),
    "quality": ("too_short", "too_long", "placeholder", *SHARE_RULES),
    "personal": tuple(MASKS),
    "strict": ("unfinished_lines", "curly_brackets"),
}
