"""The command line for pairs of sentences: a run from two files to translations and their scores."""

import itertools
import json

import pytest
from reads import counted_reads

import kerasllm
from kerasllm.cli import main
from kerasllm.export import comparison

pytestmark = [pytest.mark.usefixtures("few_rounds"), pytest.mark.soak]
WORDS = {"the": "der", "a": "ein", "dog": "Hund", "man": "Mann", "sees": "sieht", "hears": "hört", "old": "alte"}
SMALL = ["--preset", "transformer-laptop", "--layers", "1", "--d-model", "32", "--heads", "2", "--dff", "64"]
SMALL += ["--steps", "25", "--vocab-size", "300"]


def sentences():
    """Pairs of a small bilingual grammar: word for word."""
    nouns = [f"{article} {noun}" for article in ("the", "a", "the old") for noun in ("dog", "man")]
    for subject, verb, thing in itertools.product(nouns, ("sees", "hears"), nouns):
        english = f"{subject} {verb} {thing}"
        yield english, " ".join(map(WORDS.get, english.split()))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two files to train on and a TSV to test on, of which the first two pairs are in the training files too."""
    folder = tmp_path_factory.mktemp("pairs")
    pairs = list(sentences())
    for side, name in enumerate(("train.en", "train.de")):
        (folder / name).write_text("".join(f"{pair[side]}\n" for pair in pairs[:62]), encoding="utf-8")
    test = ["\t".join(pair) + "\n" for pair in pairs[:2] + pairs[62:]]
    (folder / "test.tsv").write_text("".join(test), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    data = ["--data", str(files / "train.en"), str(files / "train.de"), "--test", str(files / "test.tsv")]
    arguments = ["train", "--task", "translate", *data, "--batch-tokens", "256", "--lr", "5e-3", "--ema", "0.9"]
    with counted_reads(files / "train.en", files / "train.de") as reads:
        assert main([*arguments, "--label-smoothing", "0.1", *SMALL, "--out", str(out)]) == 0
    assert reads == {"train.en": 1, "train.de": 1}
    return out


def test_train_records_what_it_left_out_and_how_it_scored(run, files):
    record = json.loads((run / "run.json").read_text())
    assert record["data"]["test"]["removed_from_training"] == 2
    assert record["model"]["num_layers"] == record["model"]["num_encoder_layers"] == 1
    assert record["model"]["dropout"] == 0.1  # the preset's
    assert record["data"]["train"]["pairs"] == 62 - 2 - 6  # a tenth is held out for validation
    results = record["results"]
    assert results["sentences"] == 12 and 0 <= results["bleu"]["score"] <= 100
    assert results["bleu"]["signature"].startswith("nrefs:1|case:mixed")
    rounds = json.loads((run / "log.json").read_text())["epochs"]
    assert all("val_bleu" in row for row in rounds)
    assert rounds[-1]["val_loss"] < rounds[0]["val_loss"]


def test_evaluate_finds_what_train_recorded(run, files, tmp_path, capsys):
    assert main(["evaluate", "--run", str(run), "--data", str(files / "test.tsv"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    recorded = json.loads((run / "run.json").read_text())["results"]
    assert found["bleu"]["score"] == pytest.approx(recorded["bleu"]["score"], abs=1e-6)
    out = tmp_path / "scores.json"
    assert main(["evaluate", "--run", str(run), "--data", str(files / "test.tsv"), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert json.loads(out.read_text()) == found
    assert all(label in printed for label in ("BLEU", "nrefs:1|case:mixed", "nrefs:1|case:lc"))


@pytest.mark.soak  # test_cli.py shows it of a causal model, and test_export_translator.py what is exported
def test_export_is_checked_against_the_model(run, tmp_path, capsys):
    assert main(["export", str(run), str(tmp_path / "served")]) == 0
    assert "takes text and returns text" in " ".join(capsys.readouterr().out.split())
    model, tokenizer = kerasllm.load(run)
    model.weights[1].assign(model.weights[1] + 0.1)
    with pytest.raises(ValueError, match="does not do what the model does"):
        comparison.check(model, tokenizer, tmp_path / "served")


def test_translate_writes_a_line_for_each_line(run, tmp_path, capsys):
    lines = ["the dog sees a man", "", "a man hears the old dog"]
    (tmp_path / "lines.en").write_text("\n".join(lines) + "\n")
    assert main(["translate", "--run", str(run), "--file", str(tmp_path / "lines.en"), "--beams", "2"]) == 0
    expected = kerasllm.translate(*kerasllm.load(run), lines, 2)
    assert expected[1] == ""
    assert capsys.readouterr().out.split("\n")[:-1] == expected
    assert main(["translate", "--model", str(run), "--text", lines[0], "--beams", "2"]) == 0
    assert capsys.readouterr().out == expected[0] + "\n"
    assert main(["translate", "--model", str(run), "--text", lines[0], "--target-language", "de_DE"]) == 2
    assert "The tokenizer has no token 'de_DE' for a language to write" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "train.en", "test.tsv"], "lines"),
        (["--data", "train.en", "train.de", "test.tsv"], "two text files or from one source, got 3"),
        (["--data", "train.en"], "tab"),
        (["--data", "train.en", "nowhere.de"], "nowhere.de"),
        (["--data", "test.tsv", "--valid", "test.tsv"], "to train on: each of the 12 pairs shares a sentence"),
        (["--data", "test.tsv", "--field", "en", "de"], "test.tsv, line 2 has no text in a field 'en'"),
        (["--data", "test.tsv", "--field", "en"], "field takes 2 for the task translate, not 1"),
        (["--data", "train.en", "train.de", "--context", "4"], "the model reads at most 4"),
        (["--data", "train.en", "train.de", "--batch-size", "4"], "batch_size does nothing for the task translate"),
    ],
)
def test_bad_pairs_are_one_sentence_and_leave_nothing(flags, message, files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    assert main(["train", "--task", "translate", *flags, *SMALL, "--out", "out"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("kerasllm train: ") and message in error
    assert not (files / "out").exists()
