"""Tasks that need no download: what they ask is right, what is counted is right, and their errors are said."""

import gzip
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from kerasllm.cli import main
from kerasllm.data import read_text
from kerasllm.evaluation.respondent import Respondent
from kerasllm.evaluation.tasks import TASKS, compare_scores, task_scores
from kerasllm.evaluation.tasks.questions import Conditions
from kerasllm.evaluation.tasks.scores import TaskScores, mcnemar_p_value
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.runs import save
from kerasllm.tokenizers import Tokenizer

NAMES = [name for name in TASKS if name != "instructions"]


@pytest.fixture(scope="module")
def respondent():
    tokenizer = Tokenizer.train(["".join(map(chr, range(32, 127))) + "\n"], kind="char")
    config = TransformerConfig(tokenizer.vocab_size, num_layers=1, d_model=16, num_heads=2, dff=16, max_length=512)
    return Respondent(CausalLM(config), tokenizer)


@pytest.fixture(scope="module")
def bytes_respondent(respondent):
    """All characters of Python's documentation have ids of it."""
    tokenizer = Tokenizer.train(["to be or not to be"], vocab_size=300, progress=False)
    config = TransformerConfig(len(tokenizer), num_layers=1, d_model=16, num_heads=2, dff=16, max_length=1600)
    return Respondent(CausalLM(config), tokenizer)


DOCUMENTS = [text[:100_000] for text in read_text("python_docs")]


def made(respondent, name, limit=40, context=1600, seed=0):
    return TASKS[name].make(Conditions(respondent, lambda: DOCUMENTS, limit, context, seed))


def test_arithmetic_is_right(respondent):
    signs = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
    questions = made(respondent, "arithmetic")
    for question in questions:
        lines = (question.context + question.endings[0]).removesuffix("\n").split("\n")
        assert len(lines) == 4
        for line in lines:
            left, result = line.split(" = ")
            a, sign, b = left.split(" ")
            assert signs[sign](int(a), int(b)) == int(result) >= 0
        assert {len(number) for number in (a, b)} == {int(question.group[1][0])} or question.group[1][0] == "1"
    assert {question.group for question in questions[:8]} == {question.group for question in questions}


def test_what_is_asked_for_was_told_before(bytes_respondent):
    for question in made(bytes_respondent, "copying"):
        assert question.context.endswith(question.endings[0])
        assert question.endings[0] not in question.control
    for question in made(bytes_respondent, "induction"):
        distance, ending = int(question.group[0].split()[0]), question.endings[0]
        assert question.context[-distance:][:1] == ending and question.context.count(ending[0]) == 1
        assert ending[0] not in question.control
    decode = bytes_respondent.tokenizer.decode
    for question in made(bytes_respondent, "needle", limit=24, context=1024):
        text, ending = decode(question.context), decode(question.endings[0])
        asked = text[text.rindex(" The secret number of") :]
        assert text.count(asked + ending) == 1 and text.count("secret number") == 2
        length, depth = (int(part.split()[0]) for part in question.group)
        assert 0 <= length - len(question.context) - len(question.endings[0]) <= 64
        if depth in (0, 100):  # the first sentence, or the last before the question
            assert text.index(asked) == (0 if depth == 0 else len(text) - len(ending) - 2 * len(asked))


def test_cloze_needs_the_passage_and_not_the_sentence_alone(bytes_respondent):
    questions = made(bytes_respondent, "cloze")
    assert len(questions) > 20
    for question in questions:
        word, sentence = question.endings[0].strip().lower(), question.control
        assert question.context.endswith(sentence)
        assert word in question.context[: -len(sentence)].lower() and len(word) > 3
        assert word not in sentence.lower().split()
        assert 50 <= len(re.findall(r"\w+", question.context[: -len(sentence)])) <= 150


@pytest.mark.parametrize("name", TASKS)
def test_a_seed_makes_the_same_items_and_another_others(bytes_respondent, name):
    items = [made(bytes_respondent, name, limit=12, seed=seed) for seed in (0, 0, 1)]
    assert items[0] == items[1] != items[2] and len(items[0]) == 12
    assert all(len(item.group) == len(TASKS[name].groups) for item in items[0])


def test_pairs_differ_and_are_said_once(respondent):
    pairs = [question.endings for question in made(respondent, "minimal_pairs", limit=200)]
    assert len(set(pairs)) == 200 and all(good != bad for good, bad in pairs)
    assert not {good for good, _ in pairs} & {bad for _, bad in pairs}


def log_likelihood(respondent, context, ending):
    """Of ids, from logits, one token after the other; and whether each is the likeliest."""
    logits = np.asarray(respondent.model(np.array([[*context, *ending]])), "float64")[0]
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    places = range(len(context) - 1, len(context) + len(ending) - 1)
    return sum(log_probs[p, i] for p, i in zip(places, ending, strict=True)), all(
        log_probs[p].argmax() == i for p, i in zip(places, ending, strict=True)
    )


def test_figures_are_those_of_the_logits(respondent):
    scores = task_scores(respondent.model, respondent.tokenizer, ["minimal_pairs", "induction"], limit=3)
    encode, prefix = respondent.encode, [respondent.prefix]
    for item, question in zip(scores["minimal_pairs"].items, made(respondent, "minimal_pairs", 3), strict=True):
        good, bad = (log_likelihood(respondent, prefix, encode(text))[0] for text in question.endings)
        assert item["margin"] == pytest.approx(good - bad, abs=1e-4) and item["acc"] == (good > bad)
    for item, question in zip(scores["induction"].items, made(respondent, "induction", 3, 512), strict=True):
        contexts = question.context, question.control
        (told, is_greedy), (untold, _) = (log_likelihood(respondent, c, question.endings[0]) for c in contexts)
        assert item["loss"] == pytest.approx(-told, abs=1e-4) and item["acc"] == is_greedy
        assert item["gain"] == pytest.approx(told - untold, abs=1e-4)


def test_who_knows_all_is_right_and_who_knows_nothing_is_not(bytes_respondent, monkeypatch):
    model, tokenizer = bytes_respondent.model, bytes_respondent.tokenizer
    for sign in (1, -1):

        def answers(self, pairs, sign=sign, **_):
            return [(-sign * n, sign == 1) for n, _ in enumerate(pairs, 1)]  # what comes first is likelier, or last

        monkeypatch.setattr(Respondent, "log_likelihoods", answers)
        for name, scores in task_scores(model, tokenizer, NAMES, texts=DOCUMENTS, limit=8, context=1024).items():
            assert scores.estimates()["acc"].value == (sign == 1), name


def scores_of(accs, losses, groups=None):
    items = zip(accs, losses, groups or [""] * len(accs), strict=True)
    items = [{"group": [group], "acc": float(acc), "loss": loss} for acc, loss, group in items]
    return TaskScores("t", ("kind",), 0.0, items)


def test_standard_errors_and_groups():
    scores = scores_of([1, 0, 1], [2.0, 3.0, 4.0], ["a", "a", "b"])
    accuracy, loss = scores.estimates().values()
    assert accuracy == pytest.approx((2 / 3, 1 / 3)) and loss == pytest.approx((3, math.sqrt(1 / 3)))
    assert scores.by_group()["a",] == (0.5, 0.5) and math.isnan(scores.by_group()["b",].error)
    of_b = json.loads(json.dumps(scores.to_dict()))["by_group"][1]
    assert of_b == {"kind": "b", "acc": {"value": 1.0, "error": None}}


def test_models_are_compared_item_by_item():
    before = scores_of([0] * 9 + [1] * 11, np.arange(20.0))
    after = scores_of([1] * 9 + [0] + [1] * 10, np.arange(20.0) - np.linspace(0.9, 1.1, 20))
    found = compare_scores(before, after)
    assert found["acc"].value == pytest.approx(0.4) and found["acc"].p_value == pytest.approx(2 * 11 / 2**10)
    assert found["loss"].value == pytest.approx(-1) and found["loss"].p_value < 1e-3
    assert found["loss"].error == pytest.approx(np.linspace(0.9, 1.1, 20).std(ddof=1) / math.sqrt(20))
    assert mcnemar_p_value(np.zeros(4), np.zeros(4)) == 1
    other = TaskScores("t", (), 0.0, [{**item, "right": "x"} for item in after.items])
    with pytest.raises(ValueError, match="not of the same items"):
        compare_scores(before, other)


def test_files_of_others_are_read(respondent, tmp_path, monkeypatch):
    rows = [
        {"sentence_good": f"The cat sits {n}.", "sentence_bad": f"The cat sit {n}.", "UID": "verbs"} for n in range(5)
    ]
    pairs = tmp_path / "pairs.jsonl.gz"
    pairs.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    ifeval = tmp_path / "ifeval.jsonl"
    row = {"prompt": "Say it.", "instruction_id_list": ["punctuation:no_comma", "combination:repeat_prompt"]}
    row["kwargs"] = [{"num_words": None}, {"prompt_to_repeat": "Say it."}]
    other = {**row, "instruction_id_list": ["language:response_language"], "kwargs": [{"language": "de"}]}
    ifeval.write_text("\n".join(map(json.dumps, [row, other])))
    answers = []
    monkeypatch.setattr(Respondent, "continuations", lambda self, prompts, most: answers)
    for answer, strict, loose in (
        *(("Say it. Now", 1, 1), ("Say it, now", 0, 0)),
        *(("Sure:\nSay it. Now", 0, 1), ("", 0, 0)),
    ):
        answers[:] = [answer]
        with pytest.warns(UserWarning, match="response_language"):
            found = task_scores(respondent.model, respondent.tokenizer, [str(ifeval)])["ifeval"].items[0]
        assert (found["acc"], found["loose"], found["answer"]) == (strict, loose, answer)
    scores = task_scores(respondent.model, respondent.tokenizer, [str(pairs)], limit=3)["pairs"]
    assert len(scores.items) == 3 and scores.groups == ("phenomenon",) and scores.chance == 0.5
    (tmp_path / "none.jsonl").write_text('{"text": "a"}')
    with pytest.raises(ValueError, match="neither pairs in BLiMP's format nor instructions"):
        task_scores(respondent.model, respondent.tokenizer, [str(tmp_path / "none.jsonl")])


def test_what_cannot_be_asked_is_refused(respondent, bytes_respondent):
    letters = Tokenizer.train(["abc "], kind="char")
    config = TransformerConfig(letters.vocab_size, num_layers=1, d_model=16, num_heads=2, dff=16, max_length=64)
    for (model, tokenizer), name, options, words in (
        ((CausalLM(config), letters), "arithmetic", {}, "asks for '.*', which this tokenizer cannot write"),
        ((respondent.model, respondent.tokenizer), "arithmetics", {}, "Did you mean `arithmetic`"),
        ((respondent.model, respondent.tokenizer), "cloze", {"texts": "too short."}, "no passage in this text"),
        ((respondent.model, respondent.tokenizer), "needle", {"texts": "too short."}, "twenty sentences"),
        ((respondent.model, respondent.tokenizer), "copying", {"context": 1000}, "from 16 to 512"),
        ((respondent.model, respondent.tokenizer), "copying", {"limit": 0}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            task_scores(model, tokenizer, [name], **options)


@pytest.fixture(scope="module")
def run(respondent, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    save(respondent.model, respondent.tokenizer, folder)
    return str(folder)


def test_the_command_prints_writes_and_draws(run, tmp_path, capsys, monkeypatch):
    answers = [(-1.0, n % 3 > 0) for n in range(12)]
    monkeypatch.setattr(Respondent, "log_likelihoods", lambda self, pairs: answers[: len(pairs)])
    out, plot, both, other = (str(tmp_path / name) for name in ("out.json", "plot.png", "both.png", "other"))
    shutil.copytree(run, other)
    asked = ["--tasks", "arithmetic", "copying", "--limit", "6"]
    assert main(["evaluate", "--model", run, *asked, "--out", out, "--plot", plot]) == 0
    shown = capsys.readouterr().out
    assert "arithmetic: acc of 6" in shown and "0.667 ± 0.211" in shown
    found = json.loads(Path(out).read_text())
    assert found.keys() == {"arithmetic", "copying"} and len(found["copying"]["items"]) == 6
    assert main(["evaluate", "--compare", run, other, *asked, "--json", "--plot", both]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["differences"]["copying"]["loss"]
    assert (found["value"], found["p_value"], found["p_holm"]) == (0, 1, 1)
    assert all(Path(name).read_bytes().startswith(b"\x89PNG") for name in (plot, both))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tasks", "cloze", "--chat"], "--chat does nothing for cloze"),
        (["--tasks", "hellaswag", "--plot", "a.png"], "--plot is for tasks that need no download"),
        (["--tasks", "cloze", "--plot", "a.jpg"], "takes the name of a .png file"),
        (["--tasks", "cloze", "--stride", "4"], "--stride is for --data"),
        (["--data", "python_docs", "--limit", "4"], "--limit is for --tasks"),
        (["--tasks", "copying", "--checkpoints"], "has no checkpoints"),
    ],
)
def test_flags_that_do_nothing_are_refused(run, arguments, words, capsys):
    assert main(["evaluate", "--model", run, *arguments]) == 2
    assert words in capsys.readouterr().err
