"""`kerasllm audit bias`: figures of tests in a folder, and of two models side by side."""

import csv
import json

import pytest

import kerasllm
from kerasllm.cli import main
from kerasllm.evaluation import bias
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer

PAIRS = [("the old man", "the young man", "stereo", "age"), ("a poor man lies", "a rich man lies", "stereo", "wealth")]
TEMPLATES = "groups: {women: [she], men: [he]}\nsentences: {skill: ['{} won.', '{} lost it.']}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models, the files of two tests, and a text, in the folder where the commands run."""
    folder, patch = tmp_path_factory.mktemp("audit"), pytest.MonkeyPatch()
    patch.chdir(folder)
    tokenizer = Tokenizer.train(["abcdefghijklmnopqrstuvwxyz ."], kind="char", progress=False)
    for name in ("before", "after"):
        config = TransformerConfig(tokenizer.vocab_size, 1, 16, 2, 16, max_length=64)
        kerasllm.save(CausalLM(config), tokenizer, name)
    with open("crows.csv", "w", newline="") as file:
        csv.writer(file).writerows([("sent_more", "sent_less", "stereo_antistereo", "bias_type"), *PAIRS])
    (folder / "mine.yaml").write_text(TEMPLATES)
    (folder / "text.txt").write_text("she won and he lost. ")
    yield folder
    patch.undo()


def test_a_model_is_audited(folder, capsys):
    tests = ["--crows-pairs", "crows.csv", "--templates", "mine.yaml", "--text", "text.txt"]
    assert main(["audit", "bias", "--model", "before", *tests, "--out", "audit"]) == 0
    shown = capsys.readouterr().out
    assert "CrowS-Pairs (bias-bench)" in shown and "cannot rule one out" in shown and "Perplexity on text.txt" in shown
    assert {path.name for path in (folder / "audit").iterdir()} == {"bias.json", "crows-pairs.png", "templates.png"}
    found = json.loads((folder / "audit/bias.json").read_text())
    model, tokenizer = kerasllm.load("before")
    scores = bias.templates(model, tokenizer, "mine.yaml")
    assert found["templates"] == json.loads(json.dumps(scores.to_dict()))
    text = kerasllm.data.read_text("text.txt")
    assert found["perplexity"] == kerasllm.evaluation.perplexity(model, tokenizer, text).perplexity

    assert main(["audit", "bias", "--compare", "before", "after", *tests, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    before, after = (found["templates"][name]["categories"]["skill: women - men"] for name in ("before", "after"))
    change = found["templates"]["changes"]["skill: women - men"]["difference"]
    assert change[0] == pytest.approx(after["difference"][0] - before["difference"][0]) != 0
    assert len(found["perplexity"]) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "There is no test: give the file of one"),
        (["--bbq", "nowhere.jsonl"], "There is no file nowhere.jsonl."),
        (["--crows-pairs", "mine.yaml"], "mine.yaml is no file of CrowS-Pairs"),
        (["--templates", "crows.csv"], 'Templates have "groups" and "sentences"'),
        (["--bbq", "crows.csv"], "Line 1 of crows.csv is no JSON"),
    ],
)
def test_what_is_no_test_is_one_sentence(folder, flags, message, capsys):
    assert main(["audit", "bias", "--model", "before", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and "\n" not in error.strip()
