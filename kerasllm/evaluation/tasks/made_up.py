"""Tasks that need no text: arithmetic, copying of lists, and induction over random tokens."""

import numpy as np

from kerasllm.evaluation.tasks.questions import Question

_EXAMPLES = 3  # before each question
_SIGNS = {"plus": "+", "minus": "-", "times": "*"}
_DIGITS = {"plus": (1, 2, 3), "minus": (1, 2, 3), "times": (1, 2)}
_LISTS = (2, 4, 8, 16)
_WORDS = """
apple bread chair cloud copper doctor eagle field finger flower garden glass grain hammer harbour honey island jacket
kettle ladder lemon letter marble market meadow mirror mountain needle ocean orange paper pencil pepper planet pocket
rabbit river saddle salad shadow silver spider stone summer sugar table ticket tiger timber tunnel valley velvet violin
wagon water wheel window winter yellow zebra
"""
_DISTANCES = (8, 32, 128, 512)


def arithmetic(conditions):
    """Sums, differences and products behind three that are worked out, by how many digits the numbers have."""
    rng = np.random.default_rng(conditions.seed)
    kinds = [(name, digits) for name, several in _DIGITS.items() for digits in several]
    questions = []
    for number in range(conditions.limit):
        name, digits = kinds[number % len(kinds)]
        *examples, asked = (_calculation(rng, name, digits) for _ in range(_EXAMPLES + 1))
        context = "".join(f"{left} = {result}\n" for left, result in examples) + f"{asked[0]} ="
        # The end of the line is asked for too: else 1 were right where 12 is.
        questions.append(Question(context, (f" {asked[1]}\n",), (name, f"{digits}-digit")))
    return questions


def _calculation(rng, name, digits):
    a, b = (int(x) for x in rng.integers(0 if digits == 1 else 10 ** (digits - 1), 10**digits, 2))
    if name == "minus":
        a, b = max(a, b), min(a, b)
    return f"{a} {_SIGNS[name]} {b}", {"plus": a + b, "minus": a - b, "times": a * b}[name]


def copying(conditions):
    """Lists of words, each written twice; the third is asked for once more, whole. By how many words it has."""
    rng = np.random.default_rng(conditions.seed)
    questions = []
    for number in range(conditions.limit):
        length = _LISTS[number % len(_LISTS)]
        *examples, last = (", ".join(rng.permutation(_WORDS.split())[:length]) for _ in range(3))
        shown = "".join(f"{example}\n{example}\n" for example in examples)
        questions.append(Question(f"{shown}{last}\n", (f"{last}\n",), (f"{length} words",), control=shown))
    return questions


def induction(conditions):
    """Random tokens, and their beginning again: which comes next? By how far back it stood.

    What the circuit of Olsson et al. 2022 (https://arxiv.org/abs/2209.11895) does; no knowledge of a language helps.
    """
    rng = np.random.default_rng(conditions.seed)
    tokenizer = conditions.respondent.tokenizer
    ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), list(tokenizer.engine.get_added_tokens_decoder()))
    start = conditions.respondent.encode("")
    possible = [d for d in _DISTANCES if len(start) + 1.5 * d + 1 <= conditions.context and d <= len(ordinary)]
    if not possible:
        raise ValueError(
            f"induction needs a context of {int(1.5 * _DISTANCES[0]) + 2} tokens or more, and as many ids."
        )
    questions = []
    for number in range(conditions.limit):
        distance = possible[number % len(possible)]
        first = rng.permutation(ordinary)[:distance].tolist()
        again = first[: distance // 2]
        ending = first[distance // 2 : distance // 2 + 1]
        group = (f"{distance} tokens",)
        questions.append(Question([*start, *first, *again], (ending,), group, control=[*start, *again]))
    return questions
