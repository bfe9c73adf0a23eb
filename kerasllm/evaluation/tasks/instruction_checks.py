"""Whether an answer is as an instruction says: the kinds of IFEval (Zhou et al. 2023, https://arxiv.org/abs/2311.07911)
that need no language to be recognised, by its names and with its arguments.

Sentences and words are told apart by simple rules, where IFEval has NLTK's; words are not read as expressions.
"""

import json
import re
from collections import Counter

_RELATIONS = {"less than": lambda count, limit: count < limit, "at least": lambda count, limit: count >= limit}


def _related(count, relation, limit):
    if relation not in _RELATIONS:
        raise ValueError(f'A number is "less than" or "at least" another, got {relation!r}.')
    return _RELATIONS[relation](count, limit)


def _occurrences(word, answer):
    return len(re.findall(re.escape(word), answer, re.IGNORECASE))


def _existence(answer, keywords):
    return all(_occurrences(word, answer) for word in keywords)


def _frequency(answer, keyword, frequency, relation):
    return _related(_occurrences(keyword, answer), relation, frequency)


def _forbidden(answer, forbidden_words):
    return not any(re.search(rf"\b{re.escape(word)}\b", answer, re.IGNORECASE) for word in forbidden_words)


def _letters(answer, letter, let_frequency, let_relation):
    return _related(Counter(answer.lower())[letter.lower()], let_relation, let_frequency)


def _sentences(answer, num_sentences, relation):
    return _related(len(re.findall(r"[^.!?\s][^.!?]*(?:[.!?]+|$)", answer)), relation, num_sentences)


def _words(answer, num_words, relation):
    return _related(len(re.findall(r"\w+", answer)), relation, num_words)


def _paragraphs(answer, num_paragraphs):
    """Between lines of three asterisks, the first and the last of which may be empty."""
    inner = [bool(part.strip()) for part in re.split(r"\s?\*\*\*\s?", answer)]
    return all(inner[1:-1]) and sum(inner) == num_paragraphs


def _first_word(answer, num_paragraphs, nth_paragraph, first_word):
    parts = answer.split("\n\n")
    count = sum(bool(part.strip()) for part in parts)
    if count != num_paragraphs or nth_paragraph > count or not (words := parts[nth_paragraph - 1].split()):
        return False
    return re.split("[.,?!'\"]", words[0].lstrip("'").lstrip('"'))[0].lower() == first_word.lower()


def _placeholders(answer, num_placeholders):
    return len(re.findall(r"\[.*?\]", answer)) >= num_placeholders


def _postscript(answer, postscript_marker):
    marker = postscript_marker.lower()
    patterns = {"p.p.s": r"p\.\s?p\.\s?s", "p.s.": r"p\.\s?s\."}
    return re.search(patterns.get(marker, re.escape(marker)), answer.lower()) is not None


def _bullets(answer, num_bullets):
    return len(re.findall(r"^\s*(?:\*[^*\n].*|-.*)$", answer, re.MULTILINE)) == num_bullets


def _constrained(answer):
    return any(f"My answer is {choice}." in answer for choice in ("yes", "no", "maybe"))


def _highlights(answer, num_highlights):
    single, double = (
        [found.strip("*").strip() for found in re.findall(pattern, answer)]
        for pattern in (r"\*[^\n*]*\*", r"\*\*[^\n*]*\*\*")
    )
    return sum(map(bool, single + double)) >= num_highlights


def _sections(answer, section_spliter, num_sections):  # IFEval's spelling
    return len(re.findall(rf"{re.escape(section_spliter)}\s?\d+", answer)) >= num_sections


def _is_json(answer):
    answer = re.sub(r"^```(?:json|Json|JSON)?", "", answer.strip()).removesuffix("```")
    try:
        json.loads(answer)
    except ValueError:
        return False
    return True


def _title(answer):
    return any(title.strip("<> ") for title in re.findall(r"<<[^\n]+>>", answer))


def _capital_words(answer, capital_frequency, capital_relation):
    return _related(sum(map(str.isupper, re.findall(r"\w+", answer))), capital_relation, capital_frequency)


def _two_responses(answer):
    parts = [part.strip() for part in answer.split("******")]
    given = [part for part in parts if part]
    return all(parts[1:-1]) and len(given) == 2 and given[0] != given[1]


def _end(answer, end_phrase):
    return answer.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _quoted(answer):
    answer = answer.strip()
    return len(answer) > 1 and answer[0] == answer[-1] == '"'


def _repeats(answer, prompt_to_repeat):
    return answer.strip().lower().startswith(prompt_to_repeat.strip().lower())


CHECKS = {
    "keywords:existence": _existence,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": _letters,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_words": _words,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _is_json,
    "detectable_format:title": _title,
    "change_case:english_capital": str.isupper,
    "change_case:english_lowercase": str.islower,
    "change_case:capital_word_frequency": _capital_words,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeats,
    "startend:end_checker": _end,
    "startend:quotation": _quoted,
    "punctuation:no_comma": lambda answer: "," not in answer,
}


def follows(answer, check, arguments):
    """Whether an answer is as an instruction says. An empty one never is.

    Args:
        answer: str.
        check: str, one of `CHECKS`.
        arguments: dict, by IFEval's names.
    """
    return bool(answer.strip()) and bool(CHECKS[check](answer, **arguments))


def follows_loosely(answer, check, arguments):
    """The same of any of eight forms of the answer: without its first line, its last, both or none, and these without
    asterisks. Else a greeting or bold type spoils an answer."""
    lines = answer.split("\n")
    forms = ["\n".join(lines[begin:end]).strip() for begin in (0, 1) for end in (None, -1)]
    return any(follows(text, check, arguments) for form in forms for text in (form, form.replace("*", "")))
