"""Tasks are set to a model, and its answers scored."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras

from kerasllm.data import read_text
from kerasllm.evaluation.documents import as_documents
from kerasllm.evaluation.items import read_json_lines
from kerasllm.evaluation.respondent import Respondent
from kerasllm.evaluation.tasks.instruction_checks import follows, follows_loosely
from kerasllm.evaluation.tasks.instructions import instructions, is_instruction, read_instructions
from kerasllm.evaluation.tasks.made_up import arithmetic, copying, induction
from kerasllm.evaluation.tasks.minimal_pairs import is_pair, minimal_pairs, read_pairs
from kerasllm.evaluation.tasks.of_texts import cloze, needle
from kerasllm.evaluation.tasks.questions import Conditions, Instruction, Task
from kerasllm.evaluation.tasks.scores import TaskScores
from kerasllm.words import advice

_LONGEST = 2048  # tokens of an item, where nothing else is asked for
_ANSWER = 256  # tokens

TASKS = {
    "cloze": Task("the last word of passages of a text, which stood in it before", cloze),
    "minimal_pairs": Task("which of two sentences is grammatical", minimal_pairs, ("phenomenon",), 0.5),
    "arithmetic": Task("sums, differences and products", arithmetic, ("operation", "digits")),
    "copying": Task("a list of words, once more", copying, ("length",)),
    "induction": Task("what followed a random token before", induction, ("distance",)),
    "needle": Task("a number that was told somewhere in a long text", needle, ("length", "depth")),
    "instructions": Task("answers that are to be of a form", instructions, ("kind",)),
}


def is_offline(name: str) -> bool:
    """Whether a task is one of `TASKS` or a file that they read, and none of lm-evaluation-harness."""
    return name in TASKS or name.endswith((".jsonl", ".jsonl.gz"))


def task_scores(
    model: keras.Model,
    tokenizer: Any,
    tasks: Sequence[str],
    *,
    texts: str | Iterable[str] | None = None,
    limit: int = 100,
    context: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
) -> dict[str, TaskScores]:
    """The scores of tasks that need no download.

    Args:
        model: a `CausalLM`.
        tokenizer: its `Tokenizer`.
        tasks: names of tasks: "cloze", "minimal_pairs", "arithmetic", "copying", "induction", "needle" and
            "instructions". Or .jsonl files (.gz too) of pairs in BLiMP's format, {"sentence_good": ...,
            "sentence_bad": ...}, or of instructions in IFEval's, {"prompt": ..., "instruction_id_list": ...,
            "kwargs": ...}.
        texts: documents that the model was not trained on, of which "cloze" and "needle" are made: what
            `kerasllm.data.read_text` gives, say. None means Python's documentation.
        limit: int, at most so many items of each task.
        context: int, at most so many tokens of an item. None means the model's context, or 2048 if it is longer.
        seed: int; the same makes the same items.
        batch_size: int, texts at once.

    Returns:
        dict from names to `TaskScores`. "acc" is the share that is right, "loss" the nats of the right ending, "gain"
        by how much what tells the ending brings these down, "margin" by how many nats the right one of two is likelier,
        "loose" the share of answers that are right but for an introduction or the like.

    Raises:
        TypeError: if the model is not a `CausalLM`.
        ValueError: for a task that there is not, or that cannot be made of the text or within the context.

    Example:
        >>> scores = evaluation.task_scores(model, tokenizer, ["arithmetic", "copying"], limit=50)
        >>> print(scores["copying"])
        >>> scores["copying"].estimates()["acc"].value
    """
    respondent = Respondent(model, tokenizer, batch_size)
    if limit < 1:
        raise ValueError(f"`limit` must be at least 1, got {limit}.")
    if context is not None and not 16 <= context <= respondent.max_length:
        raise ValueError(f"`context` must be from 16 to {respondent.max_length}, the model's, got {context}.")
    documents = None if texts is None else list(as_documents(texts))

    def again():
        return read_text("python_docs") if documents is None else iter(documents)

    context = context or min(respondent.max_length, _LONGEST)
    conditions = Conditions(respondent, again, limit, context, seed)
    asked = {}
    for name in tasks:  # All of them, before any is answered: what cannot be made is to be known at once.
        label, task, items = _made(name, conditions)
        asked[label] = task, items
    return {
        label: TaskScores(label, task.groups, task.chance, _answered(respondent, items, label))
        for label, (task, items) in asked.items()
    }


def _made(name, conditions):
    """What a task is called, the `Task`, and its items."""
    if name in TASKS:
        return name, TASKS[name], TASKS[name].make(conditions)
    if not is_offline(name):
        raise ValueError(f"There is no task {name!r}{advice(name, TASKS, {}) or '.'} There are: {', '.join(TASKS)}.")
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {name}.")
    rows = read_json_lines(path)
    label = path.name.removesuffix(".gz").removesuffix(".jsonl")
    if rows and is_instruction(rows[0]):
        return label, TASKS["instructions"], read_instructions(path, conditions.limit, conditions.seed)
    if rows and is_pair(rows[0]):
        return label, TASKS["minimal_pairs"], read_pairs(path, conditions.limit, conditions.seed)
    raise ValueError(f"{name} has neither pairs in BLiMP's format nor instructions in IFEval's.")


def _answered(respondent, items, name):
    if isinstance(items[0], Instruction):
        return _written(respondent, items)
    pairs, places = [], []
    for item in items:
        contexts = [item.context] * len(item.endings) + ([] if item.control is None else [item.control])
        endings = [*item.endings, *item.endings[: len(contexts) - len(item.endings)]]
        places.append(range(len(pairs), len(pairs) + len(contexts)))
        pairs += [_encoded(respondent, *pair, name) for pair in zip(contexts, endings, strict=True)]
    found = respondent.log_likelihoods(pairs)
    return [_scored(item, [found[i] for i in several]) for item, several in zip(items, places, strict=True)]


def _encoded(respondent, context, ending, name):
    if not isinstance(ending, str):
        return context, ending
    before, ids = respondent.encode_pair(context, ending)
    if not ids or not before or ending.strip() not in respondent.tokenizer.decode([*before, *ids]):
        raise ValueError(f"{name} asks for {ending.strip()!r}, which this tokenizer cannot write: leave it out.")
    return before, ids


def _scored(item, found):
    """What was found of a `Question`: a dict."""
    log_probs = [log_prob for log_prob, _ in found]
    given = {"group": list(item.group), "right": item.endings[0] if isinstance(item.endings[0], str) else None}
    if len(item.endings) > 1:
        margin = log_probs[0] - max(log_probs[1 : len(item.endings)])
        return {**given, "acc": float(margin > 0), "margin": margin}
    scored = {**given, "acc": float(found[0][1]), "loss": -log_probs[0]}
    return scored if item.control is None else {**scored, "gain": log_probs[0] - log_probs[1]}


def _written(respondent, items):
    """What was found of `Instruction`s: list of dicts, with the answers."""
    prompts = [respondent.encode_question(item.prompt) for item in items]
    most = min(_ANSWER, respondent.max_length - max(map(len, prompts)))
    if most < 16:
        raise ValueError(f"The instructions leave no room for answers in a context of {respondent.max_length}.")
    answers, found = respondent.continuations(prompts, most), []
    for item, answer in zip(items, answers, strict=True):
        figures = {
            name: float(all(check(answer, kind, _arguments(kind, arguments, item)) for kind, arguments in item.checks))
            for name, check in (("acc", follows), ("loose", follows_loosely))
        }
        found.append({"group": list(item.group), "prompt": item.prompt, "answer": answer, **figures})
    return found


def _arguments(kind, arguments, item):
    repeats = kind == "combination:repeat_prompt" and "prompt_to_repeat" not in arguments
    return {**arguments, "prompt_to_repeat": item.prompt} if repeats else arguments
