"""Answers compared by a judge: what the order does is seen, and strengths are those that made the wins."""

import numpy as np
import pytest

from kerasllm.cli import main
from kerasllm.evaluation import bradley_terry, judge_answers
from kerasllm.evaluation.respondent import Respondent
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.runs import save
from kerasllm.tokenizers import Tokenizer

PROMPTS = ["Why?", "How?", "When?", "Where?"]
ANSWERS = {"long": ["because of it"] * 4, "short": ["it"] * 4, "mixed": ["it", "it", "it is so, all in all", "it"]}


@pytest.fixture(scope="module")
def judge():
    tokenizer = Tokenizer.train(["".join(map(chr, range(32, 127))) + "\n"], kind="char")
    config = TransformerConfig(tokenizer.vocab_size, num_layers=1, d_model=16, num_heads=2, dff=16, max_length=1024)
    return CausalLM(config), tokenizer


def judging(monkeypatch, tokenizer, name):
    """Has judges name one of A, B and C by what `name` makes of the two answers."""

    def log_likelihoods(self, pairs):
        found = []
        for context, ending in pairs:
            text = tokenizer.decode(context)
            a, b = (part.split("\n\n")[0] for part in text.partition("Answer A:\n")[2].split("Answer B:\n"))
            found.append((0.0 if tokenizer.decode(ending) == name(a, b) else -1.0, False))
        return found

    monkeypatch.setattr(Respondent, "log_likelihoods", log_likelihoods)


def test_the_longer_answer_wins_where_a_judge_likes_length(judge, monkeypatch):
    judging(monkeypatch, judge[1], lambda a, b: "C" if len(a) == len(b) else "A" if len(a) > len(b) else "B")
    scores = judge_answers(*judge, PROMPTS, ANSWERS)
    assert [scores.record(model) for model in ANSWERS] == [(7, 0, 1), (0, 3, 5), (2, 3, 3)]
    assert scores.consistency == 1 and scores.first_shown == 0.5
    assert sorted(ANSWERS, key=lambda model: scores.strengths[model].value) == ["short", "mixed", "long"]
    assert all(low <= value <= high for value, low, high in scores.strengths.values())


def test_a_judge_that_looks_at_the_order_alone_is_seen(judge, monkeypatch):
    judging(monkeypatch, judge[1], lambda a, b: "A")
    scores = judge_answers(*judge, PROMPTS, ANSWERS)
    assert {verdict.score for verdict in scores.verdicts} == {0.5}
    assert scores.consistency == 0 and scores.first_shown == 1
    assert all(strength.value == pytest.approx(0) for strength in scores.strengths.values())


def test_strengths_are_those_that_made_the_wins():
    true, generator = {"a": 0.9, "b": 0.1, "c": -1.0}, np.random.default_rng(0)
    games = []
    for prompt in range(400):
        for one, other in ("ab", "bc", "ca"):
            odds = 1 / (1 + np.exp(true[other] - true[one]))
            games.append(((one, other), float(generator.random() < odds), prompt))
    found = bradley_terry(games)
    for model, strength in true.items():
        assert found[model].value == pytest.approx(strength, abs=0.15)
        assert found[model].low < strength < found[model].high
        assert 0.1 < found[model].high - found[model].low < 0.5
    both = bradley_terry([(("a", "b"), 1, 0), (("a", "b"), 0.5, 1)])  # two wins to one, with the tie that is added
    assert both["a"].value == pytest.approx(np.log(2) / 2) and both["b"].value == -both["a"].value
    with pytest.raises(ValueError, match="not compared with the others"):
        bradley_terry([(("a", "b"), 1, 0), (("c", "d"), 1, 0)])


def test_the_command(judge, tmp_path, capsys, monkeypatch):
    folders = [str(tmp_path / name) for name in ("one", "other")]
    for folder in folders:
        save(*judge, folder)
    (tmp_path / "questions.txt").write_text("Why?\nHow?\n")
    judging(monkeypatch, judge[1], lambda a, b: "A" if len(a) > len(b) else "B")
    monkeypatch.setattr(Respondent, "continuations", lambda self, prompts, most: ["it"] * len(prompts))
    asked = ["evaluate", "--compare", *folders, "--data", str(tmp_path / "questions.txt")]
    assert main([*asked, "--judge", folders[0]]) == 0
    assert "0 won, 2 tied, 0 lost" in capsys.readouterr().out.replace("\n", "")
    assert main(asked) == 2 and "--compare takes --tasks, or --judge" in capsys.readouterr().err
