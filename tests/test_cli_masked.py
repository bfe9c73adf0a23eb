"""The command line for masked models: a run from a text to how many hidden tokens it names."""

import json

import pytest
from reads import counted_reads

import kerasllm
from kerasllm.cli import main
from kerasllm.export import comparison

pytestmark = pytest.mark.usefixtures("few_rounds")
TEXT = "one cat saw my dog near our old house\n" * 150


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masked")
    (folder / "text.txt").write_text(TEXT)
    size = ["--layers", "1", "--d-model", "32", "--heads", "2", "--dff", "64"]
    options = ["--tokenizer", "wordpiece", "--vocab-size", "100", "--context", "18", "--batch-size", "16"]
    training = ["--steps", "200", "--lr", "1e-2", "--data", str(folder / "text.txt"), "--out", str(folder / "run")]
    with counted_reads(folder / "text.txt") as reads:
        assert main(["train", "--task", "masked", *size, *options, *training]) == 0
    assert reads == {"text.txt": 2}
    return folder / "run"


def test_what_was_learned_is_recorded_and_found_again(run, capsys):
    record = json.loads((run / "run.json").read_text())
    results = record["results"]
    assert results["accuracy"] > 3 * results["baseline_accuracy"] > 0
    model, tokenizer = kerasllm.load(run)
    assert record["model"]["parameters"] == model.count_params()
    (filled,) = kerasllm.fill_mask(model, tokenizer, "one cat saw my <|mask|> near our", top_k=1)
    assert filled[0][0].strip() in TEXT.split()
    held_out = run.parent / "held-out.txt"
    held_out.write_text(TEXT[int(len(TEXT) * 0.9) :])
    capsys.readouterr()
    assert main(["evaluate", "--run", str(run), "--data", str(held_out), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures == pytest.approx({name: results[name] for name in figures}, rel=1e-6)
    assert main(["evaluate", "--run", str(run), "--data", str(held_out)]) == 0
    assert "hidden tokens named rightly" in capsys.readouterr().out


@pytest.mark.soak
def test_a_model_that_cannot_be_scored_is_kept(run, tmp_path, monkeypatch, capsys):
    def fails(*_):
        raise ValueError("nothing to score")

    monkeypatch.setattr("kerasllm.evaluation.masked_accuracy", fails)
    config = ["--config", str(run / "settings.yaml"), "--steps", "1", "--out", str(tmp_path / "run")]
    assert main(["train", *config]) == 2
    assert "nothing to score" in capsys.readouterr().err
    kerasllm.load(tmp_path / "run")


@pytest.mark.soak  # test_cli.py shows it of a causal model, and test_export_mask_filler.py what is exported
def test_export_is_checked_against_the_model(run, tmp_path):
    assert main(["export", str(run), str(tmp_path / "served")]) == 0
    model, tokenizer = kerasllm.load(run)
    model.weights[0].assign(model.weights[0][::-1])
    with pytest.raises(ValueError, match="does not do what the model does"):
        comparison.check(model, tokenizer, tmp_path / "served")


def test_what_is_for_other_models_is_refused(run, capsys):
    assert main(["evaluate", "--run", str(run), "--data", str(run.parent / "text.txt"), "--stride", "4"]) == 2
    assert "--stride is for causal models" in capsys.readouterr().err
    assert main(["generate", "--run", str(run), "--prompt", "the"]) == 2
    assert "`fill_mask` is for a MaskedLM" in capsys.readouterr().err
