"""Our checks of instructions beside those of IFEval, as lm-evaluation-harness has them."""

import pytest

from kerasllm.evaluation.tasks.instruction_checks import CHECKS, follows, follows_loosely

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install kerasllm[harness]")
pytest.importorskip("langdetect", reason="langdetect is not installed: pip install langdetect")
pytest.importorskip("nltk", reason="nltk is not installed: pip install nltk")

pytestmark = pytest.mark.parity

ARGUMENTS = {
    "keywords:existence": [{"keywords": ["river", "sea"]}],
    "keywords:frequency": [
        {"keyword": "river", "frequency": n, "relation": r} for n in (1, 2) for r in ("less than", "at least")
    ],
    "keywords:forbidden_words": [{"forbidden_words": ["sea", "the"]}],
    "keywords:letter_frequency": [
        {"letter": "e", "let_frequency": 5, "let_relation": r} for r in ("less than", "at least")
    ],
    "length_constraints:number_words": [{"num_words": 9, "relation": r} for r in ("less than", "at least")],
    "length_constraints:number_paragraphs": [{"num_paragraphs": n} for n in (1, 2, 3)],
    "length_constraints:nth_paragraph_first_word": [
        {"num_paragraphs": 2, "nth_paragraph": n, "first_word": w} for n in (1, 2) for w in ("the", "and")
    ],
    "detectable_content:number_placeholders": [{"num_placeholders": n} for n in (1, 2)],
    "detectable_content:postscript": [{"postscript_marker": m} for m in ("P.S.", "P.P.S")],
    "detectable_format:number_bullet_lists": [{"num_bullets": n} for n in (1, 2, 3)],
    "detectable_format:constrained_response": [{}],
    "detectable_format:number_highlighted_sections": [{"num_highlights": n} for n in (1, 2)],
    "detectable_format:multiple_sections": [{"section_spliter": "Section", "num_sections": n} for n in (1, 2)],
    "detectable_format:json_format": [{}],
    "detectable_format:title": [{}],
    "combination:two_responses": [{}],
    "combination:repeat_prompt": [{"prompt_to_repeat": "Say the river."}],
    "startend:end_checker": [{"end_phrase": "The sea."}],
    "startend:quotation": [{}],
    "punctuation:no_comma": [{}],
}
ANSWERS = [
    "The river runs to the sea, and the sea waits. The river!",
    "Say the river. It ends here.\n\nAnd it goes on: the sea.",
    "the\n\n\n\nthe\n\nand 'so'",
    '"The" thing\n\n"and," it said',
    "* one\n* two\n- three\n** not one\n*a*",
    "*bold* and **bolder** and ** ** and [name] of [place]",
    "[a][b]\nP.S. This. P.P.S. That.",
    "a\np. s. no\np.p.s yes",
    "first *** second",
    "*** first *** second ***",
    "first *** *** second",
    "one****** two",
    "one ****** one",
    "****** one ****** two ******",
    "My answer is yes. No, My answer is no.",
    "Section 1 here Section 2 there",
    "Section1\nsection 2",
    '{"a": [1, 2]}',
    '```json\n{"a": 1}\n```',
    '```JSON {"a": 1}```',
    "{'a': 1}",
    "<<A title>> and text",
    "<< >> and <<>>",
    '"quoted, all of it"',
    '"',
    "It ends with the sea.",
    '"It ends with The Sea."',
    "Here it is:\n\n*the* river, the sea.\n\nIs that good?",
    "RIVER SEA",
    "   ",
    "",
]


def test_what_follows_an_instruction_there_does_here():
    from lm_eval.tasks.ifeval import utils

    seen = set()
    for name, several in ARGUMENTS.items():
        for arguments in several:
            asked = utils.InputExample(0, [name], "Say the river.", [arguments])
            for answer in ANSWERS:
                strict = utils.test_instruction_following_strict(asked, answer).follow_all_instructions
                loose = utils.test_instruction_following_loose(asked, answer).follow_all_instructions
                case = f"{name} {arguments} of {answer!r}"
                assert follows(answer, name, arguments) == strict, case
                assert follows_loosely(answer, name, arguments) == loose, case
                seen.add((name, strict))
    assert {name for name, is_met in seen if is_met} == {name for name, is_met in seen if not is_met} == set(ARGUMENTS)


def test_all_kinds_but_that_of_languages_are_known():
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    assert set(INSTRUCTION_DICT) - set(CHECKS) == {"language:response_language"}
