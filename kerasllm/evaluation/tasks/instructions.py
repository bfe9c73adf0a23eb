"""Instructions whose answers can be checked by rules: made up, or read from files of IFEval's format."""

import warnings

import numpy as np

from kerasllm.evaluation.items import drawn_items, read_json_lines
from kerasllm.evaluation.tasks.instruction_checks import CHECKS
from kerasllm.evaluation.tasks.questions import Instruction

_TOPICS = (
    "a walk along a river", "how bread is made", "why leaves fall in autumn", "a day at the market", "old lighthouses",
    "learning to swim", "the life of bees", "a train journey", "growing tomatoes", "a letter to a friend",
    "the history of clocks", "a rainy afternoon", "choosing a book", "stars in winter", "how bridges stand",
)  # fmt: skip
_WORDS = ("quiet", "journey", "simple", "bright", "together", "careful")
_ENDINGS = ("Is there anything else I can help with?", "That is all there is to say.")


def instructions(conditions):
    """Short texts about something, to be written without commas, in capitals, as JSON, with a title and so on: the
    answer is checked by the rules of IFEval (https://arxiv.org/abs/2311.07911)."""
    rng = np.random.default_rng(conditions.seed)
    made = []
    for number in range(conditions.limit):
        check, arguments, said = _KINDS[number % len(_KINDS)](rng)
        topic = rng.choice(_TOPICS)
        made.append(Instruction(f"Write a short text about {topic}. {said}", ((check, arguments),), (_kind(check),)))
    return made


def _kind(check):
    return check.partition(":")[2].replace("_", " ")


def _plain(check, said, **arguments):
    return lambda rng: (check, arguments, said)


def _counted(check, argument, numbers, said, **arguments):
    """A kind that is about a number, from one to another."""

    def make(rng):
        number = int(rng.integers(numbers[0], numbers[1] + 1))
        return check, {argument: number, **arguments}, said.format(number)

    return make


def _keywords(rng):
    words = [str(word) for word in rng.permutation(_WORDS)[:2]]
    return "keywords:existence", {"keywords": words}, f"Use the words {words[0]} and {words[1]}."


def _end(rng):
    ending = str(rng.choice(_ENDINGS))
    return (
        "startend:end_checker",
        {"end_phrase": ending},
        f'The last words must be "{ending}", with nothing behind them.',
    )


_KINDS = (
    _plain("punctuation:no_comma", "Do not use any comma."),
    _plain("change_case:english_lowercase", "All of it must be in lowercase letters, without any capital letter."),
    _plain("change_case:english_capital", "All of it must be in CAPITAL LETTERS."),
    _plain("detectable_format:json_format", "The whole answer must be JSON."),
    _plain("detectable_format:title", "Give it a title in double angle brackets, such as <<title>>."),
    _plain("startend:quotation", "Put the whole answer in double quotation marks."),
    _plain("combination:two_responses", "Write two different texts, with six asterisks (******) between them."),
    _counted(
        "detectable_format:number_bullet_lists",
        "num_bullets",
        (2, 4),
        "It must have exactly {} bullet points, each a line that begins with *.",
    ),
    _counted(
        "length_constraints:number_words", "num_words", (30, 60), "Use fewer than {} words.", relation="less than"
    ),
    _counted(
        "length_constraints:number_sentences",
        "num_sentences",
        (3, 6),
        "Use at least {} sentences.",
        relation="at least",
    ),
    _counted(
        "length_constraints:number_paragraphs",
        "num_paragraphs",
        (2, 3),
        "It must have {} paragraphs, with three asterisks (***) between them.",
    ),
    _counted(
        "detectable_content:number_placeholders",
        "num_placeholders",
        (2, 4),
        "Use at least {} placeholders in square brackets, such as [name].",
    ),
    _counted(
        "detectable_format:number_highlighted_sections",
        "num_highlights",
        (2, 3),
        "Highlight at least {} parts of it with asterisks, such as *this part*.",
    ),
    _plain("detectable_content:postscript", "Add a postscript that begins with P.S.", postscript_marker="P.S."),
    _keywords,
    _plain("keywords:forbidden_words", "Do not use the word and.", forbidden_words=["and"]),
    _end,
)


def is_instruction(row):
    """Whether a dict is of IFEval's format."""
    return isinstance(row.get("prompt"), str) and isinstance(row.get("instruction_id_list"), list)


def read_instructions(path, limit, seed):
    """`Instruction`s of a file in IFEval's format; those of which a check is not known are left out with a warning.

    Args:
        path: .jsonl file, gzipped or not, whose objects have "prompt", "instruction_id_list" and "kwargs".
        limit: int, at most so many, drawn by chance.
        seed: int.

    Raises:
        ValueError: for another file.
    """
    found, left_out = [], set()
    for number, row in enumerate(read_json_lines(path), 1):
        names, kwargs = row.get("instruction_id_list"), row.get("kwargs")
        if not is_instruction(row) or not isinstance(kwargs, list) or len(kwargs) != len(names):
            raise ValueError(f'Object {number} of {path} lacks "prompt", "instruction_id_list" or "kwargs" for each.')
        if unknown := set(names) - CHECKS.keys():
            left_out |= unknown
            continue
        given = [{name: value for name, value in of_one.items() if value is not None} for of_one in kwargs]
        found.append(Instruction(row["prompt"], tuple(zip(names, given, strict=True)), (_kind(names[0]),)))
    if left_out:
        warnings.warn(
            f"Left out of {path} are instructions that cannot be checked: {', '.join(sorted(left_out))}.", stacklevel=2
        )
    return drawn_items(found, limit, seed)
